"""What an attack may change and what it is scored on, for a batch of texts.

Axes: B texts, T tokens.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from papertrail.core.errors import BadInput

Direction = Literal["max", "min"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """Push the summed NLL of the `scored` tokens up or down by replacing `attackable` tokens."""

    ids: Int[Tensor, "B T"]
    """The clean texts, right-padded."""
    attackable: Bool[Tensor, "B T"]
    """Positions whose token may be replaced; padding never is."""
    scored: Bool[Tensor, "B T"]
    """Tokens whose NLL is summed, always with the ids of the perturbed text as labels."""
    direction: Direction = "max"

    def __post_init__(self) -> None:
        assert not self.scored[:, 0].any(), "the first token has no context to be scored in"

    @property
    def sign(self) -> float:
        """+1 where a larger NLL is wanted, -1 where a smaller one is."""
        return 1.0 if self.direction == "max" else -1.0

    @property
    def num_scored(self) -> Int[Tensor, " B"]:
        """Scored tokens per text."""
        return self.scored.sum(1)

    @property
    def targets_are_fixed(self) -> bool:
        """Whether no attack can change what it is scored on."""
        return not bool((self.attackable & self.scored).any())

    def rows(self, index: Int[Tensor, " N"]) -> "Objective":
        """The same task for the texts of `index`, in that order, repeats allowed."""
        return Objective(
            ids=self.ids[index],
            attackable=self.attackable[index],
            scored=self.scored[index],
            direction=self.direction,
        )


def fixed_targets(
    ids: Int[Tensor, "B T"],
    num_tokens: Int[Tensor, " B"] | None = None,
    direction: Direction = "max",
) -> Objective:
    """The default protocol: only the first half may be attacked, only the second half is scored.

    Clean and attacked text then share every label, so a rise in NLL is the model's error and not
    the oddness of the inserted tokens. Position 0 is excluded. `num_tokens` are the texts' lengths
    before right-padding (default: T). BadInput for a text of fewer than 4 tokens.
    """
    lengths = _lengths(ids, num_tokens)
    if (lengths < 4).any():
        short = int((lengths < 4).nonzero()[0])
        raise BadInput(f"texts: text {short} has {int(lengths[short])} tokens; two halves need 4")
    position = torch.arange(ids.shape[1], device=ids.device)
    half = (lengths // 2)[:, None]
    return _checked(
        ids=ids,
        attackable=(position >= 1) & (position < half),
        scored=(position >= half) & (position < lengths[:, None]),
        direction=direction,
    )


def paper_compat(
    ids: Int[Tensor, "B T"],
    num_tokens: Int[Tensor, " B"] | None = None,
    direction: Direction = "max",
) -> Objective:
    """The published protocol: any position may be attacked and every token is scored.

    The perturbed ids are the labels, so replaced tokens count as targets and even random flips
    score high (arXiv 2602.02686, Appendix; kept for comparison with its numbers only).
    """
    lengths = _lengths(ids, num_tokens)
    position = torch.arange(ids.shape[1], device=ids.device)
    real = position < lengths[:, None]
    return Objective(ids=ids, attackable=real, scored=real & (position >= 1), direction=direction)


def spans(
    ids: Int[Tensor, "B T"], attacked: range, scored: range, direction: Direction = "min"
) -> Objective:
    """Attack one span of every text and score another: a trigger or suffix, and a target string."""
    position = torch.arange(ids.shape[1], device=ids.device)
    inside = [
        ((position >= span.start) & (position < span.stop)).expand(ids.shape)
        for span in (attacked, scored)
    ]
    return _checked(ids=ids, attackable=inside[0], scored=inside[1], direction=direction)


def _checked(*, ids: Tensor, attackable: Tensor, scored: Tensor, direction: Direction) -> Objective:
    for what, mask in (("position to attack", attackable), ("token to score", scored)):
        empty = (~mask.any(1)).nonzero()[:, 0].tolist()
        if empty:
            raise BadInput(f"texts: text {empty[0]} has no {what}; leave it out or make it longer")
    return Objective(ids=ids, attackable=attackable, scored=scored, direction=direction)


def _lengths(ids: Tensor, num_tokens: Tensor | None) -> Tensor:
    return torch.full_like(ids[:, 0], ids.shape[1]) if num_tokens is None else num_tokens
