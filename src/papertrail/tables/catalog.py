"""What a table is, which there are, and the experiment whose run is a rendering of one.

Imports neither torch nor mlflow, so that a typo in an order answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, make_dataclass
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from papertrail.core.errors import BadInput
from papertrail.core.project import PACKAGE
from papertrail.core.question.experiment import Experiment, Question

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.tables.sheet import Sheet

NEVER = "never computed"


@dataclass(frozen=True)
class Need:
    """One run of the grid and where in the table it belongs."""

    labels: Mapping[str, str | int]
    question: Question


@dataclass(frozen=True, kw_only=True)
class Table:
    """A paper table: the grid of runs it needs and the pure function that draws it."""

    name: str
    study: str
    schema: type[Any]
    """What can be varied: the options of the runs behind it."""
    needs: Callable[[Any], list[Need]]
    """Config -> grid, in reading order."""
    draw: Callable[[pd.DataFrame], Sheet]
    """Tidy frame of the grid -> sheet. Pure: no store, no clock."""
    infrastructure: tuple[str, ...] = ()
    neutral: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    data: Callable[[Any], Mapping[str, str]] = field(default=lambda config: MappingProxyType({}))


@dataclass(frozen=True, kw_only=True)
class Order:
    """A table, and how much may be done to have it."""

    name: str
    """Which table; `-e tables -P name=?` lists them."""
    plan: bool = False
    """Print the grid of runs with their state and commands, and stop."""
    run_missing: bool = False
    """Compute what is missing first."""
    budget: float | None = None
    """Hours of computing that run_missing may spend, as predicted from finished runs."""
    partial: bool = False
    """Draw the table although runs are missing; their cells say so."""


HOW = ("plan", "run_missing", "budget", "partial")


def tables() -> dict[str, Table]:
    """Every table of every study, by name: a study declares TABLES in its tables module."""
    found: dict[str, Table] = {}
    for path in sorted(PACKAGE.glob("*/tables.py")):
        module = import_module(f"papertrail.{path.parent.name}.tables")
        found |= {table.name: table for table in module.TABLES}
    return found


def find(name: str) -> Table:
    """The table of that name; BadInput listing all if there is none."""
    known = tables()
    if name not in known:
        raise BadInput(f"name: no table ({name}); there are {', '.join(sorted(known))}")
    return known[name]


def rendering(table: Table) -> Experiment:
    """The experiment whose run is a rendering of `table`: its upstream is the table's grid."""

    def upstream(config: Any) -> Mapping[str, Question]:
        return {
            f"{number} {' '.join(map(str, need.labels.values()))}": need.question
            for number, need in enumerate(table.needs(config))
        }

    return Experiment(
        name="tables",
        study=table.study,
        schema=make_dataclass(
            "TableConfig", [], bases=(table.schema, Order), frozen=True, kw_only=True
        ),
        verb="papertrail.tables.order:draw",
        show="papertrail.tables.order:show",
        answer="papertrail.tables.order:answer",
        label=lambda config: str(config.name),
        stays=True,
        revision=2,
        infrastructure=(*table.infrastructure, *HOW),
        neutral=table.neutral,
        code=(table.draw.__module__,),
        upstream=upstream,
        data=table.data,
    )
