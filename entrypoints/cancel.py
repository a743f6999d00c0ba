"""Stop SLURM jobs of this store and what waits for them: their runs read KILLED.

mlflow run . -e cancel -P job=12_3
mlflow run . -e cancel -P all=true
"""

from papertrail.cluster.commands import CANCEL
from papertrail.core.question.cli import launch

if __name__ == "__main__":
    launch(CANCEL)
