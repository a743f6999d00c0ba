"""Draw the cities and the rows that every model of the world study learns from or is asked.

mlflow run . -e world_data -P world.cities=100
"""

from papertrail.core.question.cli import launch
from papertrail.world.config import WORLD_DATA

if __name__ == "__main__":
    launch(WORLD_DATA)
