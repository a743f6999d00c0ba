"""Read a world map off a model's representations of cities.

mlflow run . -e world_represent -P represent.layer=1 -P mix.tasks='[angle]'
"""

from papertrail.core.question.cli import launch
from papertrail.world.config import WORLD_REPRESENT

if __name__ == "__main__":
    launch(WORLD_REPRESENT)
