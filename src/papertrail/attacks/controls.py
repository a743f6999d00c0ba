"""Attacks that a search has to beat: random flips, and the published one-step gradient attack.

Axes: B texts, T tokens, V vocabulary, n = flips + 1 budgets.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from papertrail.attacks.candidates import embedding_table, evaluate_ids
from papertrail.attacks.objectives import Objective
from papertrail.attacks.prefix import Work, linearise
from papertrail.attacks.sampling import allowed_ids, text_generators
from papertrail.attacks.search import Curve


def random_flips(
    model: Any,
    objective: Objective,
    *,
    flips: int,
    draws: int,
    banned: Bool[Tensor, " V"] | None = None,
    seed: int = 0,
    texts: Sequence[int] | None = None,
    work: Work | None = None,
) -> list[Curve]:
    """`draws` independent curves of random flips: random positions, random other tokens.

    Budgets are nested: flip n of a draw is flip n - 1 and one more. The control's number is the
    mean over draws, of losses and of successes alike.
    """
    allowed = allowed_ids(model.get_input_embeddings().weight.shape[0], banned)
    generators = text_generators(seed, texts or range(len(objective.ids)))
    versions = torch.stack(
        [
            torch.stack([_flipped(objective, b, flips, allowed, g) for _ in range(draws)])
            for b, g in enumerate(generators)
        ]
    ).to(objective.ids.device)  # (B, draws, n, T)
    losses = evaluate_ids(model, objective, versions.flatten(1, 2), work)
    per_draw = losses.view(-1, draws, flips + 1)
    return [_curve(versions[:, d], per_draw[:, d]) for d in range(draws)]


def one_shot(
    model: Any,
    objective: Objective,
    *,
    flips: int,
    banned: Bool[Tensor, " V"] | None = None,
    work: Work | None = None,
) -> Curve:
    """The published "HotFlip": one gradient, largest |g| positions, argmax_v e_v . g, all at once.

    As run for arXiv 2602.02686: the current token is not excluded, nothing is evaluated again and
    nothing is undone, so the loss may fall with the budget. Ban no ids to reproduce it to the end.
    """
    work = work or Work()
    _, gradient = linearise(model, objective, objective.ids, work)
    norms = gradient.norm(dim=-1).masked_fill(~objective.attackable, -torch.inf)
    order = norms.argsort(dim=1, descending=True, stable=True)[:, :flips]  # (B, flips)
    rows = torch.arange(len(order), device=order.device)[:, None]
    scores = objective.sign * gradient[rows, order] @ embedding_table(model).T
    if banned is not None:
        scores.masked_fill_(banned, -torch.inf)
    # A text with fewer positions than flips keeps its own tokens for the rest of its budget.
    tokens = scores.argmax(-1).where(objective.attackable[rows, order], objective.ids[rows, order])
    versions = [objective.ids]
    for flip in range(flips):
        column = slice(flip, flip + 1)  # empty behind the last position of a short text
        versions.append(versions[-1].scatter(1, order[:, column], tokens[:, column]))
    ids = torch.stack(versions, 1)
    curve = _curve(ids, evaluate_ids(model, objective, ids, work))
    curve.gradients[:, 1:] = 1
    return curve


def _flipped(
    objective: Objective, text: int, flips: int, allowed: Tensor, generator: torch.Generator
) -> Int[Tensor, "n T"]:
    """One text after 0 .. flips random flips, as many as it has positions for."""
    ids = objective.ids[text].cpu()
    places = objective.attackable[text].cpu().nonzero()[:, 0]
    order = places[torch.randperm(len(places), generator=generator)[:flips]]
    versions = [ids]
    for place in order.tolist():
        others = allowed[allowed != ids[place]]
        token = others[torch.randint(len(others), (), generator=generator)]
        versions.append(versions[-1].clone().index_fill_(0, torch.tensor(place), int(token)))
    return torch.stack(versions + versions[-1:] * (flips - len(order)))


def _curve(ids: Int[Tensor, "B n T"], losses: Float[Tensor, "B n"]) -> Curve:
    """No candidate was evaluated in choosing: what is measured here is the outcome."""
    none = torch.zeros_like(ids[..., 0])
    return Curve(ids, losses, none, none.clone())
