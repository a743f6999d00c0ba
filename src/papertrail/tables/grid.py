"""The runs that a table needs, what stands of them, and the tidy frame that they make together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from papertrail.core import cli
from papertrail.core.errors import Missing
from papertrail.core.standing import Standing, standing
from papertrail.core.store import Store
from papertrail.tables.catalog import Need, Table

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Planned:
    """One need and what the store knows of it."""

    need: Need
    standing: Standing

    @property
    def run_id(self) -> str:
        record = self.standing.usable or self.standing.running
        return record.run_id if record else ""

    @property
    def command(self) -> str:
        """What a person types to compute this run alone."""
        return cli.command(self.need.question.experiment, self.need.question.config)


def plan(table: Table, config: Any, store: Store) -> list[Planned]:
    """What stands of the grid now."""
    return [
        Planned(need, standing(need.question.experiment, need.question.config, store))
        for need in table.needs(config)
    ]


def print_plan(table: Table, planned: Sequence[Planned]) -> None:
    """The grid with the state of each run and the command that computes it."""
    from rich.console import Console
    from rich.table import Table as Grid

    colours = {
        "finished": "green",
        "running": "cyan",
        "failed": "red",
        "blocked": "red",
        "missing": "yellow",
    }
    counts = ", ".join(
        f"{sum(one.standing.state == state for one in planned)} {state}" for state in colours
    )
    grid = Grid(title=f"{table.name}: {counts}", box=None, title_justify="left", pad_edge=False)
    for heading in ("state", "experiment", "labels", "run"):
        grid.add_column(heading, no_wrap=heading in ("state", "experiment"))
    for one in planned:
        state = one.standing.state
        labels = " ".join(f"{key}={value}" for key, value in one.need.labels.items())
        name = one.need.question.experiment.name
        grid.add_row(f"[{colours[state]}]{state}[/]", name, labels, one.run_id or "-")
    Console().print(grid)
    for one in planned:
        if one.standing.state != "finished":
            print(f"\n# {one.standing.state}: {one.standing.why or 'never computed'}")
            print(one.command)


def refuse_holes(table: Table, planned: Sequence[Planned]) -> None:
    """Missing, naming each run that is not there and why, unless the whole grid is finished."""
    holes = [
        f"{one.need.question.experiment.name} {one.standing.identity} is {one.standing.state}"
        + (f" ({one.standing.why})" if one.standing.why else "")
        for one in planned
        if one.standing.usable is None
    ]
    if holes:
        raise Missing(
            f"{table.name}: {len(holes)} of {len(planned)} runs have no result: "
            f"{'; '.join(holes)}; compute them with run_missing=true or draw it with partial=true"
        )


def tidy(planned: Sequence[Planned]) -> pd.DataFrame:
    """One row per need: its labels, experiment, run_id, what its gates say, and every metric."""
    import pandas as pd

    rows = []
    for one in planned:
        record = one.standing.usable
        known: dict[str, Any] = {
            **one.need.labels,
            "experiment": one.need.question.experiment.name,
            "run_id": record.run_id if record else "",
            "failed_gates": record.failed_gates if record else "",
            "why": one.standing.why or ("" if record else "never computed"),
        }
        rows.append(known | (dict(record.metrics) if record else {}))
    return pd.DataFrame(rows)
