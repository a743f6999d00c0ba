"""Ordering a table: its plan, its missing runs, and the rendering, which is a run of its own.

A rendering is drawn from one plan: what happens in the store meanwhile is said, and changes no
cell.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from papertrail.core import progress
from papertrail.core.answering import launch
from papertrail.core.answering.require import require, voice_doubts
from papertrail.core.answering.standing import drifted
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question.cli import Execution, Mode
from papertrail.core.question.experiment import Experiment, Question, narrow
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing import track
from papertrail.records.report import show as show_run
from papertrail.tables import changes, cost, grid, listing, render
from papertrail.tables.catalog import Table, find, rendering
from papertrail.tables.changes import Entry
from papertrail.tables.planned import Planned
from papertrail.tables.sheet import Sheet

TEXT_WIDTH = 110


@dataclass(frozen=True)
class Plan:
    """One look at the store, from which a whole rendering is made."""

    identity: str
    """Of the rendering."""
    planned: tuple[Planned, ...]
    remarks: tuple[str, ...] = ()
    """What became of runs that gave numbers before."""
    stale: str = ""
    """A rendering stands, and why it would look otherwise now."""


_PLAN: ContextVar[Plan | None] = ContextVar("plan of the rendering that is drawn", default=None)


@contextmanager
def _drawn_from(plan: Plan) -> Iterator[None]:
    """Inside the block the verb draws from this plan."""
    token = _PLAN.set(plan)
    try:
        yield
    finally:
        _PLAN.reset(token)


def ordered(table: Table, config: Any) -> Record:
    """The rendering of `table` for the runs that `config` speaks of; a gap says why it is one."""
    experiment = rendering(table)
    config = narrow(config, experiment.schema, name=table.name)
    plan = _look(table, experiment, config, connect())
    _say(table, plan)
    with _drawn_from(plan):
        return require(experiment, config, "force" if plan.stale else "reuse")


@in_one_line()
def answer(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Print the plan, or compute what may be computed and render."""
    _check(config, execution)
    store, table = connect(), find(config.name)
    plan = _look(table, experiment, config, store)
    if config.plan:
        os.environ.pop("MLFLOW_RUN_ID", None)
        _say(table, plan)
        return listing.print_plan(
            table, plan.planned, cost.forecast(plan.planned, store), config.budget
        )
    if config.run_missing and _compute_missing(table, plan, config, execution, store):
        before = [changes.frozen(one) for one in plan.planned]
        now = _look(table, experiment, config, store)
        lost = changes.changes(before, now.planned, store)
        plan = replace(now, remarks=tuple(dict.fromkeys([*now.remarks, *lost])))
    _say(table, plan)
    mode: Mode = "reuse" if execution.mode == "retry_failed" else execution.mode
    if mode != "read_only" and not config.partial:
        grid.refuse_holes(table, plan.planned)
    if mode == "reuse" and plan.stale:
        progress.say(f"tables: {table.name}: drawn anew, because {plan.stale}")
        mode = "force"
    if mode == "read_only" and plan.stale:
        progress.say(f"tables: {table.name}: shown as it was drawn; read_only draws nothing anew")
    with _drawn_from(plan):
        return show_run(experiment, config, replace(execution, mode=mode))


def _check(config: Any, execution: Execution) -> None:
    if config.run_missing and execution.mode == "read_only":
        raise BadInput("run_missing: read_only never computes (true); leave one of the two out")
    if config.budget is not None and not config.budget > 0:
        raise BadInput(f"budget: must be more than 0 hours ({config.budget:g})")
    if config.budget is not None and not (config.run_missing or config.plan):
        raise BadInput(
            f"budget: nothing would be computed ({config.budget:g}); add run_missing=true"
        )


def _look(table: Table, experiment: Experiment, config: Any, store: Store) -> Plan:
    """The plan of now, and what changed since the rendering that stands was drawn."""
    planned, identity = grid.plan(table, config, store), identify(experiment, config)
    drawings = query.by_identities([identity.digest], store)[identity.digest]
    drawn = next((one for one in drawings if not one.unusable(identity)), None)
    if drawn is None:
        return Plan(identity.digest, planned)
    before = drawn.json("provenance")["runs"]
    remarks = changes.changes(before, planned, store)
    return Plan(identity.digest, planned, tuple(remarks), _stale(before, planned, drawn))


def _stale(before: Sequence[Entry], planned: Sequence[Planned], drawn: Record) -> str:
    if changes.stale(before, planned):
        return "runs behind it changed"
    return "the code that draws it changed" if drifted(drawn) else ""


def _say(table: Table, plan: Plan) -> None:
    for line in plan.remarks:
        progress.say(f"tables: {table.name}: {line}")
    for one in plan.planned:
        if one.standing.usable:
            voice_doubts(one.need.question.experiment, one.standing, one.standing.usable)


def _compute_missing(
    table: Table, plan: Plan, config: Any, execution: Execution, store: Store
) -> bool:
    """Compute what the mode and the budget allow; whether anything was started."""
    chosen = _chosen(table, plan.planned, config, execution, store)
    if not chosen:
        return False
    mode: Mode = "retry_failed" if execution.mode == "retry_failed" else "reuse"
    try:
        with launch.chosen(execution):
            launch.require_all(chosen, store, mode)
    except Missing as error:
        if not config.partial:
            raise
        progress.say(f"tables: {table.name}: {error}")
    return True


def _chosen(
    table: Table, planned: Sequence[Planned], config: Any, execution: Execution, store: Store
) -> list[Question]:
    """The questions to compute, in reading order; what the budget leaves out is said."""
    if execution.mode == "retry_failed":
        wanted = cost.failed(planned, store)
    else:
        wanted = [one for one in planned if one.standing.usable is None]
    if wanted and config.budget is not None:
        costs = cost.forecast(wanted, store)
        paid = costs.within(wanted, config.budget)
        for line in listing.left_out(wanted, paid, costs, config.budget):
            progress.say(f"tables: {table.name}: {line}")
        wanted = paid
    return [one.need.question for one in wanted]


# -- the verb --------------------------------------------------------------------------------------


def draw(config: Any) -> None:
    """The verb: render in every format, with the runs behind every cell."""
    table, open_run = find(config.name), track.run()
    plan = _PLAN.get()
    if plan is None:
        plan = Plan(open_run.identity.digest, grid.plan(table, config, open_run.store))
        meanwhile = []
    else:
        assert plan.identity == open_run.identity.digest, "the plan is that of another table"
        meanwhile = _meanwhile(table, plan, config, open_run.store)
    open_run.built_on(*(one.answer for one in plan.planned if one.answer))
    sheet = table.draw(grid.tidy(plan.planned))
    sheet = replace(sheet, links=_links(plan.planned))
    facts = {"table": table.name, "rendering": open_run.run_id, "git": track.commit()}
    doubts = [*_unsaid(sheet, plan.planned), *meanwhile]
    _write(sheet, facts, doubts, plan.remarks)
    runs = [changes.frozen(one) | {"command": one.command} for one in plan.planned]
    remarks = [*plan.remarks, *meanwhile]
    track.json_result("provenance", {"schema": 2, "table": facts, "runs": runs, "remarks": remarks})
    track.metrics({"table/runs": len(plan.planned), "table/missing": _missing(sheet)})
    track.describe(f"The table {table.name}: {sheet.title}.")


def show(record: Record, config: Any) -> None:
    """Print the table as it was rendered."""
    folder = record.artifact("tables")
    print((folder / "table.txt").read_text(encoding="utf-8"))
    print(f"HTML, LaTeX and CSV: {folder}")


def _meanwhile(table: Table, plan: Plan, config: Any, store: Store) -> list[str]:
    """What happened to planned runs since the plan: the table still shows what was planned."""
    before = [changes.frozen(one) for one in plan.planned]
    lines = changes.changes(before, grid.plan(table, config, store), store)
    lines = [f"since the table was planned, {line}" for line in lines]
    for line in lines:
        progress.say(f"tables: {table.name}: {line}")
    return lines


def _unsaid(sheet: Sheet, planned: Sequence[Planned]) -> list[str]:
    """Other answers to a planned question that no cell speaks of."""
    said = "\n".join(sheet.marks())
    return [
        f"{one.title}: {one.standing.doubled}"
        for one in planned
        if one.standing.doubled and one.standing.doubled not in said
    ]


def _write(
    sheet: Sheet, facts: dict[str, str], doubts: Sequence[str], remarks: Sequence[str]
) -> None:
    """The four formats. Doubts are for readers; remarks, in LaTeX, for the authors alone."""
    open_run = track.run()
    noted = replace(sheet, footnotes=(*sheet.footnotes, *doubts, *remarks), provenance=facts)
    numbered = {f"remark {n}": line for n, line in enumerate(remarks, 1)}
    printed = replace(sheet, footnotes=(*sheet.footnotes, *doubts), provenance=facts | numbered)
    for name, text in (
        ("table.txt", render.to_text(noted, TEXT_WIDTH)),
        ("table.csv", render.to_csv(sheet)),
        ("table.tex", render.to_latex(printed)),
        ("report.html", render.to_html(noted)),
    ):
        open_run.text(f"tables/{name}", text)


def _missing(sheet: Sheet) -> int:
    keys = [column.key for column in sheet.columns]
    cells = [sheet.cell(row, key) for row in range(len(sheet.rows)) for key in keys]
    return sum(cell.state != "ok" for cell in cells)


def _links(planned: Sequence[Planned]) -> dict[str, str]:
    found = [one.standing.usable for one in planned]
    return {record.run_id: record.url for record in found if record}
