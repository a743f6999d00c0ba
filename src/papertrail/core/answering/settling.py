"""What stands of a question once nobody else computes it, and the marks of those who died at it."""

import time
from collections.abc import Iterable
from typing import Any

from papertrail.core import progress
from papertrail.core.answering.standing import Standing, standing
from papertrail.core.errors import Interrupted, Missing
from papertrail.core.question.cli import Mode
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import Identity
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing import heartbeat
from papertrail.core.writing.owner import Owner, owner_of
from papertrail.core.writing.run import COMPLETE, Run

POLL_SECONDS = 1.0


def settled(experiment: Experiment, config: Any, mode: Mode, store: Store) -> Standing:
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
            return end_dead(store, run_id, f"{owner.name}: {why}")
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
        owner = owner_of(record.tags)
        end_dead(store, record.run_id, owner.obituary() if owner else "its process died")


def end_dead(store: Store, run_id: str, reason: str) -> None:
    """Have a dead run read KILLED, with the evidence: MLflow leaves it RUNNING for ever."""
    store.client.set_tag(run_id, "papertrail.failure", reason)
    store.client.set_terminated(run_id, "KILLED")


class Second(Interrupted):
    """Another machine computes the same question, and goes on."""


def refuse_second(active: Run) -> None:
    """Second if another machine computes the question of the open run, and is the one to go on.

    Two machines that look at the same moment see nothing, and both begin. Each looks once more
    when its own run can be seen, so at least one of them sees the other. The later start gives way
    at once. The earlier one may have been written too late to be seen: whoever still computes a
    moment after that goes on for good. Clocks that disagree can only cost a run not needed.
    """
    own, others = _side_by_side(active)
    for other, owner in others:
        if _begun(other) < _begun(own):
            raise Second(f"{owner.name}, which began run {other.run_id} of the same before")
    if others:
        time.sleep(POLL_SECONDS)
        seen = {other.run_id for other, _ in others}
        for other, owner in _side_by_side(active)[1]:
            if other.run_id in seen:
                raise Second(f"{owner.name}, which computes the same in run {other.run_id}")


def _side_by_side(active: Run) -> tuple[Record, list[tuple[Record, Owner]]]:
    """The open run as the store has it, and the others that compute its question now."""
    asked = query.by_identities([active.identity.digest], active.store)[active.identity.digest]
    (own,) = (one for one in asked if one.run_id == active.run_id)
    running = [one for one in asked if one is not own and one.status == "RUNNING"]
    owned = [(one, owner) for one in running if (owner := owner_of(one.tags))]
    return own, [(one, owner) for one, owner in owned if owner.alive() is not False]


def _begun(record: Record) -> tuple[int, str]:
    return record.run.info.start_time, record.run_id
