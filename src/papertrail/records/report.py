"""What a person sees at the end: the answer's headline or table, and where to look at the run."""

import os
from typing import Any

from papertrail.core import progress
from papertrail.core.answering import elsewhere, joining, launch
from papertrail.core.answering.joining import PARENT
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Experiment, Question, load
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.records import explain, radius


def answer(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Get the result of `experiment` under `config`, however it is to be had, and show it.

    Where it has to be computed, first say what stands instead: hours may follow.
    """
    if execution.mode == "reuse" and PARENT not in os.environ:
        with in_one_line():
            _before_computing(experiment, config, connect())
    show(experiment, config, execution)


def show(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Get the result, show it, and say where to look at it."""
    with in_one_line():
        store = connect()
        # Ours alone: a child process that inherited it would write into, and end, our run.
        joined = os.environ.pop("MLFLOW_RUN_ID", None)
        with launch.chosen(execution), joining.ended(store, joined):
            mode = launch.sent_away(Question(experiment, config), store, execution)
            record = require(experiment, config, mode, store, joined)
        elsewhere.answered(record)
    load(experiment.show)(record, config)
    print(f"\nrun {record.run_id}  {record.url}")
    if command := store.ui_command():
        print(f"open it with: {command}")


def _before_computing(experiment: Experiment, config: Any, store: Store) -> None:
    """Where nothing stands: what a raised revision voids, and what the nearest run asked."""
    found = standing(experiment, config, store)
    if found.state in ("missing", "blocked"):
        radius.confirm_raise(experiment, config, store)
        if progress.WORKER not in os.environ:  # one of many, of which whoever asks for them speaks
            explain.on_a_miss(experiment, config, found, store)


def headline(record: Record, config: Any) -> None:
    """The metrics that a run ends with, system metrics aside."""
    for key, value in sorted(record.metrics.items()):
        if not key.startswith("system/") and key not in ("progress", "eta_seconds"):
            print(f"{key:<40} {value:.6g}")
    if record.failed_gates:
        progress.say(f"failed gates: {record.failed_gates}")
