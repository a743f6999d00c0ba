"""What the SLURM jobs of this store do.

mlflow run . -e status
"""

from papertrail.cluster.commands import STATUS
from papertrail.core.question.cli import launch

if __name__ == "__main__":
    launch(STATUS)
