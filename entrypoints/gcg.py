"""Attack one arm with greedy coordinate gradient, without a budget of flips.

mlflow run . -e gcg -P gcg.steps=200 -P constraint.kind=none
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import GCG

if __name__ == "__main__":
    launch(GCG)
