"""Ask a model of the world study one of fifteen sets of questions, greedily.

mlflow run . -e world_evaluate -P evaluate.on=atlantis_angle -P mix.tasks='[angle]'
"""

from papertrail.core.question.cli import launch
from papertrail.world.config import WORLD_EVALUATE

if __name__ == "__main__":
    launch(WORLD_EVALUATE)
