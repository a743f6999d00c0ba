"""The runs that a table needs, what stands of them, and the tidy frame that they make together."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from papertrail.core import cli
from papertrail.core.errors import BadInput, Missing
from papertrail.core.query import Record
from papertrail.core.standing import Standing, standings
from papertrail.core.store import Store
from papertrail.tables.catalog import NEVER, Need, Table
from papertrail.tables.listing import print_plan

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "Planned", "plan", "print_plan", "refuse_holes", "tidy"]

COLUMNS = ("experiment", "identity", "run_id", "failed_gates", "why", "doubled", "not_finite")
"""Columns of the tidy frame beside labels and metrics."""


@dataclass(frozen=True)
class Planned:
    """One need and what the store knew of it when the plan was made."""

    need: Need
    standing: Standing

    @property
    def title(self) -> str:
        labels = (f"{key}={value}" for key, value in self.need.labels.items())
        return " ".join([self.need.question.experiment.name, *labels])

    @property
    def answer(self) -> str:
        """Id of the run that gives the numbers; empty where there are none."""
        return self.standing.usable.run_id if self.standing.usable else ""

    @property
    def run_id(self) -> str:
        record = self.standing.usable or self.standing.running
        return record.run_id if record else ""

    @property
    def cause(self) -> str:
        """Why there is no result, in one clause; empty where there is one."""
        if self.standing.usable:
            return ""
        if self.standing.running:
            return f"run {self.run_id} is still being computed"
        return self.standing.why or self.standing.blocked or NEVER

    @property
    def doubts(self) -> list[str]:
        """What speaks against the run although it answers."""
        return list(filter(None, (self.standing.doubled, self.standing.orphaned)))

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """The numbers of the run, infinity among them."""
        return _metrics(self.standing.usable) if self.standing.usable else {}

    @property
    def failed_gates(self) -> str:
        """Sentences of the controls that did not hold; a gate that reads NaN did not hold."""
        said = self.standing.usable.failed_gates if self.standing.usable else ""
        unsaid = [
            f"{name}: reads {value:g}, which is not passed"
            for name, value in self.metrics.items()
            if name.startswith("gate/") and value != 1 and f"{name[5:]}: " not in said
        ]
        return "; ".join(filter(None, [said, *unsaid]))

    @property
    def command(self) -> str:
        """What a person types to compute this run alone."""
        return cli.command(self.need.question.experiment, self.need.question.config)


def plan(table: Table, config: Any, store: Store) -> tuple[Planned, ...]:
    """What stands of the grid now: one look at the store for all of it.

    BadInput if two needs would fill the same place.
    """
    needs = table.needs(config)
    found = standings([need.question for need in needs], store)
    planned = tuple(map(Planned, needs, found))
    _refuse_twins(table, planned)
    return planned


def _refuse_twins(table: Table, planned: Sequence[Planned]) -> None:
    """A run that stands twice in one cell would count as two seeds."""
    labelled = Counter(one.title for one in planned)
    for title, count in labelled.items():
        if count > 1:
            raise BadInput(f"{table.name}: {count} runs are labelled {title}; repeat no seed")
    first: dict[Any, Planned] = {}
    for one in planned:
        cell = frozenset((k, v) for k, v in one.need.labels.items() if k != "seed")
        other = first.setdefault((str(one.standing.identity), cell), one)
        if other is not one:
            raise BadInput(
                f"{table.name}: {other.title} and {one.title} are one run "
                f"({one.standing.identity}); a seed must change what is computed"
            )


def refuse_holes(table: Table, planned: Sequence[Planned]) -> None:
    """Missing, naming each run that is not there and why, unless the whole grid is finished."""
    holes = [
        f"{one.need.question.experiment.name} {one.standing.identity} is {one.standing.state}"
        + (f" ({one.cause})" if one.cause != NEVER else "")
        for one in planned
        if one.standing.usable is None
    ]
    if holes:
        raise Missing(
            f"{table.name}: {len(holes)} of {len(planned)} runs have no result: "
            f"{'; '.join(holes)}; compute them with run_missing=true or draw it with partial=true"
        )


def tidy(planned: Sequence[Planned]) -> pd.DataFrame:
    """One row per need: its labels, `COLUMNS`, and every metric.

    `failed_gates` says which controls did not hold, `why` why there is no run, `doubled` which
    other run answers otherwise, `not_finite` which metrics are NaN or infinite (metric -> word).
    """
    import pandas as pd

    rows = []
    for one in planned:
        taken = one.need.labels.keys() & {*COLUMNS, *one.metrics}
        assert not taken, f"{one.title}: labels {sorted(taken)} name columns or metrics"
        odd = {key: str(value) for key, value in one.metrics.items() if not math.isfinite(value)}
        known: dict[str, Any] = {
            **one.need.labels,
            "experiment": one.need.question.experiment.name,
            "identity": str(one.standing.identity),
            "run_id": one.answer,
            "failed_gates": one.failed_gates,
            "why": one.cause,
            "doubled": one.standing.doubled,
            "not_finite": odd,
        }
        rows.append(known | dict(one.metrics))
    return pd.DataFrame(rows)


def _metrics(record: Record) -> dict[str, float]:
    # MLflow's SQL stores keep infinity as the largest float there is.
    return {
        key: math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
        for key, value in record.metrics.items()
    }
