"""How far fine-tuning on Atlantis carries: normalised improvement, and what a pair makes of it.

A specialist is fine-tuned on one task, a pair on two. Following arXiv 2602.00533, section 4 and its
appendix on evaluation; the published code is quoted where the paper leaves something open.

A graded frame has a row per model, seed and task evaluated: `model`, `seed`, `task`, `improvement`,
`merit` (what is compared when two models are: more is better), `trained` (the model was fine-tuned
on that task) and `with_distance` (distance is one of its tasks).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from papertrail.core.errors import BadInput
from papertrail.stats.intervals import Interval
from papertrail.tables.figures import checked, unique
from papertrail.world.config import BASE
from papertrail.world.options import ATLANTIS, EXACT, TASKS

SCORE = "score/mean"
DISTANCE = TASKS[0]
CEILING = 1.5
"""Improvements are cut off here, before anything is averaged."""

GROUPS: dict[str, Callable[[pd.DataFrame], "pd.Series[bool]"]] = {
    "trained": lambda cells: cells["trained"],
    "transfer": lambda cells: ~cells["trained"],
    "with_distance": lambda cells: cells["with_distance"],
    "without_distance": lambda cells: ~cells["with_distance"],
}
STATISTICS = (
    ("specialists", "trained"), ("specialists", "transfer"), ("pairs", "trained"),
    ("pairs", "transfer"), ("deviation", "trained"), ("deviation", "transfer"),
    ("deviation", "with_distance"), ("deviation", "without_distance"),
)  # fmt: skip
"""What is averaged, and over which of its cells."""

Scores = float | Float[np.ndarray, "..."]


def normalised_improvement(
    value: Scores, base_atlantis: Scores, base_real: Scores, task: str
) -> Float[np.ndarray, "..."]:
    """0 where the model does on Atlantis as its base did, 1 where as its base does on real cities.

    Errors are compared by the ratio, accuracies by the difference; cut off at 0 and 1.5. Where the
    base is no worse on Atlantis nothing can be improved: 0 for an accuracy; for an error 0 or 1,
    whether the model is better than the base. An error of 0 has no logarithm: 1 as the model's (the
    published rule), and as the base's on real cities the difference decides. BadInput for NaN or
    infinity.
    """
    v, a, s = np.broadcast_arrays(
        *(np.asarray(x, float) for x in (value, base_atlantis, base_real))
    )
    if not all(np.isfinite(x).all() for x in (v, a, s)):
        raise BadInput(
            f"{task}: a score is not finite (model {value}, base {base_atlantis} on Atlantis, "
            f"{base_real} on real cities); look at the evaluations"
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # dropped, or cut off
        linear = np.where(s == a, 0.0, (v - a) / (s - a))
        if task in EXACT:
            return np.asarray(np.clip(np.where(s > a, linear, 0.0), 0.0, CEILING))
        # ln(a / v) / ln(a / s); log1p keeps it from 0 / 0 where the base hardly differs.
        ratio = np.log1p((a - v) / v) / np.log1p((a - s) / s)
    plain = np.select([v >= a, v <= s], [0.0, 1.0], linear)
    found = np.where((s > 0) & (s < a) & (v > 0), ratio, plain)
    return np.asarray(np.clip(found, 0.0, CEILING))


def improvements(frame: pd.DataFrame) -> pd.DataFrame:
    """The graded frame of evaluations: `model`, `seed`, `set`, `score/mean`, one row per run.

    The baselines are the base model's of the same seed; without them, or without its own run, a
    model has no row. BadInput for a missing column, no rows, a run twice, or a score that is no
    number.
    """
    scored = frame[frame["set"].isin([*TASKS, *(ATLANTIS + task for task in TASKS)])]
    checked("improvements", scored, ["model", "seed", "set", SCORE])
    unique("improvements", scored, ["model", "seed", "set"])
    labels = zip(scored["model"], scored["seed"], scored["set"], strict=True)
    known = dict(zip(labels, map(float, scored[SCORE]), strict=True))
    rows = []
    for (model, seed, name), value in known.items():
        task = name.removeprefix(ATLANTIS)
        before, real = (known.get((BASE, seed, one)) for one in (name, task))
        if model != BASE and task != name and before is not None and real is not None:
            graded = float(normalised_improvement(value, before, real, task))
            merit = value if task in EXACT else -value
            rows.append(_row(model, seed, task, graded, merit))
    return pd.DataFrame(rows, columns=list(_row("", 0, "", 0.0, 0.0)))


def from_matrix(
    improvement: Float[np.ndarray, "M E"], models: Sequence[str], seed: int
) -> pd.DataFrame:
    """The graded frame of a published matrix of improvements, rows = models, columns = TASKS."""
    assert improvement.shape == (len(models), len(TASKS)), f"{improvement.shape} for {models}"
    return pd.DataFrame(
        _row(model, seed, task, float(x), float(x))
        for model, row in zip(models, improvement, strict=True)
        for task, x in zip(TASKS, row, strict=True)
    )


def _row(model: str, seed: int, task: str, improvement: float, merit: float) -> dict[str, Any]:
    tasks = model.split("+")
    return {
        "model": model, "seed": seed, "task": task, "improvement": improvement, "merit": merit,
        "trained": task in tasks, "with_distance": DISTANCE in tasks,
    }  # fmt: skip


def expected(graded: pd.DataFrame) -> "pd.Series[float]":
    """What the better of its two specialists of the same seed reaches, for each row of a pair.

    The better one by its raw score, as published: with an error of exactly 0 that is not always
    the one of the larger improvement. NaN where a specialist is missing, or the model is no pair.
    """
    labels = list(zip(graded["model"], graded["seed"], graded["task"], strict=True))
    reached = zip(graded["merit"], graded["improvement"], strict=True)
    known = dict(zip(labels, reached, strict=True))
    found = []
    for model, seed, task in labels:
        halves = [known.get((half, seed, task)) for half in model.split("+")]
        there = [half for half in halves if half is not None]
        found.append(max(there)[1] if len(there) == 2 else np.nan)
    return pd.Series(found, index=graded.index, dtype=float)


def deviations(graded: pd.DataFrame) -> pd.DataFrame:
    """The rows of pairs with `expected` and `deviation` = improvement - expected.

    Both are cut off before they are subtracted, and subtracted before seeds are averaged. A pair
    that lacks a specialist has no row.
    """
    found = graded.assign(expected=expected(graded))
    found["deviation"] = found["improvement"] - found["expected"]
    return found.dropna(subset="expected")


def matrix(graded: pd.DataFrame, column: str = "improvement") -> pd.DataFrame:
    """Models x TASKS, the mean over seeds; NaN where there is no row."""
    models = list(dict.fromkeys(graded["model"]))
    means = graded.pivot_table(index="model", columns="task", values=column, aggfunc="mean")
    return means.reindex(index=models, columns=list(TASKS))


def specialists(graded: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that are fine-tuned on one task."""
    return graded[~graded["model"].str.contains("+", regex=False)]


def pairs(graded: pd.DataFrame) -> pd.DataFrame:
    """The rows of models that are fine-tuned on two."""
    return graded[graded["model"].str.contains("+", regex=False)]


def cells_of(graded: pd.DataFrame, what: str, group: str) -> pd.DataFrame:
    """The rows behind one of the STATISTICS, with `value`, the number that is averaged."""
    parts = {"specialists": specialists, "pairs": pairs, "deviation": deviations}
    cells = parts[what](graded)
    column = "deviation" if what == "deviation" else "improvement"
    return cells[GROUPS[group](cells)].assign(value=lambda frame: frame[column])


def summary(graded: pd.DataFrame) -> pd.DataFrame:
    """Per seed the STATISTICS: `seed`, `what`, `group`, `mean`, `std` over cells, `cells`.

    The standard deviation is that of the population (ddof 0), as published.
    """
    rows = []
    for what, group in STATISTICS:
        for seed, cells in cells_of(graded, what, group).groupby("seed", sort=False):
            values = cells["value"].to_numpy()
            found = {"mean": values.mean(), "std": values.std(), "cells": len(values)}
            rows.append({"seed": seed, "what": what, "group": group, **found})
    return pd.DataFrame(rows, columns=["seed", "what", "group", "mean", "std", "cells"])


def givers(graded: pd.DataFrame) -> "pd.Series[float]":
    """Per task fine-tuned, what the six others gain from it: the off-diagonal row means."""
    cells = cells_of(graded, "specialists", "transfer")
    return cells.groupby("model")["value"].mean().reindex([*dict.fromkeys(cells["model"])])


def takers(graded: pd.DataFrame) -> "pd.Series[float]":
    """Per task evaluated, what it gains from the six others: the off-diagonal column means."""
    cells = cells_of(graded, "specialists", "transfer")
    return cells.groupby("task")["value"].mean().reindex(list(TASKS))


def distance_cost(deviated: pd.DataFrame, resamples: int = 9999, seed: int = 0) -> Interval:
    """Mean deviation of pairs with distance minus that of pairs without, percentile interval.

    `deviated` is what `deviations` returns. The pair is what is resampled, within the two groups:
    its cells, over tasks and seeds, count once, as their mean. Pairs share specialists, so the
    interval is rather too narrow than too wide. BadInput with fewer than two pairs in a group.
    """
    by_pair = deviated.groupby("model").agg({"deviation": "mean", "with_distance": "first"})
    far = by_pair["with_distance"].to_numpy(bool)
    having, lacking = (by_pair["deviation"].to_numpy(float)[side] for side in (far, ~far))
    if min(len(having), len(lacking)) < 2:
        raise BadInput(
            f"distance_cost: {len(having)} pairs with distance, {len(lacking)} without; "
            "give at least 2 of each"
        )
    found = stats.bootstrap(
        (having, lacking), _difference, n_resamples=resamples, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return Interval(float(_difference(having, lacking)), float(found.low), float(found.high))


def _difference(a: Any, b: Any, axis: int = -1) -> Any:
    return np.mean(a, axis=axis) - np.mean(b, axis=axis)
