"""Put texts that HotFlip made on one model before another.

mlflow run . -e transfer -P source.kind=none
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import TRANSFER

if __name__ == "__main__":
    launch(TRANSFER)
