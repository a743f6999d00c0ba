"""Void a run and all that was built on it, with a reason that is kept.

mlflow run . -e invalidate -P run=ID -P reason="trained on the test split"
"""

from papertrail.core.question.cli import launch
from papertrail.records.commands import INVALIDATE

if __name__ == "__main__":
    launch(INVALIDATE)
