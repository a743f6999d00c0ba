"""Keep results although the code behind them changed, with the reason why they are the same.

mlflow run . -e accept -P experiment=train -P reason="renamed a variable"
"""

from papertrail.core.question.cli import launch
from papertrail.records.commands import ACCEPT

if __name__ == "__main__":
    launch(ACCEPT)
