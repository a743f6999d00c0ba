"""Score a trained model on held-out documents.

mlflow run . -e perplexity -P perplexity.stride=64
"""

from papertrail.core.question.cli import launch
from papertrail.monotone.config import PERPLEXITY

if __name__ == "__main__":
    launch(PERPLEXITY)
