"""Train the small model from scratch.

mlflow run . -e pretrain -P pretrain.steps=2000
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import PRETRAIN

if __name__ == "__main__":
    launch(PRETRAIN)
