"""Checks that a working attack passes and a broken one fails. No torch here.

After Carlini et al. (arXiv 1902.06705) and Tramer et al. (arXiv 2002.08347): more budget never
hurts, more knowledge never hurts, and the target stays where it was. Axes: N texts, T tokens.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from papertrail.stats.intervals import Interval, paired_bootstrap

Rises = Float[np.ndarray, " N"]
Counts = Int[np.ndarray, " N"]


class Gate(NamedTuple):
    """One check: its name, whether it passed, and a sentence with the numbers."""

    name: str
    passed: bool
    sentence: str


def white_box_beats_random(white_box: Rises, random: Rises) -> Gate:
    """Rise (nats per scored token, same texts and flips) of the attack beyond random flips.

    The whole 95 % interval of the mean paired difference has to lie above 0.
    """
    gap = paired_bootstrap(white_box, random)
    sentence = _sentence(white_box, "random flips", random, gap)
    return Gate("white_box_beats_random", gap.low > 0, sentence)


def white_box_not_below_query(white_box: Rises, query: Rises) -> Gate:
    """Rise of the attack against a gradient-free search with the same evaluations."""
    return _not_below("white_box_not_below_query", white_box, "query search", query)


def white_box_not_below_transfer(white_box: Rises, transferred: Rises) -> Gate:
    """Rise of the attack against one that was crafted on another model.

    Two models that share a start have nearly the same weak spots, and greedy search is no optimum:
    a tie is expected there, and only a control that is stronger beyond noise fails the attack.
    """
    return _not_below(
        "white_box_not_below_transfer", white_box, "the transferred attack", transferred
    )


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


def _not_below(name: str, attack: Rises, other_name: str, other: Rises) -> Gate:
    """Fails where the 95 % interval of the mean paired difference lies below 0."""
    gap = paired_bootstrap(attack, other)
    return Gate(name, gap.high >= 0, _sentence(attack, other_name, other, gap))


def _sentence(attack: Rises, other_name: str, other: Rises, gap: Interval) -> str:
    wins = int((attack > other).sum())
    return (
        f"the attack adds {attack.mean():.3f} nats per token, {other_name} {other.mean():.3f} "
        f"(difference [{gap.low:+.3f}, {gap.high:+.3f}]); stronger on {wins} of {len(attack)} texts"
    )
