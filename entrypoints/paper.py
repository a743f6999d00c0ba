"""Write the numbers of a LaTeX paper from the runs that stand, or verify that it prints them.

mlflow run . -e paper -P tex=PATH -P verify=true
"""

from papertrail.core.question.cli import launch
from papertrail.tables.papers import PAPER

if __name__ == "__main__":
    launch(PAPER)
