"""Write the runs of a study, with everything that they are built on, into a folder with digests.

mlflow run . -e export -P study=monotone -P folder=paper/archive
"""

from papertrail.core.question.cli import launch
from papertrail.records.commands import EXPORT

if __name__ == "__main__":
    launch(EXPORT)
