"""Try an experiment under many configs, each a run of its own, and find the best.

mlflow run . -e sweep -P target=train -P sweep=lr -P trials=30
"""

from papertrail.sweep.config import main

if __name__ == "__main__":
    main()
