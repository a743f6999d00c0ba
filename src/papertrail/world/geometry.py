"""Plane geometry on whole coordinates: what is decided, is decided in integers.

Equirectangular plane, no wrap-around at the date line. Axes: N rows, K points of a row.
"""

from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

HULL = 5
"""Most points that span a hull here."""


def half_to_even(numerator: Int[np.ndarray, " N"], denominator: int) -> Int[np.ndarray, " N"]:
    """numerator / denominator to the nearest whole number; a tie goes to the even one."""
    whole, rest = np.divmod(numerator, denominator)
    return np.asarray(whole + (2 * rest + (whole & 1) > denominator))


def cross(
    ax: Int[np.ndarray, " N"], ay: Int[np.ndarray, " N"],
    bx: Int[np.ndarray, " N"], by: Int[np.ndarray, " N"],
) -> Int[np.ndarray, " N"]:  # fmt: skip
    """a x b: twice the signed area of the triangle (0, a, b), positive where b lies left of a."""
    return np.asarray(ax * by - ay * bx)


def side(
    x: Int[np.ndarray, "N K"], y: Int[np.ndarray, "N K"], a: int, b: int, c: int
) -> Int[np.ndarray, " N"]:
    """Twice the signed area of the triangle of the points in columns a, b and c."""
    ax, ay = x[:, a], y[:, a]
    return cross(x[:, b] - ax, y[:, b] - ay, x[:, c] - ax, y[:, c] - ay)


def lengths(
    x: Int[np.ndarray, "N K"], y: Int[np.ndarray, "N K"], a: int, b: int
) -> Float[np.ndarray, " N"]:
    """Euclidean distance of the points in columns a and b."""
    dx, dy = x[:, b] - x[:, a], y[:, b] - y[:, a]
    return np.asarray(np.sqrt(dx * dx + dy * dy))


def in_hull(x: Int[np.ndarray, "N 6"], y: Int[np.ndarray, "N 6"]) -> Bool[np.ndarray, " N"]:
    """Whether the first point lies in the convex hull of the other five, its border included.

    False where the five lie on a line. A point of a hull lies in a triangle of its corners
    (Caratheodory), so repeating a corner, which fills a row of fewer, changes nothing.
    """
    dx, dy = x[:, 1:] - x[:, :1], y[:, 1:] - y[:, :1]
    turn = {
        (i, j): cross(dx[:, i], dy[:, i], dx[:, j], dy[:, j])
        for i, j in combinations(range(HULL), 2)
    }
    found = np.zeros(len(x), dtype=bool)
    for i, j, k in combinations(range(HULL), 3):
        a, b, c = turn[i, j], turn[j, k], -turn[i, k]
        around = ((a >= 0) & (b >= 0) & (c >= 0)) | ((a <= 0) & (b <= 0) & (c <= 0))
        found |= around & (a + b + c != 0)
    return found


def segments_cross(x: Int[np.ndarray, "N 4"], y: Int[np.ndarray, "N 4"]) -> Bool[np.ndarray, " N"]:
    """Whether the segments of points 0, 1 and of points 2, 3 cross in an inner point of both."""
    apart = np.sign(side(x, y, 0, 1, 2)) * np.sign(side(x, y, 0, 1, 3)) < 0
    return np.asarray(apart & (np.sign(side(x, y, 2, 3, 0)) * np.sign(side(x, y, 2, 3, 1)) < 0))
