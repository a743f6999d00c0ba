"""A tracking server on PostgreSQL and S3, on this machine, until Ctrl-C.

mlflow run . -e server --env-manager local      # or: make server
mlflow run . -e server -P port=5001 -P auth=true
"""

from papertrail.core.question.cli import launch
from papertrail.server.config import SERVER

if __name__ == "__main__":
    launch(SERVER)
