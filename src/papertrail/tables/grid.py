"""The runs that a table needs, what stands of them, and the tidy frame that they make together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from papertrail.core.answering.standing import standings
from papertrail.core.errors import BadInput, Missing
from papertrail.core.storage.store import Store
from papertrail.tables.catalog import NEVER, Table
from papertrail.tables.listing import print_plan
from papertrail.tables.planned import Planned

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "Planned", "plan", "print_plan", "refuse_holes", "tidy"]

COLUMNS = ("experiment", "identity", "run_id", "failed_gates", "why", "doubled", "not_finite")
"""Columns of the tidy frame beside labels and metrics."""


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
        other = first.setdefault((one.digest, cell), one)
        if other is not one:
            raise BadInput(
                f"{table.name}: {other.title} and {one.title} are one run "
                f"({one.digest}); a seed must change what is computed"
            )


def refuse_holes(table: Table, planned: Sequence[Planned]) -> None:
    """Missing, naming each run that is not there and why, unless the whole grid is finished."""
    holes = [
        f"{one.need.question.experiment.name} {one.digest} is {one.standing.state}"
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
            "identity": one.digest,
            "run_id": one.answer,
            "failed_gates": one.failed_gates,
            "why": one.cause,
            "doubled": one.standing.doubled,
            "not_finite": odd,
        }
        rows.append(known | dict(one.metrics))
    return pd.DataFrame(rows)
