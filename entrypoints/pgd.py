"""Attack one arm in embedding space, by projected gradient ascent.

mlflow run . -e pgd -P pgd.norm=linf -P constraint.kind=none
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import PGD

if __name__ == "__main__":
    launch(PGD)
