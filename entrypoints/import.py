"""Read the runs of an archive into the store, where they answer as where they were computed.

mlflow run . -e import -P folder=paper/archive
"""

from papertrail.core.question.cli import launch
from papertrail.records.commands import IMPORT

if __name__ == "__main__":
    launch(IMPORT)
