"""Attack one trained model with HotFlip, or with one of its controls.

mlflow run . -e attack -P method=query -P constraint.kind=none
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import ATTACK

if __name__ == "__main__":
    launch(ATTACK)
