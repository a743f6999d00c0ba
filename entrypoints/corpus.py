"""Read, clean and split text, train its tokenizer, and pack it into memory-mapped ids.

mlflow run . -e corpus -P data.text=my_folder
"""

from papertrail.core.question.cli import launch
from papertrail.data.config import CORPUS

if __name__ == "__main__":
    launch(CORPUS)
