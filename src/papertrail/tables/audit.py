"""Auditing a table: random cells computed again from nothing and compared with what stands.

The recomputed runs live in a store of their own; in ours an audit is one run that keeps every
difference, and each audited run is told in a tag.
"""

import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from papertrail.core import progress
from papertrail.core.answering import apart
from papertrail.core.answering.standing import standing, standings
from papertrail.core.errors import BadInput, Missing
from papertrail.core.progress import duration
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Experiment, Question
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import track
from papertrail.core.writing.owner import Owner, owner_of
from papertrail.records.report import answer as answer_run
from papertrail.tables import grid
from papertrail.tables.agreement import Audit, Audited, Number, compare, worst
from papertrail.tables.catalog import Need, Table, find
from papertrail.tables.changes import numbers
from papertrail.tables.findings import failure, headline, most, print_audit, sentence, told
from papertrail.tables.history import own_seconds, upstream
from papertrail.tables.planned import Planned

T = TypeVar("T")
AUDITED = "papertrail.audited"
_WORKERS: ContextVar[int] = ContextVar("workers", default=1)


def answer(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Audit anew, whatever was audited before, and leave with code 1 unless all reproduced.

    Mode read_only shows the newest audit again. `mlflow run` marks the run that it opened for an
    audit as FAILED after code 1, whatever we ended it as.
    """
    store, table, again = connect(), find(config.table), execution.mode != "read_only"
    if again:
        _refuse_kept(config.keep)
        _refuse_nothing(table, grid.plan(table, config, store))
        execution = replace(execution, mode="force")
    token = _WORKERS.set(execution.workers)
    try:
        answer_run(experiment, config, execution)
    finally:
        _WORKERS.reset(token)
    record = standing(experiment, config, store).usable
    assert record is not None, "an audit that was shown stands"
    found = result(record)
    if again:
        _tell(found, record)
    if found.failures:
        raise Missing(sentence(found))


def audit(config: Any) -> None:
    """The verb: draw, compute again apart, compare, log."""
    table, open_run = find(config.table), track.run()
    planned = grid.plan(table, config, open_run.store)
    stand = list({str(p.standing.identity): p for p in planned if p.standing.usable}.values())
    drawn = draw(stand, config.cells, config.audit_seed)
    with _folder(config.keep, open_run.folder) as folder:
        other = apart.store_in(folder)
        families = {digest: q for one in drawn for digest, q in _family(one.need.question).items()}
        cells = _recomputed(drawn, families, open_run.store, other, config.tolerance)
        num_computed = len(_usable(families, other))
    found = Audit(
        table=table.name, num_standing=len(stand), num_planned=len(planned),
        num_computed=num_computed, audit_seed=config.audit_seed, tolerance=config.tolerance,
        host=Owner.current().host, cells=tuple(cells),
    )  # fmt: skip
    _log(found)


def draw(stand: Sequence[T], cells: int, seed: int) -> list[T]:
    """`cells` of these at random, all if there are fewer; in reading order."""
    chosen = random.Random(seed).sample(range(len(stand)), min(cells, len(stand)))
    return [stand[number] for number in sorted(chosen)]


def result(record: Record) -> Audit:
    """What an audit found; Missing if the run lost its result."""
    return Audit.model_validate(record.json("audit"))


def show(record: Record, config: Any) -> None:
    """Print what an audit found."""
    print_audit(result(record))


# -- computing again -------------------------------------------------------------------------------


def _recomputed(
    drawn: Sequence[Planned],
    families: Mapping[str, Question],
    ours: Store,
    other: Store,
    tolerance: float,
) -> list[Audited]:
    past, begun = _usable(families, ours), set[str]()

    def starting(number: int) -> None:
        family = _family(drawn[number].need.question).keys()
        seconds = _predicted(family - begun, past)
        begun.update(family)
        about = "for a time that no run tells" if seconds is None else f"about {duration(seconds)}"
        one = drawn[number]
        progress.say(f"audit {number + 1}/{len(drawn)}: {one.title}, run {one.answer}, {about}")

    questions = [one.need.question for one in drawn]
    attempts = apart.compute(questions, other, ours, _WORKERS.get(), starting)
    return [
        _audited(one, attempt, ours, other, tolerance)
        for one, attempt in zip(drawn, attempts, strict=True)
    ]


def _audited(
    one: Planned, attempt: apart.Attempt, ours: Store, other: Store, tolerance: float
) -> Audited:
    again = _numbers(one.need.question, other)
    metrics = {} if again is None else compare(numbers(one), again)
    found = worst(metrics)
    differs = found is not None and not found.within(tolerance)
    why = attempt.why or ("" if metrics else "no metric of it could be compared")
    return Audited(
        labels=dict(one.need.labels), experiment=one.need.question.experiment.name,
        identity=str(one.standing.identity), run_id=one.answer, host=_host(one),
        command=one.command, why=why,
        below=_below(one.need.question, ours, other, tolerance) if differs else "",
        seconds=attempt.seconds, metrics=metrics,
    )  # fmt: skip


def _host(one: Planned) -> str:
    owner = owner_of(one.standing.usable.tags) if one.standing.usable else None
    return owner.host if owner else ""


def _below(question: Question, ours: Store, other: Store, tolerance: float) -> str:
    """The run furthest upstream in which both stores differ: where a difference may come from."""
    for need in upstream(question):
        if further := _below(need, ours, other, tolerance):
            return further
        before, after = _numbers(need, ours), _numbers(need, other)
        found = None if before is None or after is None else worst(compare(before, after))
        if found is not None and not found.within(tolerance):
            identity = identify(need.experiment, need.config)
            return f"{need.experiment.name} {identity}: {told(found)}"
    return ""


def _numbers(question: Question, store: Store) -> dict[str, Number] | None:
    """The results of the run that answers, machine measurements aside; None if none does."""
    found = standing(question.experiment, question.config, store)
    return numbers(Planned(Need({}, question), found)) if found.usable else None


def _family(question: Question) -> dict[str, Question]:
    """A question and all that it builds on, by identity."""
    found = {identify(question.experiment, question.config).digest: question}
    for need in upstream(question):
        found |= _family(need)
    return found


def _usable(families: Mapping[str, Question], store: Store) -> dict[str, Record]:
    found = zip(families, standings(list(families.values()), store), strict=True)
    return {digest: one.usable for digest, one in found if one.usable}


def _predicted(digests: set[str], past: Mapping[str, Record]) -> float | None:
    """Seconds that these runs took when they were computed first; None if one does not tell."""
    total = 0.0
    for digest in digests:
        record = past.get(digest)
        if record is None:
            return None
        children = [r for r in past.values() if r.tags.get("mlflow.parentRunId") == record.run_id]
        total += own_seconds(_span(record), map(_span, children)) or 0.0
    return total


def _span(record: Record) -> tuple[int, int]:
    info = record.run.info
    assert info.start_time is not None and info.end_time is not None, "a usable run has ended"
    return info.start_time, info.end_time


@contextmanager
def _folder(keep: str, scratch: Path) -> Iterator[Path]:
    """Where the other store lies: a folder that is kept, or one that goes when the block ends."""
    if keep:
        yield Path(keep)
        return
    folder = scratch / "apart"
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_kept(keep: str) -> None:
    path = Path(keep)
    if keep and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BadInput(
            f"keep: what lies there would be reused, not computed again ({keep}); name a new folder"
        )


def _refuse_nothing(table: Table, planned: Sequence[Planned]) -> None:
    if not any(one.standing.usable for one in planned):
        raise Missing(
            f"{table.name}: none of its {len(planned)} runs stands, so there is nothing to audit; "
            f"compute them with `mlflow run . -e tables -P name={table.name} -P run_missing=true` "
            "and the same options"
        )


# -- what is kept and shown ------------------------------------------------------------------------


def _log(found: Audit) -> None:
    track.json_result("audit", found.model_dump(mode="json"))
    counts = {
        "audit/cells": len(found.cells),
        "audit/standing": found.num_standing,
        "audit/runs": found.num_computed,
        "audit/failed": len(found.failures),
        "audit/incomparable": found.num_incomparable,
    }
    largest = found.largest
    difference = largest[1].compared.difference if largest else None
    track.metrics(counts | ({} if difference is None else {"audit/max_difference": difference}))
    track.gate("reproduced", not found.failures, sentence(found))
    track.describe(f"Audit of the table {found.table}: {headline(found)}; {sentence(found)}.")


def _tell(found: Audit, audit_run: Record) -> None:
    """What the audit found, in a tag of each audited run: finished runs are not opened again."""
    today = datetime.now(UTC).date().isoformat()
    known = query.by_ids([cell.run_id for cell in found.cells], audit_run.store)
    for cell in found.cells:
        what = failure(cell) if cell.why else most(cell)
        if cell.run_id in known:
            track.remark(
                known[cell.run_id].store,
                cell.run_id,
                AUDITED,
                f"{today}, {audit_run.run_id}, {what}",
            )
