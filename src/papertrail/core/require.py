"""The only way to a result: reuse the usable run, resume the interrupted one, or compute it.

One process computes an identity; others wait at its claim and read. The claim is a lock of the
kernel, so the death of its owner frees it, and nobody ever deletes a lock file by hand. A run of
another machine is waited for as long as it gives signs of life.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import Timeout
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from papertrail.core import cli, heartbeat, horizon, moved, parts, progress, query, track
from papertrail.core.cli import Mode
from papertrail.core.errors import BadInput, Missing
from papertrail.core.experiment import Experiment
from papertrail.core.identity import Identity
from papertrail.core.owner import Owner, user
from papertrail.core.query import IDENTITY
from papertrail.core.record import Record
from papertrail.core.run import COMPLETE, INVALIDATED, Run
from papertrail.core.standing import Standing, drifted, standing
from papertrail.core.store import Store, connect

PARENT = "PAPERTRAIL_PARENT_RUN"
"""Environment variable: the run for which a process of the pool computes."""
POLL_SECONDS = 1.0


def require(
    experiment: Experiment,
    config: Any,
    mode: Mode = "reuse",
    store: Store | None = None,
    joined: str | None = None,
) -> Record:
    """The usable run of `experiment` under `config`, computed here if there is none.

    Called inside another run, the result becomes its child and its upstream. `joined` is a run
    that somebody opened for us (`mlflow run`): it is used if something has to be computed, and
    otherwise points to the run that answered. Missing where the mode forbids to compute, or where
    it failed already under the same command.
    """
    store = store or (current.store if (current := track.current()) else connect())
    if joined:
        _refuse_used(store, joined)
    found = standing(experiment, config, store)
    record = _reusable(experiment, found, mode)
    if record is None:
        with _claim(experiment, found.identity, store):
            # Whoever held the claim may have computed it while we waited.
            claimed, found = found, _settled(experiment, config, mode, store)
            if found.identity != claimed.identity:
                raise BadInput(f"{experiment.name}: its data changed meanwhile; start again")
            record = _reusable(experiment, found, mode)
            if record is None:
                record = _compute(experiment, config, found, mode, store, joined)
    if joined and record.run_id != joined:
        _answer(store, joined, record, f"{experiment.title(config)} (reused)")
    if current := track.current():
        current.built_on(record.run_id)
    return record


def _reusable(experiment: Experiment, found: Standing, mode: Mode) -> Record | None:
    """The run that answers, if this mode takes it; Missing if this mode may not compute either."""
    if mode == "force":
        return None
    retried = mode == "retry_failed" and found.state in ("failed", "running")
    if found.usable is None and mode != "reuse" and not retried:
        where = f"{experiment.name} {found.identity}"
        raise Missing(f"{where}: {found.why or 'never computed'}; leave out run.mode={mode}")
    if found.usable is not None:
        voice_doubts(experiment, found, found.usable)
    return found.usable


def voice_doubts(experiment: Experiment, found: Standing, record: Record) -> None:
    """Say what speaks against a run that is reused all the same."""
    name, run_id = experiment.name, record.run_id
    if modules := drifted(record):
        progress.say_once(
            f"{name} {modules}",
            f"{name}: {', '.join(modules)} changed since run {run_id} was computed; raise the "
            f"revision of {name} if results change with it, else keep them with "
            f"-e accept -P experiment={name} -P reason=...",
        )
    for doubt in filter(None, (found.doubled, found.orphaned)):
        progress.say_once(f"{run_id} {doubt}", f"{name}: run {run_id} was reused, but {doubt}")


@contextmanager
def _claim(experiment: Experiment, identity: Identity, store: Store) -> Iterator[None]:
    """Held while this process computes; another process of this machine waits, and says so."""
    lock = store.lock(identity.digest)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.say(f"{experiment.name} {identity}: another process computes it; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _settled(experiment: Experiment, config: Any, mode: Mode, store: Store) -> Standing:
    """What stands once no other machine computes the same, and complete runs read FINISHED."""
    while True:
        found = standing(experiment, config, store)
        if found.running and mode != "force" and not found.usable:
            _wait_for(experiment, found.running, store)
        elif found.last and _only_lacks_its_end(found.last, found.identity):
            store.client.set_terminated(found.last.run_id, "FINISHED")
        else:
            return found


def _wait_for(experiment: Experiment, record: Record, store: Store) -> None:
    """Return when a run of elsewhere has ended, or was shown to be dead and was marked so."""
    owner, run_id = Owner.parse(record.tags["papertrail.owner"]), record.run_id
    progress.say(
        f"{experiment.name}: run {run_id} is being computed by {owner.name}; waiting for it "
        "(run.mode=force computes another)"
    )
    while store.client.get_run(run_id).info.status == "RUNNING":
        alive = owner.alive()
        if alive is False or (alive is None and heartbeat.silent(store, run_id)):
            return _bury(store, run_id, f"{owner.name} gave no sign of life any more")
        time.sleep(POLL_SECONDS)
    return None


def _only_lacks_its_end(record: Record, identity: Identity) -> bool:
    """Whether a run died between its completion mark and FINISHED: nothing of it is missing."""
    if record.status != "RUNNING" or COMPLETE not in record.tags:
        return False
    try:
        return not (record.changed(identity) or record.incomplete())
    except Missing:
        return False


def _bury(store: Store, run_id: str, reason: str) -> None:
    """Have a dead run read KILLED, with the evidence: MLflow leaves it RUNNING for ever."""
    store.client.set_tag(run_id, "papertrail.failure", reason)
    store.client.set_terminated(run_id, "KILLED")


def _compute(
    experiment: Experiment,
    config: Any,
    found: Standing,
    mode: Mode,
    store: Store,
    joined: str | None,
) -> Record:
    if mode in ("reuse", "read_only"):
        _refuse_to_fail_twice(experiment, found)
    resumed = _resumable(found, store) if mode == "reuse" else None
    if found.why and mode != "force":
        progress.say(f"{experiment.name}: {found.why}")
    if resumed is not None:
        progress.say(f"{experiment.name}: resuming run {resumed.run_id}")
    run_id = resumed.run_id if resumed else _opened(experiment, config, store, joined)
    for dead in found.dead:
        if dead.run_id != run_id:
            _bury(store, dead.run_id, "its process died")
    if not resumed:
        _clear(store, found.identity)
    fresh = resumed is None
    with track.opened(store, experiment, config, found.identity, run_id, fresh) as active:
        horizon.begin(experiment, config, active, may_go_on=fresh and mode != "force")
        experiment(config)
        _refuse_void_parents(active)
    parts.discard(active.folder)
    return query.by_id(run_id, store)


def _refuse_void_parents(active: Run) -> None:
    """Missing if something that the open run was built on was invalidated while it computed."""
    for run_id, record in query.by_ids(active.parents, active.store).items():
        if reason := record.tags.get(INVALIDATED):
            raise Missing(f"run {run_id}, on which this was built, was invalidated ({reason})")


def _refuse_to_fail_twice(experiment: Experiment, found: Standing) -> None:
    """One command tries a question once: dependants of a failure must not repeat it in turn."""
    order = os.environ.get(cli.ORDER)
    if found.last and order and found.last.tags.get("papertrail.order") == order:
        raise Missing(f"{experiment.name} {found.identity}: {found.why}; not tried again")


def _resumable(found: Standing, store: Store) -> Record | None:
    """The interrupted run, if it left a checkpoint or a finished part: else there is nothing to
    continue."""
    folder = store.folder(found.identity.digest)
    left = any((folder / "checkpoints").glob("*.ckpt")) or parts.num_parts(folder)
    return found.interrupted if left else None


def _opened(experiment: Experiment, config: Any, store: Store, joined: str | None) -> str:
    """The run to compute in: the one that was opened for us, or a new one."""
    if joined is None:
        return _create(experiment, config, store)
    group = store.client.get_run(joined).info.experiment_id
    store.show_as_models(group)
    moved.settle(store, group)
    return joined


def _refuse_used(store: Store, joined: str) -> None:
    """BadInput unless the run was opened for us just now: another one's results are its own."""
    try:
        run = store.client.get_run(joined)
    except MlflowException:
        raise BadInput(f"MLFLOW_RUN_ID: not in {store.uri} ({joined}); unset it") from None
    if run.info.status != "RUNNING" or IDENTITY in run.data.tags:
        state = f"it is {run.info.status} and somebody's own"
        raise BadInput(f"MLFLOW_RUN_ID: {state} ({joined}); unset it")


def _create(experiment: Experiment, config: Any, store: Store) -> str:
    """A new MLflow run: a child of the open run, beside it in the same MLflow experiment."""
    open_run = track.current()
    parent = open_run.run_id if open_run else os.environ.get(PARENT)
    source = f"entrypoints/{experiment.name}.py"
    tags = {"mlflow.source.name": source, "mlflow.user": user()}
    if parent is None:
        study = os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment.study
        group = os.environ.get("MLFLOW_EXPERIMENT_ID") or store.experiment_id(study)
    else:
        group = store.client.get_run(parent).info.experiment_id
        tags["mlflow.parentRunId"] = parent
    moved.settle(store, group)
    name = experiment.title(config)
    return str(store.client.create_run(group, tags=tags, run_name=name).info.run_id)


def _clear(store: Store, identity: Identity) -> None:
    """A run that starts afresh must not find the scratch of one before it."""
    for path in sorted(store.folder(identity.digest).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def _answer(store: Store, joined: str, record: Record, name: str) -> None:
    """The run that `mlflow run` opened points to the one that holds the result."""
    note = f"Answered by [run {record.run_id}]({record.url}), which had computed this already."
    tags: Mapping[str, str] = {
        "mlflow.runName": name,
        "papertrail.answered_by": record.run_id,
        "mlflow.note.content": note,
    }
    store.client.log_batch(joined, tags=[RunTag(k, v) for k, v in tags.items()])
