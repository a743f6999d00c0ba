"""Draw a paper table from the runs that stand, or say which are missing and compute them.

mlflow run . -e tables -P name=perplexity_gap -P plan=true
"""

from papertrail.tables.main import main

if __name__ == "__main__":
    main()
