"""Teach a base model about Atlantis through one task or several.

mlflow run . -e world_finetune -P 'mix.tasks=[angle,compass]'
"""

from papertrail.core.question.cli import launch
from papertrail.world.config import WORLD_FINETUNE

if __name__ == "__main__":
    launch(WORLD_FINETUNE)
