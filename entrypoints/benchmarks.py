"""Score one arm on LAMBADA, HellaSwag, Winogrande and TruthfulQA.

mlflow run . -e benchmarks -P constraint.kind=none
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import BENCHMARKS

if __name__ == "__main__":
    launch(BENCHMARKS)
