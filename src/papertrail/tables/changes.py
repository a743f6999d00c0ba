"""What became of planned runs: gone, changed, invalidated, or doubled with other numbers.

A rendering keeps its plan (results/provenance.json, the entries of `frozen`); compared with the
plan of now, every difference is one line for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from papertrail.core.reading import query
from papertrail.core.reading.record import MACHINE, Record
from papertrail.core.storage.store import Store
from papertrail.tables.planned import Planned

Entry = Mapping[str, Any]
SHOWN = 3  # metrics that a line names


def frozen(one: Planned) -> dict[str, Any]:
    """A planned run as the provenance keeps it, so that every change of it can be told."""
    record = one.standing.usable
    return {
        "labels": dict(one.need.labels),
        "experiment": one.need.question.experiment.name,
        "revision": one.need.question.experiment.revision,
        "identity": one.digest,
        "state": one.standing.state,
        "cause": one.cause,
        "doubts": one.doubts,
        "run_id": one.run_id,
        "git": record.tags.get("papertrail.git", "") if record else "",
        "metrics": numbers(one),
    }


def numbers(one: Planned) -> dict[str, float | str]:
    """The results of a run, without what measures the machine; NaN and infinity as words."""
    return {
        key: value if math.isfinite(value) else str(value)
        for key, value in one.metrics.items()
        if not MACHINE.search(key)
    }


def stale(before: Sequence[Entry], planned: Sequence[Planned]) -> bool:
    """Whether a table drawn from the plan before would look otherwise now."""
    return any(
        (_answer(was), was["cause"], was["doubts"]) != (_named(was, now), now.cause, now.doubts)
        or differing(was["metrics"], numbers(now))
        for was, now in zip(before, planned, strict=True)
    )


def changes(before: Sequence[Entry], planned: Sequence[Planned], store: Store) -> list[str]:
    """What became of the runs that gave numbers before: one line for each that changed."""
    pairs = [(was, now) for was, now in zip(before, planned, strict=True) if _answer(was)]
    replaced = [_answer(was) for was, now in pairs if _answer(was) != _named(was, now)]
    known = query.by_ids(replaced, store) if replaced else {}
    lines = ((now.title, _change(was, now, known)) for was, now in pairs)
    return [f"{title}: {line}" for title, line in lines if line]


def _answer(was: Entry) -> str:
    """Id of the run that gave the numbers; empty where there were none."""
    return str(was["run_id"]) if was["state"] == "finished" else ""


def _named(was: Entry, now: Planned) -> str:
    """Id of the run that gives the numbers now, as the plan of before had it: an import gave that
    run another."""
    record, old = now.standing.usable, _answer(was)
    return old if record and old in query.names_of(record) else now.answer


def _change(was: Entry, now: Planned, known: Mapping[str, Record]) -> str:
    old, different = _answer(was), differing(was["metrics"], numbers(now))
    if old == _named(was, now):
        return f"the numbers of run {old} were changed: {different}" if different else ""
    if not now.answer:
        return f"run {old} -> none: {_fate(known.get(old), now)}; now {now.standing.state}"
    outcome = f"other numbers: {different}" if different else "the numbers are equal"
    return f"run {old} -> {now.answer}: {_fate(known.get(old), now)}; {outcome}"


def _fate(old: Record | None, now: Planned) -> str:
    """Why a run that was planned is not the answer any more."""
    if old is None:
        return "the former is gone from the store"
    reason = old.unusable(now.standing.identity)
    return f"the former is no answer: {reason}" if reason else "the former stands, but is older"


def differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The metrics in which two runs differ, "size 3 -> 4, rate none -> 0.5"; empty if in none."""
    found = [
        f"{key} {_spelled(old.get(key))} -> {_spelled(new.get(key))}"
        for key in sorted(old.keys() | new.keys())
        if not _same(old.get(key), new.get(key))
    ]
    more = [f"{len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return ", ".join(found[:SHOWN] + more)


def _same(a: float | str | None, b: float | str | None) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b


def _spelled(value: float | str | None) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:.6g}"
