"""Why is this run not reused, or what stands under these options?

mlflow run . -e why -P run=ID
mlflow run . -e why -P experiment=train -P seed=7
"""

from papertrail.records.commands import why

if __name__ == "__main__":
    why()
