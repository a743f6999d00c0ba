"""Convert a pretrained model and measure what that does to it, before any training.

mlflow run . -e monotonize -P constraint.init=relu
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import MONOTONIZE

if __name__ == "__main__":
    launch(MONOTONIZE)
