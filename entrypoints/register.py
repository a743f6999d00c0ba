"""Give a trained model a name that lasts: models:/NAME@ALIAS.

mlflow run . -e register -P experiment=train -P seed=42
"""

from papertrail.records.commands import register

if __name__ == "__main__":
    register()
