"""Continue a pretrained model, with or without non-negative feed-forward weights.

mlflow run . -e train -P constraint.kind=none -P seed=1337
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import TRAIN

if __name__ == "__main__":
    launch(TRAIN)
