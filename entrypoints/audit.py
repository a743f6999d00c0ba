"""Compute random cells of a table again, apart from the store, and compare them with what stands.

mlflow run . -e audit -P table=attack_success -P cells=5
"""

from papertrail.tables.auditing import main

if __name__ == "__main__":
    main()
