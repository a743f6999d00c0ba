"""Send what runs left on disk while their store was away, in order; whoever still computes is left.

mlflow run . -e sync -P plan=true
mlflow run . -e sync
"""

from papertrail.core.question.cli import launch
from papertrail.records.commands import SYNC

if __name__ == "__main__":
    launch(SYNC)
