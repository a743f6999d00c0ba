"""Which candidates to look at: random draws that belong to a text, and none that was seen before.

Axes: S states, C candidates per state, T tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from papertrail.attacks.candidates import Candidates, Ranked, rank_within


def text_generators(seed: int, texts: Sequence[int]) -> list[torch.Generator]:
    """One generator per text, from the attack's seed and the text's number."""
    # Fibonacci hashing keeps neighbouring (seed, text) pairs apart.
    return [
        torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + text) % (1 << 63))
        for text in texts
    ]


def distinct(population: int, count: int, generator: torch.Generator) -> Int[Tensor, " C"]:
    """min(count, population) different numbers below `population`, uniformly, in random order."""
    if population <= 4 * count:
        return torch.randperm(population, generator=generator)[:count]
    chosen: dict[int, None] = {}  # keeps the order of the draws; rejection of repeats is uniform
    while len(chosen) < count:
        draws = torch.randint(population, (count - len(chosen),), generator=generator)
        chosen.update(dict.fromkeys(draws.tolist()))
    return torch.tensor(list(chosen))


def random_replacements(
    ids: Int[Tensor, "S T"],
    attackable: Bool[Tensor, "S T"],
    allowed: Int[Tensor, " A"],
    count: int,
    generators: Sequence[torch.Generator],
) -> Ranked:
    """`count` different random (position, token) replacements of each state, in drawn order.

    Uniform over attackable positions x `allowed` ids (sorted) other than the current one.
    """
    positions, tokens, valid = (
        torch.zeros(len(ids), count, dtype=dtype) for dtype in (torch.long, torch.long, torch.bool)
    )
    choices = allowed.cpu()
    for row, (state, mask, generator) in enumerate(
        zip(ids.cpu(), attackable.cpu(), generators, strict=True)
    ):
        place = mask.nonzero()[:, 0]
        # One spare per position: that many draws can fall on the current token, and are dropped.
        draws = distinct(len(place) * len(choices), count + len(place), generator)
        position, token = place[draws // len(choices)], choices[draws % len(choices)]
        changes = (token != state[position]).nonzero()[:count, 0]
        positions[row, : len(changes)], tokens[row, : len(changes)] = (
            position[changes],
            token[changes],
        )
        valid[row, : len(changes)] = True
    device = ids.device
    return Ranked(positions.to(device), tokens.to(device), valid.to(device))


def allowed_ids(num_tokens: int, banned: Bool[Tensor, " V"] | None) -> Int[Tensor, " A"]:
    """The ids that an attack may write, ascending."""
    return torch.arange(num_tokens) if banned is None else (~banned).nonzero()[:, 0].cpu()


class Seen:
    """Every state evaluated so far, by a 64-bit hash of (text, ids)."""

    def __init__(self, ids: Int[Tensor, "B T"]) -> None:
        """Starts with the clean texts, whose losses an attack knows."""
        generator = torch.Generator().manual_seed(0)
        weights = torch.randint(-(1 << 62), 1 << 62, (ids.shape[1] + 1,), generator=generator)
        self.weights = weights.to(ids.device)
        self.hashes = self._hash(torch.arange(len(ids), device=ids.device), ids)

    def unseen(
        self,
        candidates: Candidates,
        text: Int[Tensor, " S"],
        ids: Int[Tensor, "S T"],
        at_most: int,
    ) -> Candidates:
        """`candidates` (sorted by state) without repeats and what was evaluated; notes the rest.

        The first `at_most` of each state.
        """
        old = self._hash(text, ids)
        before = ids[candidates.state, candidates.position]
        step = (candidates.token - before) * self.weights[candidates.position]
        hashes = old[candidates.state] + step  # wraps around 2^64, as a hash may
        order = hashes.argsort(stable=True)
        repeated = torch.zeros_like(order, dtype=torch.bool)
        repeated[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
        new = (~repeated & ~torch.isin(hashes, self.hashes)).nonzero()[:, 0]
        new = new[rank_within(candidates.state[new]) < at_most]
        self.hashes = torch.cat([self.hashes, hashes[new]])
        return candidates[new]

    def _hash(self, text: Tensor, ids: Tensor) -> Tensor:
        return (ids * self.weights[:-1]).sum(1) + text * self.weights[-1]
