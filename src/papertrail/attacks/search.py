"""Iterated search over single-token flips: HotFlip, and the same search without a gradient.

Each position is flipped at most once, so the budget is the number of positions that differ from
the clean text. A flip is kept only if it helps, so the loss never falls with the budget.
Axes: B texts, S beam states of them, T tokens, N candidates, n = flips + 1 budgets.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from papertrail.attacks.candidates import (
    Candidates,
    Ranked,
    embedding_table,
    exact_losses,
    rank,
    rank_within,
)
from papertrail.attacks.objectives import Objective
from papertrail.attacks.prefix import Known, Work, know, linearise, splice, splice_known
from papertrail.attacks.sampling import Seen, allowed_ids, random_replacements, text_generators


@dataclass(frozen=True)
class Curve:
    """An attack at every budget 0 .. flips, from one pass."""

    ids: Int[Tensor, "B n T"]
    losses: Float[Tensor, "B n"]
    """Summed NLL of the scored tokens, nats."""
    evaluations: Int[Tensor, "B n"]
    """Exact evaluations of candidates spent on the text up to this budget."""
    gradients: Int[Tensor, "B n"]
    """Gradients (one forward and backward pass each) spent on the text up to this budget."""


@dataclass(frozen=True)
class _States:
    """The beam: rows sorted by text, best first; each with its ranked replacements."""

    text: Int[Tensor, " S"]
    known: Known
    losses: Float[Tensor, " S"]
    page: Int[Tensor, " S"]
    """How many pages of `ranked` have been evaluated: a state that stays is not expanded again."""
    ranked: Ranked


Expand = Callable[[Objective, Int[Tensor, "S T"], Int[Tensor, " S"]], tuple[Known, Ranked]]


def hotflip(
    model: Any,
    objective: Objective,
    *,
    flips: int,
    top_k: int,
    beam: int = 1,
    banned: Bool[Tensor, " V"] | None = None,
    work: Work | None = None,
) -> Curve:
    """Flip by flip, evaluate exactly the `top_k` best first-order replacements of every state.

    Greedy for `beam` = 1, else a beam over flip sequences (arXiv 1712.06751, section 3). A state
    none of whose replacements helped tries its next `top_k`. Deterministic.
    """
    work, table = work or Work(), embedding_table(model)

    def expand(task: Objective, ids: Tensor, text: Tensor) -> tuple[Known, Ranked]:
        known, gradient = linearise(model, task, ids, work)
        return known, rank(gradient, table, task, ids, banned, top_k * flips)

    return _search(model, objective, flips, top_k, beam, expand, work)


def query_search(
    model: Any,
    objective: Objective,
    *,
    flips: int,
    top_k: int,
    beam: int = 1,
    banned: Bool[Tensor, " V"] | None = None,
    seed: int = 0,
    texts: Sequence[int] | None = None,
    work: Work | None = None,
) -> Curve:
    """The gradient-free control: `hotflip` with `top_k` random (position, token) candidates.

    Same budget of flips and of exact evaluations. `texts` number the rows (default 0, 1, ...), so
    that a text's draws do not depend on the batch it is in.
    """
    work = work or Work()
    allowed = allowed_ids(model.get_input_embeddings().weight.shape[0], banned)
    generators = text_generators(seed, texts or range(len(objective.ids)))

    def expand(task: Objective, ids: Tensor, text: Tensor) -> tuple[Known, Ranked]:
        own = [generators[t] for t in text.tolist()]
        ranked = random_replacements(ids, task.attackable, allowed, top_k * flips, own)
        return know(model, task, ids, work), ranked

    curve = _search(model, objective, flips, top_k, beam, expand, work)
    return replace(curve, gradients=torch.zeros_like(curve.gradients))


def _search(
    model: Any,
    objective: Objective,
    flips: int,
    top_k: int,
    beam: int,
    expand: Expand,
    work: Work,
) -> Curve:
    text = torch.arange(len(objective.ids), device=objective.ids.device)
    known, ranked = expand(objective, objective.ids, text)
    states = _States(text, known, known.losses, torch.zeros_like(text), ranked)
    ids, losses = [known.ids], [known.losses]
    evaluations, gradients = [torch.zeros_like(text)], [torch.zeros_like(text)]
    seen = Seen(objective.ids)
    for flip in range(1, flips + 1):
        gradients.append(gradients[-1] + _per_text(states.text[states.page == 0], text))
        candidates = _page(states, top_k)
        if beam > 1:  # two orders of the same flips are one state; a single line has no such pair
            candidates = seen.unseen(candidates, states.text, states.known.ids, top_k)
        task = objective.rows(states.text)
        measured = exact_losses(model, task, states.known.ids, candidates, states.known, work)
        evaluations.append(evaluations[-1] + _per_text(states.text[candidates.state], text))
        chosen = _choose(objective.sign, states, candidates, measured, beam)
        leader = rank_within(chosen.text) == 0
        ids.append(chosen.ids[leader])
        losses.append(chosen.losses[leader])
        if flip < flips:
            states = _advanced(objective, states, chosen, expand)
    return Curve(*(torch.stack(x, 1) for x in (ids, losses, evaluations, gradients)))


@dataclass(frozen=True)
class _Chosen:
    """The next beam: rows sorted by text, best first; old states stay, the others are fresh."""

    text: Int[Tensor, " S"]
    ids: Int[Tensor, "S T"]
    losses: Float[Tensor, " S"]
    is_fresh: Bool[Tensor, " S"]
    stay: Int[Tensor, " M"]
    """Where the rows that are not fresh were in the old beam."""


def _page(states: _States, top_k: int) -> Candidates:
    """The next `top_k` ranked replacements of every state."""
    ranked, num_states = states.ranked, len(states.text)
    column = states.page[:, None] * top_k + torch.arange(top_k, device=states.page.device)
    row = torch.arange(num_states, device=column.device)[:, None].expand_as(column)
    exists = ranked.valid[row, column]
    row, column = row[exists], column[exists]
    return Candidates(row, ranked.position[row, column], ranked.token[row, column])


def _choose(
    sign: float, states: _States, candidates: Candidates, measured: Tensor, beam: int
) -> _Chosen:
    """The `beam` best of each text's states and candidates; on a tie the state that was there."""
    text = torch.cat([states.text, states.text[candidates.state]])
    losses = torch.cat([states.losses, measured])
    order = (sign * losses).argsort(descending=True, stable=True)
    order = order[text[order].argsort(stable=True)]
    rows = order[rank_within(text[order]) < beam]
    is_fresh = rows >= len(states.text)
    stay, fresh = rows[~is_fresh], candidates[rows[is_fresh] - len(states.text)]
    ids = splice(states.known.ids, stay, fresh.applied_to(states.known.ids), is_fresh)
    return _Chosen(text[rows], ids, losses[rows], is_fresh, stay)


def _advanced(objective: Objective, old: _States, chosen: _Chosen, expand: Expand) -> _States:
    """The chosen states with everything known about them; only fresh ones are run."""
    stay, is_fresh = chosen.stay, chosen.is_fresh
    page = splice(old.page + 1, stay, torch.zeros_like(chosen.text[is_fresh]), is_fresh)
    if not is_fresh.any():  # then every old state has stayed, in order
        return replace(old, page=page)
    ids, text = chosen.ids[is_fresh], chosen.text[is_fresh]
    task = objective.rows(text)
    unflipped = replace(task, attackable=task.attackable & (ids == task.ids))
    known, ranked = expand(unflipped, ids, text)
    return _States(
        chosen.text,
        splice_known(old.known, stay, known, is_fresh),
        chosen.losses,
        page,
        Ranked(
            splice(old.ranked.position, stay, ranked.position, is_fresh),
            splice(old.ranked.token, stay, ranked.token, is_fresh),
            splice(old.ranked.valid, stay, ranked.valid, is_fresh),
        ),
    )


def _per_text(owners: Int[Tensor, " N"], text: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    return owners.bincount(minlength=len(text))
