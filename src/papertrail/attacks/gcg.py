"""Greedy coordinate gradient: sampled single-token replacements of an attacked span.

GCG (arXiv 2307.15043, algorithm 1). The text before the span is run once per step, only target
positions go through the head, and no state is evaluated twice. Axes: B texts, T tokens, A attacked
positions, C ranked tokens of each, V vocabulary, N candidates, n = steps + 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from papertrail.attacks.candidates import (
    Candidates,
    Ranked,
    embedding_table,
    exact_losses,
    gains,
    rank_within,
    top,
)
from papertrail.attacks.objectives import Objective
from papertrail.attacks.prefix import Work, linearise
from papertrail.attacks.sampling import Seen, distinct, text_generators

# Candidates sampled for each of `width` where some may not survive, so that `width` are evaluated.
_SPARE = 2

Survives = Callable[[Int[Tensor, "N T"]], Bool[Tensor, " N"]]


@dataclass(frozen=True)
class CoordinateSearch:
    """The best version of every text that the search held, and how it got there."""

    ids: Int[Tensor, "B T"]
    losses: Float[Tensor, " B"]
    """Summed NLL of the scored tokens, nats."""
    history: Float[Tensor, "B n"]
    """Loss of the version held after 0 .. steps steps; may worsen, as the search always moves."""
    evaluations: Int[Tensor, " B"]
    """Exact evaluations of candidates per text."""


def gcg(
    model: Any,
    objective: Objective,
    *,
    steps: int,
    width: int,
    top_k: int,
    banned: Bool[Tensor, " V"] | None = None,
    survives: Survives | None = None,
    seed: int = 0,
    texts: Sequence[int] | None = None,
    work: Work | None = None,
) -> CoordinateSearch:
    """Move `steps` times to the best of `width` sampled replacements, better than before or not.

    Sampled without repeats from the `top_k` first-order best tokens of every attackable position.
    `survives` tells which candidate texts may be used (for example by `tokens.round_trips`):
    others are replaced by spares before anything is evaluated, up to as many again; a step at
    which none may leaves the text as it is. All texts need equally many attackable positions.
    """
    work, table = work or Work(), embedding_table(model)
    generators = text_generators(seed, texts or range(len(objective.ids)))
    seen = Seen(objective.ids)
    ids, history = [objective.ids], list[Tensor]()
    text = torch.arange(len(objective.ids), device=objective.ids.device)
    evaluations = torch.zeros_like(text)
    for _ in range(steps):
        known, gradient = linearise(model, objective, ids[-1], work)
        history = history or [known.losses]
        ranked = _best_tokens(gradient, table, objective, ids[-1], banned, top_k)
        spare = 1 if survives is None else _SPARE
        candidates = _sampled(ranked, spare * width, generators)
        if survives is not None:
            candidates = candidates[survives(candidates.applied_to(ids[-1]))]
        candidates = seen.unseen(candidates, text, ids[-1], width)
        losses = exact_losses(model, objective, ids[-1], candidates, known, work)
        evaluations += candidates.state.bincount(minlength=len(text))
        leaders = _leaders(objective.sign * losses, candidates.state)
        moved = candidates[leaders]
        ids.append(ids[-1].index_copy(0, moved.state, moved.applied_to(ids[-1])))
        history.append(history[-1].index_copy(0, moved.state, losses[leaders]))
    curve = torch.stack(history, 1)
    step = (objective.sign * curve).argmax(1)
    best_ids, best = torch.stack(ids, 1)[text, step], curve[text, step]
    return CoordinateSearch(best_ids, best, curve, evaluations)


def _best_tokens(
    gradient: Tensor,
    table: Tensor,
    objective: Objective,
    ids: Tensor,
    banned: Tensor | None,
    top_k: int,
) -> Ranked:
    """Every attackable position with its `top_k` tokens, (B, A * C): no order across positions."""
    row, place = objective.attackable.nonzero(as_tuple=True)
    one = torch.ones_like(row, dtype=torch.bool)
    scores = gains(
        (objective.sign * gradient[row, place])[:, None],
        table,
        ids[row, place][:, None],
        one[:, None],
        banned,
    )
    token, valid = top(scores[:, 0], top_k)  # (B * A, C)
    position = place[:, None].expand_as(token)
    num_texts = len(ids)
    return Ranked(*(x.reshape(num_texts, -1) for x in (position, token, valid)))


def _sampled(ranked: Ranked, width: int, generators: Sequence[torch.Generator]) -> Candidates:
    """`width` different replacements of each text, uniformly."""
    population = ranked.position.shape[1]
    column = torch.stack([distinct(population, width, g) for g in generators])  # (B, width)
    column = column.to(ranked.position.device)
    state = torch.arange(len(column), device=column.device)[:, None].expand_as(column)
    exists = ranked.valid[state, column]
    state, column = state[exists], column[exists]
    return Candidates(state, ranked.position[state, column], ranked.token[state, column])


def _leaders(scores: Tensor, state: Tensor) -> Tensor:
    """Index of the largest score of each state, the first on a tie."""
    order = scores.argsort(descending=True, stable=True)
    order = order[state[order].argsort(stable=True)]
    return order[rank_within(state[order]) == 0]
