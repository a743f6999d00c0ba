"""Projected gradient ascent on input embeddings: what no text can exceed by much.

Every attackable token is displaced within a ball of its own (Schwinn et al., arXiv 2402.09063,
section 3). Axes: B texts, T tokens, D width, V vocabulary, n = number of radii + 1 budgets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from papertrail.attacks.candidates import embedding_table
from papertrail.attacks.objectives import Objective
from papertrail.attacks.prefix import Work, linearise
from papertrail.core.errors import BadInput

Norm = Literal["l2", "linf"]


@dataclass(frozen=True)
class Ascent:
    """The best displacement found in every ball, the empty one first."""

    displacement: Float[Tensor, "B n T D"]
    """Of the input embeddings, relative to `embedding_size`."""
    losses: Float[Tensor, "B n"]
    """Summed NLL of the scored tokens, nats; the labels are those of the clean text."""
    gradients: Int[Tensor, "B n"]
    """Gradients (one forward and backward pass each) spent on the text up to this budget."""


@dataclass(frozen=True)
class _Point:
    """One displacement of every text, and how the loss looks from there."""

    displacement: Float[Tensor, "B T D"]
    losses: Float[Tensor, " B"]
    uphill: Float[Tensor, "B T D"]
    """Direction in which the objective grows; 0 where nothing may be moved."""


def pgd(
    model: Any,
    objective: Objective,
    *,
    radii: Sequence[int | float],
    steps: int,
    step_size: int | float,
    norm: Norm = "l2",
    banned: Bool[Tensor, " V"] | None = None,
    work: Work | None = None,
) -> Ascent:
    """Climb `steps` times within each of `radii`, from the best point of the ball before it.

    Radii are relative to `embedding_size`, steps to the radius. The best point on the way counts,
    so a larger radius is never worse. Deterministic. BadInput unless radii are positive and rise.
    """
    if not radii or any(a >= b for a, b in pairwise((0, *radii))):
        raise BadInput(f"pgd.radii: must be above 0 and rise {list(radii)}; sort them")
    work = work or Work()
    table = embedding_table(model)
    unit = embedding_size(table, norm, banned)

    def look(displacement: Tensor) -> _Point:
        known, gradient = linearise(model, objective, objective.ids, work, displacement * unit)
        uphill = objective.sign * gradient * objective.attackable[..., None]
        return _Point(displacement, known.losses, uphill)

    best = [look(table.new_zeros(*objective.ids.shape, table.shape[1]))]
    for radius in radii:
        here = leader = best[-1]
        for _ in range(steps):
            move = step_size * radius * steepest(here.uphill, norm)
            here = look(projected(here.displacement + move, radius, norm))
            leader = _better(objective.sign, leader, here)
        best.append(leader)
    spent = 1 + steps * torch.arange(len(best), device=objective.ids.device)
    return Ascent(
        torch.stack([point.displacement for point in best], 1),
        torch.stack([point.losses for point in best], 1),
        spent.expand(len(objective.ids), -1),
    )


def embedding_size(
    table: Float[Tensor, "V D"], norm: Norm, banned: Bool[Tensor, " V"] | None = None
) -> Float[Tensor, ""]:
    """What radii are relative to: the mean norm of an embedding, or its mean absolute entry.

    Over tokens that a text may hold: spare rows of the table are untrained.
    """
    rows = table if banned is None else table[~banned]
    return rows.norm(dim=-1).mean() if norm == "l2" else rows.abs().mean()


def steepest(uphill: Float[Tensor, "*batch D"], norm: Norm) -> Float[Tensor, "*batch D"]:
    """The step of length 1 that climbs most to first order, token by token; 0 where it is flat."""
    if norm == "linf":
        return uphill.sign()
    return torch.nn.functional.normalize(uphill, dim=-1, eps=torch.finfo(uphill.dtype).tiny)


def projected(
    displacement: Float[Tensor, "*batch D"], radius: int | float, norm: Norm
) -> Float[Tensor, "*batch D"]:
    """The nearest point of each token's ball."""
    if norm == "linf":
        return displacement.clamp(-radius, radius)
    return displacement * (radius / extent(displacement, norm)).clamp(max=1)[..., None]


def extent(displacement: Float[Tensor, "*batch D"], norm: Norm) -> Float[Tensor, "*batch"]:
    """How far each token was moved."""
    order = 2 if norm == "l2" else torch.inf
    lengths: Tensor = torch.linalg.vector_norm(displacement, order, dim=-1)
    return lengths


def _better(sign: float, old: _Point, new: _Point) -> _Point:
    """Text by text, the point that serves the objective more; on a tie the old one."""
    gain = sign * (new.losses - old.losses) > 0

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(gain.view(-1, *[1] * (a.ndim - 1)), b, a)

    return _Point(
        pick(old.displacement, new.displacement),
        pick(old.losses, new.losses),
        pick(old.uphill, new.uphill),
    )
