"""The whole monotone study for a list of seeds, aggregated.

mlflow run . -e monotone -P seeds=[42,1337]
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import MONOTONE

if __name__ == "__main__":
    launch(MONOTONE)
