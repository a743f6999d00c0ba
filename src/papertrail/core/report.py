"""What a person sees at the end: the answer's headline or table, and where to look at the run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mlflow.exceptions import MlflowException

from papertrail.core import explain, launch, progress, radius
from papertrail.core.cli import Execution
from papertrail.core.errors import Missing, in_a_line
from papertrail.core.experiment import Experiment, load
from papertrail.core.query import Record
from papertrail.core.require import PARENT, require
from papertrail.core.standing import standing
from papertrail.core.store import Store, connect, tracking_uri


def answer(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Get the result of `experiment` under `config`, however it is to be had, and show it."""
    with in_one_line():
        store = connect()
        # Ours alone: a child process that inherited it would write into, and end, our run.
        joined = os.environ.pop("MLFLOW_RUN_ID", None)
        if execution.mode == "reuse" and PARENT not in os.environ:
            _before_computing(experiment, config, store)
        with launch.pool(execution.workers):
            record = require(experiment, config, execution.mode, store, joined)
    load(experiment.show)(record, config)
    print(f"\nrun {record.run_id}  {record.url}")
    if command := store.ui_command():
        print(f"open it with: {command}")


@contextmanager
def in_one_line() -> Iterator[None]:
    """Failures that are no bug of ours as Missing: a full disk, a store that may not be written,
    a file that is gone, a verb that left the process. The run keeps their traceback."""
    try:
        yield
    except (MlflowException, OSError) as error:
        kept = "; ".join(error.__notes__[:1]) if hasattr(error, "__notes__") else "nothing was kept"
        raise Missing(f"{in_a_line(error)} (store {tracking_uri()}); {kept}") from error
    except SystemExit as error:
        raise Missing(f"no result: its code left the process by exit({error.code})") from error


def _before_computing(experiment: Experiment, config: Any, store: Store) -> None:
    """Where nothing stands: what a raised revision voids, and what the nearest run asked."""
    found = standing(experiment, config, store)
    if found.state in ("missing", "blocked"):
        radius.confirm_raise(experiment, config, store)
        explain.on_a_miss(experiment, config, found, store)


def headline(record: Record, config: Any) -> None:
    """The metrics that a run ends with, system metrics aside."""
    for key, value in sorted(record.metrics.items()):
        if not key.startswith("system/") and key not in ("progress", "eta_seconds"):
            print(f"{key:<40} {value:.6g}")
    if record.failed_gates:
        progress.say(f"failed gates: {record.failed_gates}")
