"""run.tracking: the store of one command, whatever the environment says.

`mlflow run` opens its run before it calls us, maybe in another store. That run then ends with a
pointer to where the result is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from papertrail.core import progress
from papertrail.core.answering.joining import NOWHERE
from papertrail.core.errors import BadInput, Interrupted, Missing, in_a_line, without_password
from papertrail.core.project import ROOT
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import DATABASE, Store, connect, in_one_line, tracking_uri
from papertrail.core.writing.run import shortened

LOCAL = "local"
ADDRESS, RUN, GROUP_ID, GROUP = (
    "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"
)  # fmt: skip
_ANSWERS: list[Record] = []


def address(tracking: str) -> str:
    """Of the store that `tracking` names: `local` is the one beside the code."""
    return f"sqlite:///{ROOT / DATABASE}" if tracking == LOCAL else tracking


def answered(record: Record) -> None:
    """Note which run answered the command."""
    _ANSWERS.append(record)


@contextmanager
def kept_in(tracking: str) -> Iterator[None]:
    """While the block lasts, the environment names the store `tracking`; empty changes nothing."""
    before, wanted, kept = tracking_uri(), address(tracking), os.environ.copy()
    if not tracking or wanted == before:
        yield
        return
    joined, group = os.environ.pop(RUN, None), os.environ.pop(GROUP_ID, None)
    _ANSWERS.clear()
    status = "FINISHED"
    try:
        if group and group != NOWHERE:  # ids are of one store, names of all
            with in_one_line():
                os.environ[GROUP] = str(connect(before).client.get_experiment(group).name)
        os.environ[ADDRESS] = wanted
        yield
    except BaseException as error:
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        status = "KILLED" if stopped else "FAILED"
        raise
    finally:
        for name in (ADDRESS, RUN, GROUP_ID, GROUP):
            os.environ.pop(name, None)
            os.environ |= {name: kept[name]} if name in kept else {}
        if joined:
            _point(before, joined, Store(wanted, ROOT).shown, status)


def _point(opened_in: str, joined: str, place: str, status: str) -> None:
    """End the run that `mlflow run` opened, saying where the result is."""
    found = _ANSWERS[-1] if _ANSWERS else None
    note = f"Kept in {place}, as run.tracking said"
    tags = {"mlflow.note.content": f"{note}."}
    if found:
        tags["mlflow.note.content"] = f"{note}: [run {found.run_id}]({found.url})."
        tags["papertrail.answered_by"] = found.run_id
        tags["mlflow.runName"] = f"{found.run.info.run_name} (elsewhere)"
    entities = [RunTag(key, shortened(text)) for key, text in tags.items()]
    try:
        store = connect(opened_in)
        store.client.log_batch(joined, tags=entities)
        store.client.set_terminated(joined, status)
    except (MlflowException, BadInput, Missing, OSError) as error:
        progress.say(
            f"run {joined} in {without_password(opened_in)} could not be ended ({in_a_line(error)})"
        )
