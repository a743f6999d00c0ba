"""The only way to a result: reuse the usable run, resume the interrupted one, or compute it.

One process computes an identity; others wait at its claim and read. The claim is a lock of the
kernel, so the death of its owner frees it, and nobody ever deletes a lock file by hand. A run of
another machine is waited for as long as it gives signs of life.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filelock import Timeout
from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from papertrail.core import (
    cli,
    heartbeat,
    horizon,
    moved,
    page,
    parts,
    progress,
    query,
    sending,
    track,
)
from papertrail.core.cli import Mode
from papertrail.core.errors import BadInput, Missing
from papertrail.core.experiment import Experiment
from papertrail.core.identity import Identity
from papertrail.core.owner import Owner, user
from papertrail.core.patience import away
from papertrail.core.query import IDENTITY
from papertrail.core.record import Record
from papertrail.core.run import COMPLETE, INVALIDATED, Run
from papertrail.core.standing import Standing, drifted, standing
from papertrail.core.store import Store, connect

PARENT = "PAPERTRAIL_PARENT_RUN"
"""Environment variable: the run for which a process of the pool computes."""
NOWHERE = "0"
"""MLflow's experiment "Default": where `mlflow run` opens a run if nobody named an experiment."""
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
        joined = _joinable(store, joined)
    found = standing(experiment, config, store)
    if found.usable is None and sending.ended(found.identity.digest, store):
        with _claim(experiment, found.identity, store):
            sending.deliver_left(found.identity.digest, store)
        found = standing(experiment, config, store)
    record = reused = _reusable(experiment, found, mode)
    if record is None:
        with _claim(experiment, found.identity, store):
            sending.deliver_left(found.identity.digest, store)
            # Whoever held the claim may have computed it while we waited.
            claimed, found = found, _settled(experiment, config, mode, store)
            if found.identity != claimed.identity:
                raise BadInput(f"{experiment.name}: its data changed meanwhile; start again")
            record = reused = _reusable(experiment, found, mode)
            if record is None:
                record = _compute(experiment, config, found, mode, store, joined)
    if joined and reused:
        note = f"Answered by {page.link(reused)}, which had computed this already."
        _point(store, joined, reused, f"{experiment.title(config)} (reused)", note)
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
            why = "gave no sign of life any more" if alive is None else owner.obituary()
            return _bury(store, run_id, f"{owner.name}: {why}")
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


def bury(dead: Iterable[Record], store: Store) -> None:
    """Have runs whose process died read KILLED; what SLURM knows of their job is said with it."""
    for record in dead:
        owner = record.tags.get("papertrail.owner")
        _bury(store, record.run_id, Owner.parse(owner).obituary() if owner else "its process died")


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
    # A job that is queued again goes on in any mode.
    goes_on = mode == "reuse" or (found.interrupted and _was_ours(found.interrupted.tags))
    resumed = _resumable(found, store) if goes_on else None
    if found.why and mode != "force":
        progress.say(f"{experiment.name}: {found.why}")
    if resumed is not None:
        progress.say(f"{experiment.name}: resuming run {resumed.run_id}")
    run_id = resumed.run_id if resumed else _opened(experiment, config, store, joined)
    if joined and run_id != joined:
        computing = query.by_id(run_id, store)
        note = f"Computed by {page.link(computing)}."
        _point(store, joined, computing, f"{experiment.title(config)} (elsewhere)", note)
    bury([dead for dead in found.dead if dead.run_id != run_id], store)
    if not resumed:
        _clear(store, found.identity)
    fresh = resumed is None
    with track.opened(store, experiment, config, found.identity, run_id, fresh) as active:
        horizon.begin(experiment, config, active, may_go_on=fresh and mode != "force")
        experiment(config)
        page.finish(active, _sound_parents(active))
    parts.discard(active.folder)
    return query.by_id(run_id, store)


def _sound_parents(active: Run) -> list[Record]:
    """What the open run was built on; Missing if some of it was invalidated meanwhile."""
    try:
        found = query.by_ids(active.parents, active.store) if active.parents else {}
    except MlflowException as error:
        if not away(error):
            raise
        progress.say(f"run {active.run_id}: whether all it was built on still stands was not asked")
        return []
    for run_id, record in found.items():
        if reason := record.tags.get(INVALIDATED):
            raise Missing(f"run {run_id}, on which this was built, was invalidated ({reason})")
    return list(found.values())


def _refuse_to_fail_twice(experiment: Experiment, found: Standing) -> None:
    """One command tries a question once: dependants of a failure must not repeat it in turn.

    What a job was stopped at, to be queued again, is no failure.
    """
    order = os.environ.get(cli.ORDER)
    if found.last and order and found.last.tags.get("papertrail.order") == order:
        if found.last.status in ("RUNNING", "KILLED") and _goes_on(found.last.tags):
            return
        raise Missing(f"{experiment.name} {found.identity}: {found.why}; not tried again")


def _was_ours(tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags was begun by this very job, before it was queued again."""
    owner = tags.get("papertrail.owner")
    return bool(owner) and Owner.parse(str(owner)).was_before(Owner.current())


def _goes_on(tags: Mapping[str, str]) -> bool:
    """Whether the job that began a run with these tags was queued again."""
    owner = tags.get("papertrail.owner")
    return _was_ours(tags) or (bool(owner) and Owner.parse(str(owner)).alive() is True)


def _resumable(found: Standing, store: Store) -> Record | None:
    """The interrupted run, if it left a checkpoint or a finished part: else there is nothing to
    continue."""
    folder = store.folder(found.identity.digest)
    left = any((folder / "checkpoints").glob("*.ckpt")) or parts.num_parts(folder)
    return found.interrupted if left else None


def _opened(experiment: Experiment, config: Any, store: Store, joined: str | None) -> str:
    """The run to compute in: the one that was opened for us, or a new one. MLflow cannot move a
    run: one that it opened where nobody looks points to another among those of its study."""
    if joined is None:
        return _create(experiment, config, store)
    group = store.client.get_run(joined).info.experiment_id
    if group == NOWHERE:
        return _create(experiment, config, store)
    store.show_as_models(group)
    moved.settle(store, group)
    return joined


def _joinable(store: Store, joined: str) -> str | None:
    """The run that was opened for us; None if this job began it already, before it was queued
    again. BadInput if it is another's: its results are its own."""
    try:
        run = store.client.get_run(joined)
    except MlflowException:
        raise BadInput(f"MLFLOW_RUN_ID: not in {store.shown} ({joined}); unset it") from None
    if _was_ours(run.data.tags):
        return None
    if run.info.status != "RUNNING" or IDENTITY in run.data.tags:
        state = f"it is {run.info.status} and somebody's own"
        raise BadInput(f"MLFLOW_RUN_ID: {state} ({joined}); unset it")
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
    moved.settle(store, group)
    name = experiment.title(config)
    return str(store.client.create_run(group, tags=tags, run_name=name).info.run_id)


def _clear(store: Store, identity: Identity) -> None:
    """A run that starts afresh must not find the scratch of one before it."""
    for path in sorted(store.folder(identity.digest).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def _point(store: Store, joined: str, record: Record, name: str, note: str) -> None:
    """The run that `mlflow run` opened points to the one that holds, or will hold, the result."""
    tags: Mapping[str, str] = {
        "mlflow.runName": name,
        "papertrail.answered_by": record.run_id,
        "mlflow.note.content": note,
    }
    store.client.log_batch(joined, tags=[RunTag(k, v) for k, v in tags.items()])
