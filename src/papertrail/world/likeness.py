"""How alike models represent the same cities, over seeds, and whether that tells what they share.

Axes: N cities, F features of a vector.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from papertrail.core.errors import BadInput
from papertrail.world.generalisation import matrix, specialists
from papertrail.world.probes import cka_matrix

FEWEST = 3  # points that a line can be said to explain
Vectors = Float[np.ndarray, "N _"]


def likeness(found: Mapping[tuple[str, int], Vectors]) -> pd.DataFrame:
    """Linear CKA of every two models, the mean over pairs of different seeds: models x models.

    `found` maps (model, seed) to the vectors of the same real cities in the same order. With one
    seed its models are compared with each other, and a model with itself has no value (NaN).
    """
    labels = list(found)
    values = cka_matrix([found[label] for label in labels])
    models, seeds = (np.array([label[k] for label in labels]) for k in (0, 1))
    several = len(set(seeds)) > 1
    apart = seeds[:, None] != seeds if several else models[:, None] != models
    names = list(dict.fromkeys(models.tolist()))
    rows = [
        [_mean(values[apart & np.outer(models == one, models == other)]) for other in names]
        for one in names
    ]
    return pd.DataFrame(rows, index=names, columns=names)


def _mean(values: Float[np.ndarray, " K"]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def against_improvement(alike: pd.DataFrame, graded: pd.DataFrame) -> pd.DataFrame:
    """`trained`, `evaluated`, `cka`, `improvement`: specialists and what the other tasks gain.

    A row per ordered pair of tasks that both have a specialist in `alike`.
    """
    reached = matrix(specialists(graded))
    tasks = [task for task in reached.index if task in alike.index]
    rows = [
        {
            "trained": one, "evaluated": other, "cka": alike.loc[one, other],
            "improvement": reached.loc[one, other],
        }
        for one in tasks for other in tasks if one != other
    ]  # fmt: skip
    columns = ["trained", "evaluated", "cka", "improvement"]
    return pd.DataFrame(rows, columns=columns).dropna()


def explained(points: pd.DataFrame) -> tuple[float, float, float, float]:
    """R^2 and p-value of a line through `cka`, `improvement`; its slope and intercept.

    The p-value takes the points for independent, as published; they share models and tasks.
    BadInput for fewer than three points.
    """
    if len(points) < FEWEST:
        raise BadInput(f"explained: {len(points)} points; give at least 3 specialists")
    line = stats.linregress(points["cka"].to_numpy(float), points["improvement"].to_numpy(float))
    return float(line.rvalue**2), float(line.pvalue), float(line.slope), float(line.intercept)
