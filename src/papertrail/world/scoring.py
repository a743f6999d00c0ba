"""How far an answer is from the truth, task by task, as published (arXiv 2602.00533, code).

A number's score is its absolute error, a word's is 1 or 0. What is no answer at all scores as the
worst that a sensible answer could: the failure value. Numbers are not capped: one that runs on
scores worse than that.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from papertrail.world.options import EXACT, Task, World
from papertrail.world.tasks import COMPASS, LOGICAL

# The leading digits count, whatever follows them. Where `words` are spelt there is no bracket: the
# question ends with the first `=`.
ANYWHERE = re.compile(r"=(\d+)")
BEHIND_BRACKET = re.compile(r"(?:\)|^[^=)]*)=(\d+)")
NUMBERS: Mapping[Task, re.Pattern[str]] = {
    "distance": ANYWHERE,
    "trianglearea": ANYWHERE,
    "angle": BEHIND_BRACKET,
    "perimeter": BEHIND_BRACKET,
}
WORDS: Mapping[Task, frozenset[str]] = {
    "compass": frozenset(COMPASS),
    "inside": frozenset(LOGICAL),
    "crossing": frozenset(LOGICAL),
}


def failure(task: Task, world: World) -> float:
    """The score of what is no answer: 0 where words are asked for, else in the task's own unit.

    At 0.1 degrees per unit a map is 3600 x 1800 units: distance 4024.9, area 3,240,000 (half the
    map), perimeter 20,000.
    """
    if task in EXACT:
        return 0.0
    width, height = 360 / world.unit, 180 / world.unit
    return {
        "distance": math.hypot(width, height),
        "trianglearea": width * height / 2,
        "angle": 180.0,
        "perimeter": 2000 / world.unit,
    }[task]


def number(task: Task, text: str) -> int | None:
    """The number that a row answers with; None if it has none where the task's is looked for."""
    found = NUMBERS[task].search(text)
    return int(found[1]) if found else None


def word(text: str) -> str:
    """What follows the last `=`, in capitals and without spaces."""
    return text.rpartition("=")[2].replace(" ", "").upper()


def scored(
    task: Task, texts: Sequence[str], truths: Sequence[str], world: World
) -> tuple[Float[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Score of each row's text (question and answer), and whether it holds an answer at all.

    `truths` are the rows as they should be. An answer to a task of words is one of its words.
    """
    assert len(texts) == len(truths), f"{len(texts)} texts, {len(truths)} truths"
    if task in EXACT:
        said = [word(text) for text in texts]
        pairs = zip(said, truths, strict=True)
        right = [float(one == word(truth)) for one, truth in pairs]
        return np.array(right, float), np.array([one in WORDS[task] for one in said], bool)
    found = [number(task, text) for text in texts]
    worst = failure(task, world)
    scores = [
        worst if given is None else float(abs(given - _true_number(task, truth)))
        for given, truth in zip(found, truths, strict=True)
    ]
    return np.array(scores, float), np.array([given is not None for given in found], bool)


def _true_number(task: Task, truth: str) -> int:
    found = number(task, truth)
    assert found is not None, f"{task}: no number in the row {truth!r}"
    return found


def summary(task: Task, scores: Float[np.ndarray, " N"]) -> dict[str, float]:
    """Mean, median, population standard deviation, extremes, and the share of right answers."""
    best = 1.0 if task in EXACT else 0.0
    return {
        "mean": float(scores.mean()),
        "median": float(np.median(scores)),
        "std": float(scores.std()),
        "min": float(scores.min()),
        "max": float(scores.max()),
        "exact": float((scores == best).mean()),
    }
