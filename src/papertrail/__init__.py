"""A laboratory for machine-learning papers: every number is an MLflow run, every table a query."""

import os

# Before mlflow is imported anywhere: no call home, and no notice about it, from a run.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# Threads that spin while they wait make a step on a busy machine twelve times slower (LOG.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Two threads of a tokenizer forked into two of a loader print a warning for each batch.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
