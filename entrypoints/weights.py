"""Measure weights and activations of one trained model.

mlflow run . -e weights -P constraint.kind=none
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import STATISTICS

if __name__ == "__main__":
    launch(STATISTICS)
