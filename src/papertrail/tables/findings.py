"""What an audit found, in words and as a table on the terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from papertrail.core.progress import duration
from papertrail.tables.agreement import Audit, Audited, Number, Worst
from papertrail.tables.listing import PIPED_WIDTH

if TYPE_CHECKING:
    from rich.table import Table as Grid

COLOURS = {"reproduced": "green", "differs": "red", "failed": "red"}
SHORT = 8  # characters of a run id in a column; audit.json and the lines below have all


def headline(found: Audit) -> str:
    """The line people look for: "audited 5/60, max difference 0.1 % (METRIC of CELL, run ID)"."""
    line = f"audited {len(found.cells)}/{found.num_standing}"
    if (largest := found.largest) is not None:
        cell, most = largest
        difference = most.compared.difference or 0.0
        line += f", max difference {percent(difference)}"
        if difference:
            line += f" ({most.metric} of {cell.title}, run {cell.run_id})"
    if found.num_incomparable:
        line += f", {found.num_incomparable} metrics that only one side has as a number"
    failed = sum(bool(cell.why) for cell in found.cells)
    return f"{line}, {failed} could not be computed again" if failed else line


def sentence(found: Audit) -> str:
    """How many of the audited reproduced, and each that did not by name."""
    total, failures = len(found.cells), found.failures
    within = f"within {percent(found.tolerance)}" if found.tolerance else "to the last digit"
    if not failures:
        return f"{total} of {total} runs reproduced {within}"
    named = "; ".join(f"{cell.title} (run {cell.run_id}): {failure(cell)}" for cell in failures)
    return f"{len(failures)} of {total} runs did not reproduce {within}: {named}"


def failure(cell: Audited) -> str:
    """What is wrong with a cell that did not reproduce."""
    if cell.why:
        return f"it could not be computed again ({cell.why})"
    below = f", as does {cell.below}" if cell.below else ""
    return f"{most(cell)}{below}"


def most(cell: Audited) -> str:
    """The worst metric of a cell: "size 3 -> 3.1 (3.2 %)"."""
    found = cell.worst
    assert found is not None, "a cell that was computed again has metrics to compare"
    return told(found)


def told(found: Worst) -> str:
    """A metric, both values and how far they are apart."""
    one = found.compared
    if one.difference == 0:
        return "no difference"
    far = "" if one.difference is None else f" ({percent(one.difference)})"
    return f"{found.metric} {spelled(one.standing)} -> {spelled(one.recomputed)}{far}"


def percent(difference: int | float) -> str:
    """A relative difference in words: 0.0012 -> 0.12 %."""
    return f"{100 * difference:.2g} %"


def spelled(value: Number | None) -> str:
    """A metric's value as people compare it; `none` where the run has no such metric."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else f"{value:.8g}"


def print_audit(found: Audit) -> None:
    """One row for each cell, what failed below, and the headline last."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    title = f"Audit of {found.table}: seed {found.audit_seed}, tolerance {percent(found.tolerance)}"
    console.print(Text(title, style="bold"))
    console.print(_grid(found))
    for cell in found.failures:
        line = f"{cell.title}, run {cell.run_id}: {failure(cell)}"
        console.print(Text(line, style="red"), soft_wrap=True)
        print(cell.command)
    if any(not cell.why for cell in found.failures):
        print(_hint(found))
    if found.num_standing < found.num_planned:
        missing = found.num_planned - found.num_standing
        print(f"{missing} of {found.num_planned} runs of the table have no result to audit")
    print(f"{headline(found)}; {found.num_computed} runs computed again")


def _hint(found: Audit) -> str:
    """What else than a wrong result may differ."""
    elsewhere = sorted({cell.host for cell in found.failures} - {found.host, ""})
    where = f" (of these, some were computed on {', '.join(elsewhere)})" if elsewhere else ""
    return (
        f"The same machine with the same number of threads reproduces to the last digit{where}; "
        "for another, tolerance=... says how far apart is still equal."
    )


def _grid(found: Audit) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=None, pad_edge=False)
    grid.add_column("verdict", no_wrap=True)
    grid.add_column("cell")
    grid.add_column("run", no_wrap=True)
    grid.add_column("worst metric", no_wrap=True)
    for heading in ("standing", "again", "difference", "outside", "took"):
        grid.add_column(heading, no_wrap=True, justify="right")
    for cell in found.cells:
        verdict = cell.verdict(found.tolerance)
        grid.add_row(
            Text(verdict, COLOURS[verdict]), Text(cell.title), cell.run_id[:SHORT],
            *_worst_of(cell), _outside(cell, found.tolerance), duration(cell.seconds),
        )  # fmt: skip
    return grid


def _outside(cell: Audited, tolerance: float) -> str:
    return f"{cell.num_outside(tolerance)}/{len(cell.metrics)}" if cell.metrics else "-"


def _worst_of(cell: Audited) -> list[str]:
    """Metric, both values and difference; one word where no metric differs."""
    found = cell.worst
    if found is None:
        return ["-"] * 4
    one = found.compared
    if one.difference == 0:
        return ["all equal", "", "", percent(0)]
    difference = "-" if one.difference is None else percent(one.difference)
    return [found.metric, spelled(one.standing), spelled(one.recomputed), difference]
