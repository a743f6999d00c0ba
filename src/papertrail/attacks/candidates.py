"""Single-token replacements: ranked to first order by one gradient, then measured exactly.

Axes: B texts, S states of them, T tokens, D width, V vocabulary, N candidates, C ranks.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from papertrail.attacks.objectives import Objective
from papertrail.attacks.prefix import Known, Work, at_least_fp32, linearise, suffix_nll
from papertrail.nn.scoring import span_nll

# 256 MB of fp32 scores at a time: only a long text under a large vocabulary gets its own chunk.
_SCORES_AT_ONCE = 1 << 26


@dataclass(frozen=True)
class Candidates:
    """N replacements: `token` at `position` of state number `state`."""

    state: Int[Tensor, " N"]
    position: Int[Tensor, " N"]
    token: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.state)

    def __getitem__(self, rows: Tensor | slice) -> "Candidates":
        return Candidates(self.state[rows], self.position[rows], self.token[rows])

    def applied_to(self, ids: Int[Tensor, "S T"]) -> Int[Tensor, "N T"]:
        """The states of `ids` with each candidate put in."""
        return ids[self.state].scatter(1, self.position[:, None], self.token[:, None])


@dataclass(frozen=True)
class Ranked:
    """The C best replacements of every state, best first; `valid` where there are that many."""

    position: Int[Tensor, "S C"]
    token: Int[Tensor, "S C"]
    valid: Bool[Tensor, "S C"]


def first_order_scores(
    model: Any,
    objective: Objective,
    ids: Int[Tensor, "B T"],
    banned: Bool[Tensor, " V"] | None = None,
) -> Float[Tensor, "B T V"]:
    """First-order gain (e_v - e_cur) . dL/de of every replacement, in nats; -inf where not allowed.

    The derivative of the loss along a flip in one-hot space (HotFlip, arXiv 1712.06751, eq. 3),
    negated where the objective is minimised. -inf: positions that may not be attacked, banned ids
    and the current token.
    """
    _, gradient = linearise(model, objective, ids, Work())
    table = embedding_table(model)
    return gains(objective.sign * gradient, table, ids, objective.attackable, banned)


def gains(
    uphill: Float[Tensor, "S P D"],
    table: Float[Tensor, "V D"],
    ids: Int[Tensor, "S P"],
    attackable: Bool[Tensor, "S P"],
    banned: Bool[Tensor, " V"] | None,
) -> Float[Tensor, "S P V"]:
    """`first_order_scores` at P columns, from the embedding gradient of what is to grow."""
    scores = uphill @ table.T
    scores -= scores.gather(2, ids[..., None])
    if banned is not None:
        scores.masked_fill_(banned, -torch.inf)
    scores.masked_fill_(~attackable[..., None], -torch.inf)
    return scores.scatter_(2, ids[..., None], -torch.inf)


def rank(
    gradient: Float[Tensor, "S T D"],
    table: Float[Tensor, "V D"],
    objective: Objective,
    ids: Int[Tensor, "S T"],
    banned: Bool[Tensor, " V"] | None,
    count: int,
) -> Ranked:
    """The `count` replacements of largest first-order gain over all positions x tokens of a state.

    Equal gains go by position, then token id.
    """
    columns = objective.attackable.any(0).nonzero()[:, 0].tolist() or [0]
    lo, hi = columns[0], columns[-1] + 1  # no scores for what nobody may attack
    num_tokens = len(table)
    rows = max(1, _SCORES_AT_ONCE // ((hi - lo) * num_tokens))
    indices, valid = [], []
    for start in range(0, len(ids), rows):
        part = (slice(start, start + rows), slice(lo, hi))
        uphill = objective.sign * gradient[part]
        scores = gains(uphill, table, ids[part], objective.attackable[part], banned)
        best, exists = top(scores.flatten(1), count)
        indices.append(best)
        valid.append(exists)
    flat = torch.cat(indices)
    return Ranked(flat // num_tokens + lo, flat % num_tokens, torch.cat(valid))


def top(scores: Float[Tensor, "R M"], count: int) -> tuple[Int[Tensor, "R C"], Bool[Tensor, "R C"]]:
    """Indices of the `count` largest finite scores of each row, ties by index, and which exist.

    torch.topk promises no order among equals; the k-th value is its, the choice is ours.
    """
    kth = scores.topk(min(count, scores.shape[1]), dim=1).values[:, -1:]
    row, index = ((scores >= kth) & scores.isfinite()).nonzero(as_tuple=True)
    order = scores[row, index].argsort(descending=True, stable=True)
    order = order[row[order].argsort(stable=True)]
    row, index = row[order], index[order]
    place = rank_within(row)
    kept = place < count
    indices = row.new_zeros(len(scores), count)
    valid = torch.zeros_like(indices, dtype=torch.bool)
    indices[row[kept], place[kept]] = index[kept]
    valid[row[kept], place[kept]] = True
    return indices, valid


def rank_within(groups: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """0, 1, 2, ... within each run of equal values of the sorted `groups`."""
    index = torch.arange(len(groups), device=groups.device)
    begins = torch.ones_like(groups, dtype=torch.bool)
    begins[1:] = groups[1:] != groups[:-1]
    return index - index.where(begins, 0).cummax(0).values


def exact_losses(
    model: Any,
    objective: Objective,
    ids: Int[Tensor, "S T"],
    candidates: Candidates,
    known: Known | None = None,
    work: Work | None = None,
) -> Float[Tensor, " N"]:
    """Summed NLL in nats of the scored tokens of every candidate, by forward passes.

    Row s of `objective` belongs to state s. With `known` (of the same states) everything before
    a replaced position is taken from there, which is the same number; without it, or where the
    architecture has no plain key-value cache, whole texts are run. Equal candidates are run once.
    """
    if not len(candidates):
        return torch.zeros(0, device=ids.device)
    work = work or Work()
    triples = torch.stack([candidates.state, candidates.position, candidates.token])
    (state, position, token), inverse = torch.unique(triples, dim=1, return_inverse=True)
    shared = known is not None and known.prefix is not None
    first = _first_changed(objective, state, position) if shared else torch.zeros_like(position)
    order = first.argsort(stable=True)
    distinct = Candidates(state[order], position[order], token[order])
    starts, end = first[order].tolist(), ids.shape[1]

    @torch.no_grad()
    def compute(part: slice) -> Tensor:
        some, start = distinct[part], starts[part.start]
        perturbed, scored = some.applied_to(ids), objective.scored[some.state]
        if known is None or known.prefix is None or start == 0:
            return suffix_nll(model, perturbed, scored, 0, None)
        cache = known.prefix.cache(some.state, start)
        unchanged = known.token_nll[some.state, : start + 1].sum(1)
        return unchanged + suffix_nll(model, perturbed, scored, start, cache)

    losses = torch.cat(work.in_chunks([end - start for start in starts], compute))
    return torch.empty_like(losses).scatter_(0, order, losses)[inverse]


def evaluate_ids(
    model: Any, objective: Objective, ids: Int[Tensor, "B n T"], work: Work | None = None
) -> Float[Tensor, "B n"]:
    """Summed NLL in nats of n versions of every text: transfer, or a curve on another model.

    Equal versions of a text are run once.
    """
    work = work or Work()
    num_texts, num_versions, _ = ids.shape
    text = torch.arange(num_texts, device=ids.device).repeat_interleave(num_versions)
    keyed = torch.cat([text[:, None], ids.flatten(0, 1)], dim=1)
    distinct, inverse = torch.unique(keyed, dim=0, return_inverse=True)

    @torch.no_grad()
    def compute(part: slice) -> Tensor:
        some = distinct[part]
        return span_nll(model, some[:, 1:], objective.scored[some[:, 0]])

    costs = [ids.shape[2]] * len(distinct)
    return torch.cat(work.in_chunks(costs, compute))[inverse].view(num_texts, num_versions)


def embedding_table(model: Any) -> Float[Tensor, "V D"]:
    """What the model's embedding layer gives for every id (some layers scale their weight)."""
    layer = model.get_input_embeddings()
    weight: Tensor = layer.weight.detach()
    if type(layer) is not nn.Embedding:
        weight = layer(torch.arange(len(weight), device=weight.device)).detach()
    return weight.to(at_least_fp32(weight.dtype))


def _first_changed(objective: Objective, state: Tensor, position: Tensor) -> Tensor:
    """First position to run again: a replaced token that is a target is predicted from before."""
    return (position - objective.scored[state, position].long()).clamp_min(0)
