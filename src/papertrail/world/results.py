"""What the evaluations and representations of a study come to, as JSON and as metrics."""

from typing import Any

import numpy as np
import pandas as pd

from papertrail.core import progress
from papertrail.core.errors import BadInput
from papertrail.world.generalisation import (
    deviations,
    distance_cost,
    matrix,
    pairs,
    specialists,
    summary,
)
from papertrail.world.options import TASKS
from papertrail.world.sheets_models import cka_metric

COMPARED = ("heldout/error_mean", "atlantis/error_mean")
"""How far from their places cities are put: real ones that no probe saw, and Atlantis."""


def tree(graded: pd.DataFrame, alike: pd.DataFrame) -> dict[str, Any]:
    """Matrices, models x tasks, of every seed and their mean, and CKA of every two models.

    `graded` as `improvements` gives it, `alike` as `likeness` does.
    """
    deviated = deviations(graded)
    return {
        "schema": 1,
        "tasks": list(TASKS),
        "improvement": {
            "specialists": _matrices(specialists(graded), "improvement"),
            "pairs": _matrices(pairs(graded), "improvement"),
        },
        "expected": _matrices(deviated, "expected"),
        "deviation": _matrices(deviated, "deviation"),
        "cka": _nested(alike),
    }


def headline(graded: pd.DataFrame) -> dict[str, float]:
    """The summary statistics, means over seeds, and what distance costs, with its interval."""
    known = summary(graded)
    known["key"] = known["what"] + "/" + known["group"]
    found = {str(key): float(part["mean"].mean()) for key, part in known.groupby("key")}
    try:
        cost = distance_cost(deviations(graded))
    except BadInput as error:  # a study of a few pairs has no interval
        progress.say(f"world: {error}")
        return found
    ends = {"distance_cost/low": cost.low, "distance_cost/high": cost.high}
    return found | {"distance_cost": cost.estimate, **ends}


def alike_metrics(alike: pd.DataFrame) -> dict[str, float]:
    """CKA of base and specialists, each two once."""
    few = [model for model in alike.index if "+" not in model]
    return {
        cka_metric(one, other): float(alike.loc[one, other])
        for one in few
        for other in few
        if np.isfinite(alike.loc[one, other])
    }


def compared(placed: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Base and specialists -> where a probe puts cities, as representations call it; means over
    seeds. `placed` has a row per representation: model, seed and its metrics."""
    few = placed[~placed["model"].str.contains("+", regex=False)]
    means = few.groupby("model", sort=False)[[*COMPARED]].mean()
    return {str(model): dict(zip(COMPARED, map(float, row), strict=True))
            for model, row in means.iterrows()}  # fmt: skip


def _matrices(cells: pd.DataFrame, column: str) -> dict[str, Any]:
    parts = {"mean": cells, **{str(seed): part for seed, part in cells.groupby("seed")}}
    return {name: _nested(matrix(part, column)) for name, part in parts.items()}


def _nested(values: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Row -> column -> number; what was not computed is null."""
    return {
        str(name): {str(k): None if np.isnan(v) else float(v) for k, v in row.items()}
        for name, row in values.iterrows()
    }
