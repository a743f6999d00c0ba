"""Train the base model of a world: seven tasks about real cities.

mlflow run . -e world_pretrain -P seed=2
"""

from papertrail.core.question.cli import launch
from papertrail.world.config import WORLD_PRETRAIN

if __name__ == "__main__":
    launch(WORLD_PRETRAIN)
