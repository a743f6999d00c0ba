"""What the store knows of a question: the run that answers it, or why none does.

Only looks, never computes and never changes a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from papertrail.core import digests
from papertrail.core.errors import Missing
from papertrail.core.question import drift
from papertrail.core.question.experiment import Experiment, Question
from papertrail.core.question.identity import Identity, identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing.owner import owner_of
from papertrail.core.writing.run import parents_of
from papertrail.core.writing.track import CODE

State = Literal["finished", "running", "failed", "blocked", "missing"]
ACCEPTED = "papertrail.accepted"


@dataclass(frozen=True)
class Standing:
    """What the store knows of one identity."""

    identity: Identity
    usable: Record | None = None
    last: Record | None = None
    """The newest run that is no answer."""
    interrupted: Record | None = None
    """A run that died or was stopped and may be continued."""
    running: Record | None = None
    """A run whose owner lives, or cannot be shown to be dead."""
    dead: tuple[Record, ...] = ()
    """The runs that read RUNNING although nobody computes them any more, newest first."""
    why: str = ""
    """Why the newest run is no answer; empty if it is, or if there is none."""
    blocked: str = ""
    """Where nothing was computed yet: the run that it builds on which failed, and its cause."""
    doubled: str = ""
    """Another usable run of the same question, if its numbers differ from those of `usable`."""
    orphaned: str = ""
    """A run that `usable` was built on and that is no answer any more."""

    @property
    def state(self) -> State:
        if self.usable:
            return "finished"
        if self.running:
            return "running"
        if self.why:
            return "failed"
        return "blocked" if self.blocked else "missing"


def standing(experiment: Experiment, config: Any, store: Store | None = None) -> Standing:
    """Look `config` up without computing anything."""
    return standings([Question(experiment, config)], store or connect())[0]


def standings(questions: Sequence[Question], store: Store) -> list[Standing]:
    """What stands of all questions now, in order: one look at the store for all of them."""
    if not questions:
        return []
    with digests.one_look():  # a plan asks a thousand questions about the same data
        identities = [identify(question.experiment, question.config) for question in questions]
    records = query.by_identities(list({one.digest for one in identities}), store)
    judged = {one.digest: _judge(one, records[one.digest]) for one in identities}
    judged |= _orphans(judged, store)
    missing = {
        one.digest: question
        for one, question in zip(identities, questions, strict=True)
        if judged[one.digest].state == "missing"
    }
    for digest, cause in zip(missing, _causes(list(missing.values()), store), strict=True):
        judged[digest] = replace(judged[digest], blocked=cause)
    return [judged[one.digest] for one in identities]


def drifted(record: Record) -> list[str]:
    """Modules that changed since the run was computed, unless somebody accepted their state."""
    try:
        recorded = json.loads(record.artifact(CODE).read_text(encoding="utf-8"))
    except Missing:
        return []  # computed before the code behind a run was kept
    modules = drift.changed(recorded)
    return [] if modules and f"{ACCEPTED}.{drift.state(modules)}" in record.tags else modules


def _judge(identity: Identity, records: Sequence[Record]) -> Standing:
    """Which of the runs of one identity, newest first, answers it, and why the others do not."""
    usable: list[Record] = []
    why, last, interrupted, running, dead = "", None, None, None, list[Record]()
    for record in records:
        reason = record.unusable(identity)
        if not reason:
            usable.append(record)
            continue
        why, last = why or f"{record.run_id} was not reused: {reason}", last or record
        if record.status == "RUNNING" and _owner_lives(record):
            running = running or record
            continue
        if record.status == "RUNNING":
            dead.append(record)
        if record.status in ("RUNNING", "KILLED", "FAILED") and _same(record, identity):
            interrupted = interrupted or record
    if usable:
        return Standing(identity, usable[0], interrupted=interrupted, doubled=_doubled(usable))
    return Standing(identity, None, last, interrupted, running, tuple(dead), why)


def _doubled(usable: Sequence[Record]) -> str:
    """The first run whose numbers differ from the newest's: same question, another answer."""
    for other in usable[1:]:
        if difference := usable[0].other_numbers(other):
            return f"run {other.run_id} answers the same question otherwise: {difference}"
    return ""


def _orphans(judged: Mapping[str, Standing], store: Store) -> dict[str, Standing]:
    """The standings whose run was built on one that is gone, with a word about it."""
    parents = {digest: parents_of(one.usable.tags) for digest, one in judged.items() if one.usable}
    every = list({run_id for some in parents.values() for run_id in some})
    known = query.by_ids(every, store) if every else {}
    found = {}
    for digest, ids in parents.items():
        reasons = ((run_id, _gone(known.get(run_id))) for run_id in ids)
        word = next((f"run {run_id}, which {why}" for run_id, why in reasons if why), "")
        if word:
            found[digest] = replace(judged[digest], orphaned=f"it was built on {word}")
    return found


def _gone(parent: Record | None) -> str:
    if parent is None:
        return "is not in the store any more"
    return "was deleted" if parent.run.info.lifecycle_stage == "deleted" else ""


def _causes(questions: Sequence[Question], store: Store) -> list[str]:
    """For each question, the failed run that it builds on and its cause; empty if none failed."""
    needs = [list(q.experiment.upstream(q.config).values()) for q in questions]
    below = iter(standings([need for some in needs for need in some], store))
    return [next(filter(None, [_cause(need, next(below)) for need in some]), "") for some in needs]


def _cause(need: Question, found: Standing) -> str:
    if found.state == "failed":
        return f"it builds on {need.experiment.name} {found.identity}: {found.why}"
    return found.blocked


def _same(record: Record, identity: Identity) -> bool:
    """Whether the interrupted run asked exactly this question."""
    try:
        return not record.changed(identity)
    except Missing:
        return False  # it died before its question was written: nothing to continue


def _owner_lives(record: Record) -> bool:
    """False only on evidence of death; a run of another host counts as alive."""
    owner = owner_of(record.tags)
    return owner is not None and owner.alive() is not False
