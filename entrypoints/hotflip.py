"""Train a baseline and a monotone model, attack both with HotFlip, and print the table.

mlflow run . -e hotflip -P attack.flips=10
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import HOTFLIP

if __name__ == "__main__":
    launch(HOTFLIP)
