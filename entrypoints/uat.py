"""Search universal triggers for the baseline and the monotone model, and swap them.

mlflow run . -e uat -P trigger.length=8
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import UAT

if __name__ == "__main__":
    launch(UAT)
