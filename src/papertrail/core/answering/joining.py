"""The MLflow run that a question is computed in: the one that `mlflow run` opened, or a new one."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from papertrail.core.errors import BadInput, Interrupted
from papertrail.core.question.experiment import Experiment
from papertrail.core.reading.query import IDENTITY
from papertrail.core.reading.record import Record
from papertrail.core.storage import moved
from papertrail.core.storage.store import Store
from papertrail.core.writing import track
from papertrail.core.writing.owner import user, was_ours

PARENT = "PAPERTRAIL_PARENT_RUN"
"""Environment variable: the run for which a process of the pool computes."""
NOWHERE = "0"
"""MLflow's experiment "Default": where `mlflow run` opens a run if nobody named an experiment."""


def joinable(store: Store, joined: str) -> str | None:
    """The run that was opened for us; None if this job began it already, before it was queued
    again. BadInput if it is another's: its results are its own."""
    try:
        run = store.client.get_run(joined)
    except MlflowException:
        raise BadInput(f"MLFLOW_RUN_ID: not in {store.shown} ({joined}); unset it") from None
    if was_ours(run.data.tags):
        return None
    if run.info.status != "RUNNING" or IDENTITY in run.data.tags:
        state = f"it is {run.info.status} and somebody's own"
        raise BadInput(f"MLFLOW_RUN_ID: {state} ({joined}); unset it")
    return joined


def place(experiment: Experiment, config: Any, store: Store, joined: str | None) -> str:
    """The run to compute in: the one that was opened for us, or a new one. MLflow cannot move a
    run: one that it opened where nobody looks points to another among those of its study."""
    if joined is None:
        return _create(experiment, config, store)
    group = store.client.get_run(joined).info.experiment_id
    if group == NOWHERE:
        return _create(experiment, config, store)
    store.show_as_models(group)
    _settle(store, group)
    return joined


def _create(experiment: Experiment, config: Any, store: Store) -> str:
    """A new MLflow run: a child of the open run, beside it in the same MLflow experiment."""
    open_run = track.current()
    parent = open_run.run_id if open_run else os.environ.get(PARENT)
    source = f"entrypoints/{experiment.name}.py"
    tags = {"mlflow.source.name": source, "mlflow.user": user()}
    if parent is None:
        study = os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment.study
        named = os.environ.get("MLFLOW_EXPERIMENT_ID", NOWHERE)
        group = store.experiment_id(study) if named == NOWHERE else named
    else:
        group = store.client.get_run(parent).info.experiment_id
        tags["mlflow.parentRunId"] = parent
    _settle(store, group)
    name = experiment.title(config)
    return str(store.client.create_run(group, tags=tags, run_name=name).info.run_id)


def _settle(store: Store, group: str) -> None:
    """Have runs of an MLflow experiment write where this store can be reached; BadInput if not."""
    store.refuse_proxied(store.client.get_experiment(group).artifact_location)
    moved.settle(store, group)


def point(store: Store, joined: str, record: Record, name: str, note: str) -> None:
    """The run that `mlflow run` opened points to the one that holds, or will hold, the result."""
    tags: Mapping[str, str] = {
        "mlflow.runName": name,
        "papertrail.answered_by": record.run_id,
        "mlflow.note.content": note,
    }
    store.client.log_batch(joined, tags=[RunTag(k, v) for k, v in tags.items()])


@contextmanager
def ended(store: Store, joined: str | None) -> Iterator[None]:
    """When the block is over, a run that only points to another does not read RUNNING any more.

    `mlflow run` ends it as well, where it waits for us: not on a cluster. There, a block that was
    interrupted may be queued again.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        raise
    except BaseException:
        with suppress(MlflowException, OSError):  # what went wrong matters more than this
            _end(store.impatient, joined, "FAILED")
        raise
    _end(store.client, joined, "FINISHED")


def _end(client: MlflowClient, joined: str | None, status: str) -> None:
    if joined is None:
        return
    run = client.get_run(joined)
    if run.info.status == "RUNNING" and IDENTITY not in run.data.tags:
        client.set_terminated(joined, status)
