"""Confidence intervals: for a share of texts, and for a paired difference.

Axes: N examples, K seeds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from papertrail.core.errors import BadInput

Statistic = Callable[..., Any]
Paired = Float[np.ndarray, " N"]


class Interval(NamedTuple):
    """A point estimate and the ends of its confidence interval, in the unit of the data."""

    estimate: float
    low: float
    high: float


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Wilson score interval of a proportion; stays inside [0, 1] and has width at 0 and n.

    Wilson, J. Am. Stat. Assoc. 22 (1927). BadInput where there is no trial.
    """
    if n < 1 or not 0 <= successes <= n:
        raise BadInput(
            f"wilson: {successes} successes in {n} trials; give 0 <= successes <= n, n > 0"
        )
    ends = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(ends.low), float(ends.high))


def paired_bootstrap(
    a: Paired,
    b: Paired,
    statistic: Statistic = np.mean,
    resamples: int = 9999,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Bootstrap interval of `statistic` of the differences a - b, resampled by example.

    BCa (Efron, J. Am. Stat. Assoc. 82, 1987) for the mean, percentile for anything else: the
    acceleration of a median is 0 / 0. `statistic` takes `axis`. Where every difference is the same
    the interval is that number. BadInput under 2 examples.
    """
    differences = a - b
    if len(differences) < 2:
        raise BadInput(f"paired_bootstrap: {len(differences)} pairs; give at least 2")
    estimate = float(statistic(differences, axis=0))
    if np.ptp(differences) == 0:
        return Interval(estimate, estimate, estimate)
    result = stats.bootstrap(
        (differences,),
        statistic,
        n_resamples=resamples,
        confidence_level=level,
        method="BCa" if statistic is np.mean else "percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(
        estimate, float(result.confidence_interval.low), float(result.confidence_interval.high)
    )


def seed_bootstrap(
    differences: Sequence[Float[np.ndarray, " _"]],
    resamples: int = 9999,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of the mean over training seeds of the mean difference over texts.

    Seeds are resampled, then texts within each: training seeds are the replication unit. With one
    seed it says nothing about training. BadInput for an empty seed or none.
    """
    if not differences or any(len(d) == 0 for d in differences):
        raise BadInput("seed_bootstrap: no differences; give one non-empty array per seed")
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(differences), size=(resamples, len(differences)))
    means = np.empty(drawn.shape)
    for k, values in enumerate(differences):
        places = np.nonzero(drawn == k)
        rows = rng.integers(len(values), size=(len(places[0]), len(values)))
        means[places] = values[rows].mean(1)
    tail = (1 - level) / 2
    low, high = np.quantile(means.mean(1), [tail, 1 - tail])
    estimate = float(np.mean([values.mean() for values in differences]))
    return Interval(estimate, float(low), float(high))
