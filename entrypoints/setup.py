"""Is everything there that the monotone study needs, and how long will it take?

mlflow run . -e setup -P scale=paper
mlflow run . -e setup -P scale=paper -P fetch=true
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.setup import SETUP

if __name__ == "__main__":
    launch(SETUP)
