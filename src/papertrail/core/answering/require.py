"""The only way to a result: reuse the usable run, resume the interrupted one, or compute it.

One process computes an identity; others wait at its claim and read. The claim is a lock of the
kernel, so the death of its owner frees it, and nobody ever deletes a lock file by hand. A run of
another machine is waited for as long as it gives signs of life.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from filelock import Timeout
from mlflow.exceptions import MlflowException

from papertrail.core import progress
from papertrail.core.answering import horizon, joining, settling
from papertrail.core.answering.settling import Second
from papertrail.core.answering.standing import Standing, drifted, standing
from papertrail.core.errors import BadInput, Missing
from papertrail.core.patience import away
from papertrail.core.question import cli
from papertrail.core.question.cli import Mode
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import Identity
from papertrail.core.reading import page, query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import parts, sending, track
from papertrail.core.writing.owner import goes_on, was_ours
from papertrail.core.writing.run import INVALIDATED, Run


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
        joined = joining.joinable(store, joined)
    found = standing(experiment, config, store)
    if found.usable is None and sending.ended(found.identity.digest, store):
        with _claim(experiment, found.identity, store):
            sending.deliver_left(found.identity.digest, store)
        found = standing(experiment, config, store)
    record, unused = _reusable(experiment, found, mode), True
    if record is None:
        record, unused = _claimed(experiment, config, found, mode, store, joined)
    if joined and unused:
        _answer(joined, record, experiment.title(config), store)
    if current := track.current():
        current.built_on(record.run_id)
    return record


def _claimed(
    experiment: Experiment,
    config: Any,
    before: Standing,
    mode: Mode,
    store: Store,
    joined: str | None,
) -> tuple[Record, bool]:
    """The run that answers once nobody else computes it, and whether `joined` was left unused."""
    with _claim(experiment, before.identity, store):
        sending.deliver_left(before.identity.digest, store)
        # Whoever held the claim may have computed it while we waited.
        found = settling.settled(experiment, config, mode, store)
        if found.identity != before.identity:
            raise BadInput(f"{experiment.name}: its data changed meanwhile; start again")
        while (record := _reusable(experiment, found, mode)) is None:
            try:
                return _compute(experiment, config, found, mode, store, joined), False
            except Second as error:
                progress.say(f"{experiment.name}: {error}; waiting for it")
                joined, found = None, settling.settled(experiment, config, mode, store)
        return record, joined is not None


def _answer(joined: str, record: Record, title: str, store: Store) -> None:
    """The run that was opened for us points to one that stood before, or that another process
    computed for this very command: a job of a cluster."""
    if record.tags.get("papertrail.order") == os.environ.get(cli.ORDER):
        _elsewhere(joined, record, title, store)
    else:
        note = f"Answered by {page.link(record)}, which had computed this already."
        joining.point(store, joined, record, f"{title} (reused)", note)


def _elsewhere(joined: str, record: Record, title: str, store: Store) -> None:
    """The run that was opened for us points to the one that is computed in."""
    note = f"Computed by {page.link(record)}."
    joining.point(store, joined, record, f"{title} (elsewhere)", note)


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
    goes_on = mode == "reuse" or (found.interrupted and was_ours(found.interrupted.tags))
    resumed = _resumable(found, store) if goes_on else None
    if found.why and mode != "force":
        progress.say(f"{experiment.name}: {found.why}")
    if resumed is not None:
        progress.say(f"{experiment.name}: resuming run {resumed.run_id}")
    run_id = resumed.run_id if resumed else joining.place(experiment, config, store, joined)
    if joined and run_id != joined:
        _elsewhere(joined, query.by_id(run_id, store), experiment.title(config), store)
    settling.bury([dead for dead in found.dead if dead.run_id != run_id], store)
    if not resumed:
        _clear(store, found.identity)
    fresh = resumed is None
    with track.opened(store, experiment, config, found.identity, run_id, fresh) as active:
        if mode != "force":
            settling.refuse_second(active)
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
        if found.last.status in ("RUNNING", "KILLED") and goes_on(found.last.tags):
            return
        raise Missing(f"{experiment.name} {found.identity}: {found.why}; not tried again")


def _resumable(found: Standing, store: Store) -> Record | None:
    """The interrupted run, if it left a checkpoint or a finished part: else there is nothing to
    continue."""
    folder = store.folder(found.identity.digest)
    left = any((folder / "checkpoints").glob("*.ckpt")) or parts.num_parts(folder)
    return found.interrupted if left else None


def _clear(store: Store, identity: Identity) -> None:
    """A run that starts afresh must not find the scratch of one before it."""
    for path in sorted(store.folder(identity.digest).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
