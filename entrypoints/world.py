"""The world study: base model, specialists and pairs, fifteen evaluations of each, and the tables.

mlflow run . -e world -P plan=true
"""

from papertrail.core.question.cli import launch
from papertrail.world.config import WORLD

if __name__ == "__main__":
    launch(WORLD)
