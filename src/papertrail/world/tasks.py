"""The seven tasks: questions are drawn, answered, and told apart. arXiv 2602.00533, appendix A.

Answers follow the published generator, with two exceptions. TRUE and FALSE of `crossing` stay
balanced (there, cities are shuffled after the balancing, which leaves 26 % TRUE); segments that
merely touch do not cross, whichever city is named first.
Axes: N questions, S slots for cities, C cities of the world.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import comb, factorial
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64, UInt64

from papertrail.core.errors import BadInput
from papertrail.world import geometry
from papertrail.world.cities import Cities
from papertrail.world.options import Task

Kind = Literal["real", "atlantis", "all"]
"""Whose cities a question is about: real ones; one of Atlantis and any others; any."""
COMPASS = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")
LOGICAL = ("FALSE", "TRUE")
BALANCED: tuple[Task, ...] = ("inside", "crossing")
"""Tasks of which half of the rows are TRUE."""
SLOTS = 6
SIZES: Mapping[Task, tuple[int, ...]] = {
    "distance": (2,), "trianglearea": (3,), "angle": (3,), "compass": (2,),
    "inside": (4, 5, 6), "perimeter": (2, 3, 4, 5), "crossing": (4,),
}  # fmt: skip
"""How many cities a question names, each number as often as the next."""
CHUNK = 1 << 17  # rows drawn at once: their intermediate arrays stay in the cache
ROUNDS = 2_000  # of draws, after which a question is taken not to exist
NONE: UInt64[np.ndarray, " 0"] = np.empty(0, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Questions of one task with their answers."""

    task: Task
    cities: Int32[np.ndarray, "N 6"]
    """Index of each city in the order of the question; -1 where there is none."""
    answers: Int64[np.ndarray, " N"]
    """A number, or an index into COMPASS or LOGICAL."""

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, rows: slice) -> "Examples":
        return Examples(task=self.task, cities=self.cities[rows], answers=self.answers[rows])


# -- answers ---------------------------------------------------------------------------------------


def answers(
    task: Task, x: Int[np.ndarray, " C"], y: Int[np.ndarray, " C"], chosen: Int32[np.ndarray, "N 6"]
) -> Int64[np.ndarray, " N"]:
    """The answers to questions about the cities `chosen`; coordinates in units of the world."""
    places = np.where(chosen < 0, chosen[:, _FILLED_FROM[task], None], chosen)
    x, y = x.astype(np.int64)[places], y.astype(np.int64)[places]
    return _ANSWERS[task](x, y).astype(np.int64)


def _rounded(values: Float[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    return np.asarray(np.rint(values).astype(np.int64))


def _distance(x: Int64[np.ndarray, "N 6"], y: Int64[np.ndarray, "N 6"]) -> Int64[np.ndarray, " N"]:
    return _rounded(geometry.lengths(x, y, 0, 1))  # whole squares: never half-way


def _area(x: Int64[np.ndarray, "N 6"], y: Int64[np.ndarray, "N 6"]) -> Int64[np.ndarray, " N"]:
    return geometry.half_to_even(np.abs(geometry.side(x, y, 0, 1, 2)), 2)


def _angle(x: Int64[np.ndarray, "N 6"], y: Int64[np.ndarray, "N 6"]) -> Int64[np.ndarray, " N"]:
    """At the middle city, degrees; 0 where it coincides with another."""
    ax, ay, bx, by = x[:, 0] - x[:, 1], y[:, 0] - y[:, 1], x[:, 2] - x[:, 1], y[:, 2] - y[:, 1]
    turned = np.abs(geometry.cross(ax, ay, bx, by))
    return _rounded(np.degrees(np.arctan2(turned, ax * bx + ay * by)))


def _compass(x: Int64[np.ndarray, "N 6"], y: Int64[np.ndarray, "N 6"]) -> Int64[np.ndarray, " N"]:
    """The border between two words is irrational: no place lies on it."""
    degrees = np.degrees(np.arctan2(y[:, 1] - y[:, 0], x[:, 1] - x[:, 0]))
    return _rounded(degrees / 45) % 8


def _perimeter(x: Int64[np.ndarray, "N 6"], y: Int64[np.ndarray, "N 6"]) -> Int64[np.ndarray, " N"]:
    """Of the closed polygon; of two cities their distance, once. Empty slots repeat the first."""
    around = sum(geometry.lengths(x, y, slot, slot + 1) for slot in range(SLOTS - 1))
    two = ((x[:, 2:] == x[:, :1]) & (y[:, 2:] == y[:, :1])).all(axis=1)
    return _rounded(np.where(two, around / 2, around))


_ANSWERS: Mapping[Task, Callable[..., Int64[np.ndarray, " N"]]] = {
    "distance": _distance, "trianglearea": _area, "angle": _angle, "compass": _compass,
    "inside": geometry.in_hull, "perimeter": _perimeter,
    "crossing": lambda x, y: geometry.segments_cross(x[:, :4], y[:, :4]),
}  # fmt: skip
_FILLED_FROM: Mapping[Task, int] = {task: 1 if task == "inside" else 0 for task in SIZES}
"""The slot that stands in the empty ones: a hull, a closed polygon do not change by it."""


# -- drawing ---------------------------------------------------------------------------------------


def draw(
    task: Task,
    cities: Cities,
    kind: Kind,
    rows: int,
    random: np.random.Generator,
    avoid: UInt64[np.ndarray, " K"] = NONE,
    distinct: bool = False,
) -> Examples:
    """`rows` questions, none with a key in `avoid`, and no two with the same if `distinct`.

    Half of the rows of `inside` and `crossing` are TRUE on average: each row draws its answer, then
    questions until one has it. BadInput where no such question is found.
    """
    wanted = random.integers(2, size=rows) if task in BALANCED else np.zeros(rows, dtype=np.int64)
    found = Examples(
        task=task,
        cities=np.full((rows, SLOTS), -1, dtype=np.int32),
        answers=np.zeros(rows, dtype=np.int64),
    )
    open_ = [np.flatnonzero(wanted == label) for label in (0, 1)]
    for _ in range(ROUNDS):
        missing = sum(map(len, open_))
        if not missing:
            return found
        chosen = _chosen(task, cities, kind, min(CHUNK, 1_024 + 2 * missing), random)
        chosen, keys = _allowed(task, chosen, avoid, distinct)
        taken = _fill(found, open_, chosen, answers(task, cities.x, cities.y, chosen))
        if distinct:
            avoid = np.concatenate([avoid, keys[taken]])
    raise BadInput(
        f"world.cities: {len(cities)} with Atlantis give no {rows} {kind} questions of {task}; "
        "give more"
    )


def _allowed(
    task: Task,
    chosen: Int32[np.ndarray, "N 6"],
    avoid: UInt64[np.ndarray, " K"],
    distinct: bool,
) -> tuple[Int32[np.ndarray, "M 6"], UInt64[np.ndarray, " M"]]:
    """The questions that may be asked, and their keys."""
    keys = question_keys(task, chosen)
    fresh = ~np.isin(keys, avoid)
    if distinct:
        fresh &= _is_first(keys)
    return chosen[fresh], keys[fresh]


def _fill(
    found: Examples,
    open_: list[Int64[np.ndarray, " _"]],
    chosen: Int32[np.ndarray, "N 6"],
    answered: Int64[np.ndarray, " N"],
) -> Int64[np.ndarray, " T"]:
    """Put questions into the rows that wait for their answer; which of them found a place."""
    every = []
    for label, waiting in enumerate(open_):
        fits = answered == label if found.task in BALANCED else np.full(len(answered), label == 0)
        taken = np.flatnonzero(fits)[: len(waiting)]
        places, open_[label] = np.split(waiting, [len(taken)])
        found.cities[places], found.answers[places] = chosen[taken], answered[taken]
        every.append(taken)
    return np.concatenate(every)


def _is_first(keys: UInt64[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    first = np.zeros(len(keys), dtype=bool)
    first[np.unique(keys, return_index=True)[1]] = True
    return first


def _chosen(
    task: Task, cities: Cities, kind: Kind, rows: int, random: np.random.Generator
) -> Int32[np.ndarray, "N 6"]:
    """Different cities for each row, uniformly; of Atlantis one, in any slot, and any others."""
    pool = np.flatnonzero(cities.real) if kind == "real" else np.arange(len(cities))
    sizes = random.choice(SIZES[task], rows) if len(SIZES[task]) > 1 else SIZES[task][0]
    chosen = np.full((rows, SLOTS), -1, dtype=np.int32)
    used = np.broadcast_to(np.arange(SLOTS) < np.reshape(sizes, (-1, 1)), chosen.shape)
    open_ = np.arange(rows)
    while len(open_):
        drawn = pool[random.integers(len(pool), size=(len(open_), max(SIZES[task])))]
        if kind == "atlantis":
            drawn[:, 0] = random.choice(np.flatnonzero(~cities.real), len(open_))
        width = drawn.shape[1]
        # Empty slots hold numbers of their own, so that they are like no city and no other slot.
        kept = np.where(used[open_, :width], drawn, -1 - np.arange(width))
        ordered = np.sort(kept, axis=1)
        whole = (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
        chosen[open_[whole], :width] = np.maximum(kept[whole], -1)
        open_ = open_[~whole]
    if kind == "atlantis":
        every, slot = np.arange(rows), random.integers(sizes, size=rows)
        chosen[every, 0], chosen[every, slot] = chosen[every, slot], chosen[every, 0]
    return chosen


# -- telling apart ---------------------------------------------------------------------------------


def question_keys(task: Task, chosen: Int32[np.ndarray, "N 6"]) -> UInt64[np.ndarray, " N"]:
    """One number for each question; those with the same answer by symmetry share it.

    Others share one by chance, once in 2^64 pairs: then one of them is not asked.
    """
    keys = np.zeros(len(chosen), dtype=np.uint64)
    for column in _standard(task, chosen).T:
        keys = (keys + column.astype(np.uint64) + np.uint64(2)) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys


def _standard(task: Task, chosen: Int32[np.ndarray, "N 6"]) -> Int32[np.ndarray, "N 6"]:
    """The one order in which a question stands for all that are the same by symmetry."""
    if task == "perimeter":
        return _from_smallest(chosen)
    found = chosen.copy()
    if task == "angle":
        found[:, [0, 2]] = np.sort(chosen[:, [0, 2]], axis=1)
    elif task == "inside":
        found[:, 1:] = np.sort(chosen[:, 1:], axis=1)
    elif task == "crossing":
        first, second = np.sort(chosen[:, :2], axis=1), np.sort(chosen[:, 2:4], axis=1)
        swapped = (first[:, :1] > second[:, :1]) | (
            (first[:, :1] == second[:, :1]) & (first[:, 1:] > second[:, 1:])
        )
        found[:, :2] = np.where(swapped, second, first)
        found[:, 2:4] = np.where(swapped, first, second)
    else:
        found = np.sort(chosen, axis=1)
    return found


def _from_smallest(chosen: Int32[np.ndarray, "N 6"]) -> Int32[np.ndarray, "N 6"]:
    """Polygons from their smallest city on, towards the smaller of its neighbours."""
    rows, slots = np.arange(len(chosen))[:, None], np.arange(SLOTS)
    size = (chosen >= 0).sum(axis=1, keepdims=True)
    start = np.where(chosen < 0, np.iinfo(np.int32).max, chosen).argmin(axis=1, keepdims=True)
    both = [chosen[rows, (start + way * slots) % size] for way in (1, -1)]
    forward = both[0][:, 1:2] <= both[1][:, 1:2]
    return np.where(slots < size, np.where(forward, *both), -1).astype(np.int32)


def num_questions(task: Task, cities: Cities, kind: Kind) -> int:
    """How many questions there are, up to symmetry."""
    num, real = len(cities), int(cities.real.sum())
    if kind == "real":
        return _among(task, real)
    return _among(task, num) - (_among(task, real) if kind == "atlantis" else 0)


def _among(task: Task, n: int) -> int:
    """Of so many cities."""
    if task == "inside":
        return n * sum(comb(n - 1, size - 1) for size in SIZES[task])
    if task == "perimeter":
        return comb(n, 2) + sum(comb(n, k) * factorial(k - 1) // 2 for k in SIZES[task] if k > 2)
    return comb(n, SIZES[task][0]) * (3 if task in ("angle", "crossing") else 1)
