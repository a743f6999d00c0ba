"""Tests for two systems measured on the same examples, and correction for asking often.

Axes: N examples, M hypotheses.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from papertrail.core.errors import BadInput

# 2^16 sign patterns are enumerated in well under a second; beyond that they are sampled.
_EXACT_UP_TO = 16
_SIGNS_AT_ONCE = 1 << 22


class McNemar(NamedTuple):
    """Examples on which exactly one of two systems succeeded, and the two-sided exact p-value."""

    only_a: int
    only_b: int
    p_value: float


def mcnemar(a: Bool[np.ndarray, " N"], b: Bool[np.ndarray, " N"]) -> McNemar:
    """Exact McNemar test of equal success rates on the same examples.

    A binomial test on the discordant pairs (McNemar, Psychometrika 12, 1947); p = 1 without any.
    """
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    return McNemar(only_a, only_b, mcnemar_p(only_a, only_b))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value from the numbers of discordant pairs."""
    discordant = only_a + only_b
    return float(stats.binomtest(only_a, discordant).pvalue) if discordant else 1.0


def sign_flip_p(
    differences: Float[np.ndarray, " N"], resamples: int = 9999, seed: int = 0
) -> float:
    """Two-sided permutation p-value of mean difference 0: each sign is as likely as the other.

    Exact up to 16 examples; beyond, `resamples` random sign patterns and the observed one
    (Phipson and Smyth 2010), so p is never 0. BadInput for no examples.
    """
    if not len(differences):
        raise BadInput("sign_flip_p: no differences; give at least 1")
    # A pattern that ties with the data must count; rounding of the sum must not decide.
    observed = abs(differences.sum()) - 1e-12 * np.abs(differences).sum()
    if len(differences) <= _EXACT_UP_TO:
        bits = np.arange(1 << len(differences))[:, None] >> np.arange(len(differences)) & 1
        return float((np.abs((1.0 - 2.0 * bits) @ differences) >= observed).mean())
    rng, hits, done = np.random.default_rng(seed), 0, 0
    while done < resamples:
        rows = min(resamples - done, max(1, _SIGNS_AT_ONCE // len(differences)))
        signs = 1.0 - 2.0 * rng.integers(2, size=(rows, len(differences)))
        hits += int((np.abs(signs @ differences) >= observed).sum())
        done += rows
    return (hits + 1) / (resamples + 1)


def wilcoxon_p(differences: Float[np.ndarray, " N"]) -> float:
    """Two-sided Wilcoxon signed-rank p-value, for heavy-tailed differences; zeros as in Pratt 1959.

    1 where every difference is zero.
    """
    if not differences.any():
        return 1.0
    return float(stats.wilcoxon(differences, zero_method="pratt").pvalue)


def holm(p_values: Float[np.ndarray, " M"]) -> Float[np.ndarray, " M"]:
    """Holm's step-down adjusted p-values, in the order given (Scand. J. Statist. 6, 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted
