"""Ordering a table: its plan, its missing runs, and the rendering, which is a run of its own."""

import os
from dataclasses import replace
from typing import Any

from papertrail.core import launch, progress, track
from papertrail.core.cli import Execution, Mode
from papertrail.core.experiment import Experiment, narrow
from papertrail.core.query import Record
from papertrail.core.report import answer as answer_run
from papertrail.core.require import require
from papertrail.core.standing import standing
from papertrail.core.store import Store, connect
from papertrail.tables import grid, render
from papertrail.tables.catalog import Table, find, rendering
from papertrail.tables.grid import Planned
from papertrail.tables.sheet import Sheet

TEXT_WIDTH = 110


def ordered(table: Table, config: Any) -> Record:
    """The rendering of `table` for the runs that `config` speaks of, all of which must stand."""
    experiment = rendering(table)
    config = narrow(config, experiment.schema, name=table.name)
    return require(experiment, config, _mode("reuse", experiment, table, config, connect()))


def answer(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Print the plan, or compute what may be computed and render."""
    store, table = connect(), find(config.name)
    if config.plan:
        os.environ.pop("MLFLOW_RUN_ID", None)
        return grid.print_plan(table, grid.plan(table, config, store))
    if config.run_missing:
        with launch.pool(execution.workers):
            launch.require_all([need.question for need in table.needs(config)], store)
    if not config.partial:
        grid.refuse_holes(table, grid.plan(table, config, store))
    mode = _mode(execution.mode, experiment, table, config, store)
    answer_run(experiment, config, replace(execution, mode=mode))
    return None


def _mode(mode: Mode, experiment: Experiment, table: Table, config: Any, store: Store) -> Mode:
    """`force` where the rendering that stands shows other runs than those that stand now.

    With holes a table is no function of its options, and a run that was computed again has the
    same identity but perhaps other numbers: both are drawn anew, and the second is said.
    """
    drawn = standing(experiment, config, store).usable
    if drawn is None or mode != "reuse":
        return mode
    then = [one["run_id"] for one in drawn.json("provenance")["runs"]]
    now = [one.run_id for one in grid.plan(table, config, store)]
    if then == now:
        return mode
    pairs = zip(then, now, strict=True)
    changed = ", ".join(f"{a or 'missing'} -> {b or 'missing'}" for a, b in pairs if a != b)
    progress.say(f"tables: {table.name} was drawn from other runs ({changed}); drawing it anew")
    return "force"


def draw(config: Any) -> None:
    """The verb: render in every format, with the runs behind every cell."""
    table, open_run = find(config.name), track.run()
    planned = grid.plan(table, config, open_run.store)
    for one in planned:
        if one.standing.usable:
            require(one.need.question.experiment, one.need.question.config, "read_only")
    sheet = table.draw(grid.tidy(planned))
    provenance = _provenance(table, planned)
    sheet = replace(sheet, links=_links(planned), provenance=provenance["table"])
    for name, text in (
        ("table.txt", render.to_text(sheet, TEXT_WIDTH)),
        ("table.csv", render.to_csv(sheet)),
        ("table.tex", render.to_latex(sheet)),
        ("report.html", render.to_html(sheet)),
    ):
        open_run.text(f"tables/{name}", text)
    track.json_result("provenance", provenance)
    counts = {"table/runs": len(planned), "table/missing": _missing(sheet)}
    track.metrics(counts)
    track.describe(f"The table {table.name}: {sheet.title}.")


def show(record: Record, config: Any) -> None:
    """Print the table as it was rendered."""
    folder = record.artifact("tables")
    print((folder / "table.txt").read_text(encoding="utf-8"))
    print(f"HTML, LaTeX and CSV: {folder}")


def _missing(sheet: Sheet) -> int:
    keys = [column.key for column in sheet.columns]
    cells = [sheet.cell(row, key) for row in range(len(sheet.rows)) for key in keys]
    return sum(cell.state != "ok" for cell in cells)


def _links(planned: list[Planned]) -> dict[str, str]:
    found = [one.standing.usable for one in planned]
    return {record.run_id: record.url for record in found if record}


def _provenance(table: Table, planned: list[Planned]) -> dict[str, Any]:
    """What made the table, run by run: enough to recompute each and to see whether it changed."""
    runs = [
        {
            "labels": dict(one.need.labels),
            "experiment": one.need.question.experiment.name,
            "revision": one.need.question.experiment.revision,
            "identity": str(one.standing.identity),
            "state": one.standing.state,
            "run_id": one.run_id,
            "git": one.standing.usable.tags.get("papertrail.git", "")
            if one.standing.usable
            else "",
            "command": one.command,
        }
        for one in planned
    ]
    facts = {"table": table.name, "rendering": track.run().run_id, "git": track.commit()}
    return {"schema": 1, "table": facts, "runs": runs}
