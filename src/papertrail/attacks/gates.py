"""Checks that a working attack passes and a broken one fails. No torch here.

After Carlini et al. (arXiv 1902.06705) and Tramer et al. (arXiv 2002.08347): more budget never
hurts, more knowledge never hurts, and the target stays where it was. Axes: N texts, T tokens.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Rises = Float[np.ndarray, " N"]
Counts = Int[np.ndarray, " N"]


class Gate(NamedTuple):
    """One check: its name, whether it passed, and a sentence with the numbers."""

    name: str
    passed: bool
    sentence: str


def white_box_beats_random(white_box: Rises, random: Rises) -> Gate:
    """Mean rise (nats per scored token, same texts and flips) of the attack over random flips."""
    return _beats("white_box_beats_random", white_box, "random flips", random)


def white_box_beats_query(white_box: Rises, query: Rises) -> Gate:
    """Mean rise of the attack over a gradient-free search with the same evaluations."""
    return _beats("white_box_beats_query", white_box, "query search", query)


def white_box_beats_transfer(white_box: Rises, transferred: Rises) -> Gate:
    """Mean rise of the attack over one that was crafted on another model."""
    return _beats("white_box_beats_transfer", white_box, "the transferred attack", transferred)


def success_never_falls_with_budget(rates: Sequence[float]) -> Gate:
    """Success rate (share of texts) after 0, 1, 2, ... flips."""
    falls = [n for n, (a, b) in enumerate(pairwise(rates), 1) if b < a]
    curve = ", ".join(f"{rate:.1%}" for rate in rates)
    story = f"falls at {falls[0]} flips" if falls else "never falls"
    return Gate(
        "success_never_falls_with_budget",
        not falls,
        f"success {story} over budgets 0 to {len(rates) - 1}: {curve}",
    )


def fixed_targets(
    clean_ids: Int[np.ndarray, "N T"],
    attacked_ids: Int[np.ndarray, "N T"],
    scored: Bool[np.ndarray, "N T"],
) -> Gate:
    """Whether clean and attacked texts are scored on the same tokens."""
    moved = int(((clean_ids != attacked_ids) & scored).sum())
    return Gate(
        "fixed_targets", moved == 0, f"{moved} of {int(scored.sum())} scored tokens were replaced"
    )


def within_budget(
    clean_ids: Int[np.ndarray, "N T"],
    attacked_ids: Int[np.ndarray, "N T"],
    attackable: Bool[np.ndarray, "N T"],
    flips: int,
) -> Gate:
    """Whether at most `flips` tokens were replaced in each text, all of them attackable."""
    changed = clean_ids != attacked_ids
    most, outside = int(changed.sum(1).max()), int((changed & ~attackable).sum())
    return Gate(
        "within_budget",
        most <= flips and outside == 0,
        f"at most {most} tokens replaced in a text (budget {flips}), {outside} not attackable",
    )


def same_budget(white_box: Counts, control: Counts) -> Gate:
    """Whether the control had, on every text, no fewer exact evaluations than the attack."""
    short = int((control < white_box).sum())
    return Gate(
        "same_budget",
        short == 0,
        f"{int(white_box.sum())} exact evaluations by the attack, {int(control.sum())} by the "
        f"control; the control had fewer on {short} of {len(white_box)} texts",
    )


def _beats(name: str, attack: Rises, other_name: str, other: Rises) -> Gate:
    mine, theirs = float(attack.mean()), float(other.mean())
    wins = int((attack > other).sum())
    return Gate(
        name,
        mine > theirs,
        f"the attack adds {mine:.3f} nats per token, {other_name} {theirs:.3f}; "
        f"stronger on {wins} of {len(attack)} texts",
    )
