"""A plan on the terminal: the state of every run, what the missing ones will cost, and how to
have them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from papertrail.core.progress import duration
from papertrail.tables.cost import Forecast, runs
from papertrail.tables.history import Cost

if TYPE_CHECKING:
    from rich.table import Table as Grid

    from papertrail.tables.catalog import Table
    from papertrail.tables.planned import Planned

COLOURS = {
    "finished": "green",
    "running": "cyan",
    "failed": "red",
    "missing": "yellow",
    "blocked": "red",
}
NOTHING = Forecast({}, {}, {})
PIPED_WIDTH = 110  # of a terminal that nobody can ask


def print_plan(
    table: Table,
    planned: Sequence[Planned],
    costs: Forecast = NOTHING,
    budget: float | None = None,
) -> None:
    """The grid with the state and cost of each run, and the commands that compute what lacks."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else PIPED_WIDTH, highlight=False)
    console.print(Text(f"{table.name}: {_counts(planned)}", style="bold"))
    console.print(_grid(planned, costs))
    if costs.costs:
        for line in _totals(planned, costs, budget):
            print(line)
    for one in planned:
        if one.standing.usable is None:
            print(f"\n# {one.title} is {one.standing.state}: {one.cause}{_said(one, costs)}")
            print(one.command)
    below = costs.below(planned)
    if below:
        print(f"\n# computed on the way, once for all that build on them: {runs(len(below))}")
        for one in below:
            print(one.command)


def left_out(
    wanted: Sequence[Planned], paid: Sequence[Planned], costs: Forecast, hours: float
) -> Iterator[str]:
    """What a budget leaves missing, in words; nothing where it pays for all."""
    rest = [one for one in wanted if one not in paid]
    if not rest:
        return
    yield (
        f"a budget of {duration(hours * 3600)} pays for {len(paid)} of {runs(len(wanted))}, "
        f"not for {len(rest)}"
    )
    for one in rest:
        total = costs.total(costs.closure(one.digest))
        yield f"{one.title} stays missing: {total}"


def _counts(planned: Sequence[Planned]) -> str:
    states: list[str] = [one.standing.state for one in planned]
    shown = [state for state in COLOURS if state != "blocked" or state in states]
    return ", ".join(f"{states.count(state)} {state}" for state in shown)


def _grid(planned: Sequence[Planned], costs: Forecast) -> Grid:
    from rich.table import Table as Grid
    from rich.text import Text

    labels = list(dict.fromkeys(key for one in planned for key in one.need.labels))
    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("state", "experiment", *labels, "cost", "run"):
        grid.add_column(Text(heading), no_wrap=heading in ("state", "cost", "run"))
    for one in planned:
        state = one.standing.state
        places = [Text(str(one.need.labels.get(key, ""))) for key in labels]
        name = Text(one.need.question.experiment.name)
        price = Text(_price(one, costs))
        grid.add_row(Text(state, style=COLOURS[state]), name, *places, price, one.run_id or "-")
    return grid


def _price(one: Planned, costs: Forecast) -> str:
    """Own time and, behind a plus, that of the missing runs below."""
    digest = one.digest
    if digest not in costs.costs:
        return "-"
    own, below = costs.costs[digest].seconds, costs.closure(digest) - {digest}
    text = "unknown" if own is None else duration(own)
    if not below:
        return text
    total = costs.total(below)
    if total.num_unknown == total.num_runs:
        return f"{text} + unknown for {runs(len(below))} below"
    known = f"{text} + {duration(total.seconds)} for {runs(len(below))} below"
    return known + (f" ({total.num_unknown} unknown)" if total.num_unknown else "")


def _totals(planned: Sequence[Planned], costs: Forecast, budget: float | None) -> Iterator[str]:
    yield f"\nto compute: {runs(len(costs.costs))}, {costs.total()}"
    if budget is not None:
        wanted = [one for one in planned if one.standing.usable is None]
        paid = costs.within(wanted, budget)
        yield from left_out(wanted, paid, costs, budget)
        if len(paid) == len(wanted):
            yield f"a budget of {duration(budget * 3600)} pays for all of it"


def _said(one: Planned, costs: Forecast) -> str:
    """From what the cost of this run alone was predicted."""
    cost = costs.costs.get(one.digest)
    return f"; {spoken(cost)}" if cost else ""


def spoken(cost: Cost) -> str:
    """A cost with what it rests on."""
    if cost.seconds is None:
        return "cost unknown: no finished run of this experiment"
    text = f"about {duration(cost.seconds)}, predicted from {runs(len(cost.siblings))}"
    return text + (f", which differ in {', '.join(cost.differing)}" if cost.differing else "")
