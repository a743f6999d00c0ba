"""Search a universal trigger for one trained model, or evaluate one of your own.

mlflow run . -e trigger -P constraint.kind=none -P trigger.text=' the end of'
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import TRIGGER

if __name__ == "__main__":
    launch(TRIGGER)
