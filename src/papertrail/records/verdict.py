"""What people decide about runs that stand: void them, or keep them although the code changed.

A verdict is a tag with its reason; numbers, files and status of a finished run never change.
"""

from datetime import date
from typing import Any

from papertrail.core import progress
from papertrail.core.answering.standing import ACCEPTED, drifted
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import drift
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing.owner import user
from papertrail.core.writing.run import INVALIDATED
from papertrail.core.writing.track import conclude, remark
from papertrail.records.commands import Acceptance, Invalidation, find
from papertrail.records.radius import radius

REINSTATED = "papertrail.reinstated"


@in_one_line()
def invalidate(command: Any, config: Invalidation, execution: Any) -> None:
    """Void a run and what was built on it, after saying how much that is; or take it back."""
    store = connect()
    _check(config.run, config.reason)
    record = _known(config.run, store)
    if config.undo:
        return _reinstate(record, config.reason, store)
    if old := record.tags.get(INVALIDATED):
        raise BadInput(f"run: {record.run_id} was invalidated already ({old}); undo=true undoes it")
    void = radius([record.run_id], store)
    void.say(f"invalidating run {record.run_id} voids")
    if not (config.yes or progress.confirm("invalidate them?")):
        raise Missing(f"run {record.run_id}: left as it was")
    reason = _signed(config.reason)
    remark(store, record.run_id, INVALIDATED, reason)
    below = [
        one for one in void.runs if one.run_id != record.run_id and INVALIDATED not in one.tags
    ]
    for one in below:
        remark(store, one.run_id, INVALIDATED, f"it was built on run {record.run_id}: {reason}")
    conclude(store, f"invalidated {record.run_id}", f"Voids {void}. Reason: {reason}")
    print(f"invalidated {1 + len(below)} runs: {reason}")
    return None


def _reinstate(record: Record, reason: str, store: Store) -> None:
    """Take an invalidation back, with all that it reached; both reasons are kept."""
    old = record.tags.get(INVALIDATED)
    if old is None:
        raise BadInput(f"run: {record.run_id} is not invalidated; leave out undo=true")
    below = [
        one
        for one in radius([record.run_id], store).runs
        if f"run {record.run_id}:" in one.tags.get(INVALIDATED, "")
    ]
    reached = [record, *below]
    for one in reached:
        kept = f"{one.tags[INVALIDATED]}; taken back: {_signed(reason)}"
        remark(store, one.run_id, REINSTATED, kept)
        store.client.delete_tag(one.run_id, INVALIDATED)
    conclude(store, f"reinstated {record.run_id}", f"{old}; taken back: {_signed(reason)}")
    print(f"reinstated {len(reached)} runs")


@in_one_line()
def accept(command: Any, config: Acceptance, execution: Any) -> None:
    """Keep runs whose code changed since, with the reason why their results are the same."""
    store = connect()
    if config.experiment:
        _check(config.experiment, config.reason)
        records = query.usable(find(config.experiment).name, store, trials=True)
    else:
        _check(config.run, config.reason)
        records = [_known(config.run, store)]
    changed = {record: modules for record in records if (modules := drifted(record))}
    reason = _signed(config.reason)
    for record, modules in changed.items():
        key = f"{ACCEPTED}.{drift.state(modules)}"
        remark(store, record.run_id, key, f"{reason} {', '.join(modules)}")
    conclude(store, f"accepted {config.experiment or config.run}", f"{len(changed)} runs: {reason}")
    print(
        f"accepted {len(changed)} of {len(records)} runs; the code behind the others is unchanged"
    )


def _check(what: str, reason: str) -> None:
    if not what:
        raise BadInput("run: not given; write -P run=ID")
    if not reason.strip():
        raise BadInput("reason: not given; write -P reason='...', it is kept with the run")


def _known(run_id: str, store: Store) -> Record:
    try:
        return query.by_id(run_id, store)
    except Missing as error:
        raise BadInput(f"run: {error}") from None


def _signed(reason: str) -> str:
    return f"{reason.strip()} ({user()}, {date.today().isoformat()})"
