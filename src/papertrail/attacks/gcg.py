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
from papertrail.attacks.search import Curve

# Candidates sampled for each of `width` where some may not survive, so that `width` are evaluated.
_SPARE = 2
# 256 MB of fp32 scores at a time.
_SCORES_AT_ONCE = 1 << 26

Survives = Callable[[Int[Tensor, "N T"]], Bool[Tensor, " N"]]


@dataclass(frozen=True)
class CoordinateSearch:
    """The best version of every text that the search held, and how it got there."""

    ids: Int[Tensor, "B T"]
    losses: Float[Tensor, " B"]
    """Summed NLL of the scored tokens, nats."""
    history: Float[Tensor, "B n"]
    """Loss of the version held after 0 .. steps steps; may worsen, as the search always moves."""
    held: Int[Tensor, "B n T"]
    """Those versions."""
    evaluations: Int[Tensor, "B n"]
    """Exact evaluations of candidates spent on the text up to each step."""
    best: Int[Tensor, "B n"]
    """The step at which the best version up to each step was held."""

    def curve(self, steps: Sequence[int]) -> Curve:
        """The best version up to each of `steps`: more steps never make it worse."""
        step = torch.tensor(steps, device=self.best.device)
        best = self.best[:, step]
        spread = best[..., None].expand(-1, -1, self.held.shape[2])
        return Curve(
            self.held.gather(1, spread),
            self.history.gather(1, best),
            self.evaluations[:, step],
            step.expand_as(best),
        )


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
    which none may leaves the text as it is.
    """
    work, table = work or Work(), embedding_table(model)
    generators = text_generators(seed, texts or range(len(objective.ids)))
    seen = Seen(objective.ids)
    ids, history = [objective.ids], list[Tensor]()
    text = torch.arange(len(objective.ids), device=objective.ids.device)
    evaluations = [torch.zeros_like(text)]
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
        spent = candidates.state.bincount(minlength=len(text))
        evaluations.append(evaluations[-1] + spent)
        leaders = _leaders(objective.sign * losses, candidates.state)
        moved = candidates[leaders]
        ids.append(ids[-1].index_copy(0, moved.state, moved.applied_to(ids[-1])))
        history.append(history[-1].index_copy(0, moved.state, losses[leaders]))
    losses, held = torch.stack(history, 1), torch.stack(ids, 1)
    best = (objective.sign * losses).cummax(1).indices
    last = best[:, -1]
    return CoordinateSearch(
        held[text, last], losses[text, last], losses, held, torch.stack(evaluations, 1), best
    )


def _best_tokens(
    gradient: Tensor,
    table: Tensor,
    objective: Objective,
    ids: Tensor,
    banned: Tensor | None,
    top_k: int,
) -> Ranked:
    """Every attackable position with its `top_k` tokens, (B, A * C): no order across positions.

    A text with fewer positions than others has its own first and nothing behind them.
    """
    row, place = objective.attackable.nonzero(as_tuple=True)
    uphill, current = objective.sign * gradient[row, place], ids[row, place]
    chunk = max(1, _SCORES_AT_ONCE // len(table))
    parts = [
        _top_of_columns(uphill[start : start + chunk], table, current[start : start + chunk],
                        banned, top_k)
        for start in range(0, len(row), chunk)
    ]  # fmt: skip
    token, valid = (torch.cat(some) for some in zip(*parts, strict=True))
    slot = rank_within(row)
    position = place[:, None].expand_as(token)
    shape = (len(ids), int(slot.max()) + 1, token.shape[1])
    filled = [x.new_zeros(shape).index_put((row, slot), x) for x in (position, token, valid)]
    return Ranked(*(x.flatten(1) for x in filled))


def _top_of_columns(
    uphill: Tensor, table: Tensor, current: Tensor, banned: Tensor | None, top_k: int
) -> tuple[Tensor, Tensor]:
    """The `top_k` best tokens of single positions, (N, C), and which exist."""
    open_places = torch.ones_like(current, dtype=torch.bool)
    scores = gains(uphill[:, None], table, current[:, None], open_places[:, None], banned)
    return top(scores[:, 0], top_k)


def _sampled(ranked: Ranked, width: int, generators: Sequence[torch.Generator]) -> Candidates:
    """`width` different replacements of each text, uniformly over those that exist."""
    # Rows of `existing` are sorted by text: each draws from its own stretch of them.
    existing, counts = ranked.valid.nonzero(), ranked.valid.sum(1)
    first = counts.cumsum(0) - counts
    owners = zip(first.tolist(), counts.tolist(), generators, strict=True)
    chosen = torch.cat([start + distinct(count, width, own) for start, count, own in owners])
    state, column = existing[chosen.to(existing.device)].T
    return Candidates(state, ranked.position[state, column], ranked.token[state, column])


def _leaders(scores: Tensor, state: Tensor) -> Tensor:
    """Index of the largest score of each state, the first on a tie."""
    order = scores.argsort(descending=True, stable=True)
    order = order[state[order].argsort(stable=True)]
    return order[rank_within(state[order]) == 0]
