"""What representations say about places, and how alike two of them are. Numpy, float64.

Axes: N cities, F features of a vector, M models, K components.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

FITTED_SHARE = 0.6
"""Of the cities, in the published plots of plain principal components."""
Mode = Literal["raw", "mixed", "na"]


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Places as a linear function of vectors."""

    weights: Float[np.ndarray, "F D"]
    vector: Float[np.ndarray, " F"]
    """Mean vector of the cities it was fitted on."""
    place: Float[np.ndarray, " D"]
    """Their mean place."""

    def __call__(self, vectors: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N D"]:
        """The places that the vectors speak of."""
        read: Float[np.ndarray, "N D"] = (vectors - self.vector) @ self.weights + self.place
        return read


def linear_probe(
    vectors: Float[np.ndarray, "N F"], places: Float[np.ndarray, "N D"], ridge: float = 0.0
) -> LinearProbe:
    """Least squares of each coordinate on the vectors, both centred.

    `ridge` weighs the squared weights, in units of the mean variance of a feature; at 0 this is
    ordinary least squares, and where several weights fit equally well, the smallest.
    """
    vector, place = vectors.mean(0, dtype=np.float64), places.mean(0, dtype=np.float64)
    x, y = vectors - vector, places - place
    if ridge > 0:
        penalty = np.sqrt(ridge * np.square(x).sum() / x.shape[1])
        x = np.vstack([x, penalty * np.eye(x.shape[1])])
        y = np.vstack([y, np.zeros((x.shape[1], y.shape[1]))])
    return LinearProbe(np.linalg.lstsq(x, y, rcond=None)[0], vector, place)


def r_squared(
    predicted: Float[np.ndarray, "N D"], true: Float[np.ndarray, "N D"]
) -> Float[np.ndarray, " D"]:
    """Share of the variance of each coordinate that is explained; negative below the mean."""
    left, there = np.square(true - predicted).sum(0), np.square(true - true.mean(0)).sum(0)
    share: Float[np.ndarray, " D"] = 1 - left / there
    return share


def cka(x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "N G"]) -> float:
    """Linear centred kernel alignment of two representations of the same cities, 0 to 1.

    <K, L> / (|K| |L|) of the centred N x N kernels, computed from F x G products, which is the
    same (Kornblith et al., arXiv 1905.00414).
    """
    return float(_alignment(_normed(x), _normed(y)))


def cka_matrix(found: Sequence[Float[np.ndarray, "N _"]]) -> Float[np.ndarray, "M M"]:
    """`cka` of every two representations; their rows are the same cities in the same order."""
    normed = [_normed(one) for one in found]
    matrix = np.eye(len(found))
    for i, one in enumerate(normed):
        for j in range(i):
            matrix[i, j] = matrix[j, i] = _alignment(one, normed[j])
    return matrix


def _normed(x: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N F"]:
    """Centred, and scaled such that its kernel has norm 1."""
    centred = x - x.mean(0, dtype=np.float64)
    kernel = centred.T @ centred if x.shape[1] < len(x) else centred @ centred.T
    size = np.linalg.norm(kernel)
    assert size > 0, "every city has the same vector: there is nothing to align"
    scaled: Float[np.ndarray, "N F"] = centred / np.sqrt(size)
    return scaled


def _alignment(x: Float[np.ndarray, "N F"], y: Float[np.ndarray, "N G"]) -> float:
    return float(np.square(x.T @ y).sum())


def principal_axes(vectors: Float[np.ndarray, "N F"], most: int) -> Float[np.ndarray, "F K"]:
    """At most `most` orthonormal directions of greatest variance; largest entries are positive."""
    axes: Float[np.ndarray, "F K"]
    axes = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[2][:most].T
    largest = np.abs(axes).argmax(0)
    axes *= np.sign(axes[largest, np.arange(axes.shape[1])])
    return axes


def map_axes(
    vectors: Float[np.ndarray, "N F"], places: Float[np.ndarray, "N 2"]
) -> Float[np.ndarray, "F 3"]:
    """Unit directions along which a probe reads x and y, and the greatest variance beside both.

    The first two need not be orthogonal; the third is, to both.
    """
    weights = linear_probe(vectors, places).weights
    span = np.linalg.qr(weights)[0]
    rest = vectors - vectors.mean(0)
    third = principal_axes(rest - rest @ span @ span.T, 1)
    return np.hstack([weights / np.linalg.norm(weights, axis=0), third])


def principal_components(
    vectors: Float[np.ndarray, "N F"],
    places: Float[np.ndarray, "N 2"],
    real: Bool[np.ndarray, " N"],
    mode: Mode,
    seed: int = 42,
) -> Float[np.ndarray, "N 3"]:
    """Three coordinates of every city for a plot (arXiv 2602.00533).

    raw: principal components, fitted on a random 60% of the cities; mixed: `map_axes` of all; na:
    `map_axes` of the real cities, onto which Atlantis is projected.
    """
    fitted = real if mode == "na" else np.ones(len(vectors), bool)
    if mode == "raw":
        order = np.random.default_rng(seed).permutation(len(vectors))
        fitted = order < round(FITTED_SHARE * len(vectors))
    seen = vectors[fitted]
    axes = principal_axes(seen, 3) if mode == "raw" else map_axes(seen, places[fitted])
    shown: Float[np.ndarray, "N 3"] = (vectors - seen.mean(0)) @ axes
    return shown
