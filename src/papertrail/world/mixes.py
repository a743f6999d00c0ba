"""Which rows a model learns from, and what an optimizer step sees of them.

Axes: N rows, B rows of a batch, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Int, Int64, UInt8
from torch import Tensor

from papertrail.core.errors import BadInput
from papertrail.world.data import Asked, Rows
from papertrail.world.options import TASKS, Task, World
from papertrail.world.schemas import FinetuneConfig, PretrainConfig
from papertrail.world.spelling import PAD


@dataclass(frozen=True, kw_only=True)
class Part:
    """The first rows of a training set."""

    kind: Asked
    task: Task
    rows: int


def pretraining(config: PretrainConfig) -> tuple[Part, ...]:
    """Every training row about real cities, of each task of the base model."""
    num = config.world.train_rows
    return tuple(Part(kind="real", task=task, rows=num) for task in config.pretrain.tasks)


def finetuning(config: FinetuneConfig) -> tuple[Part, ...]:
    """What is trained, with and without Atlantis, then a few rows of each of the seven tasks.

    As published, those few are rows of the trained tasks for a second time. BadInput where the
    world has not as many rows.
    """
    mix = config.mix
    wanted: tuple[tuple[str, Asked, tuple[Task, ...], int], ...] = (
        ("real_rows", "real", mix.tasks, mix.real_rows),
        ("atlantis_rows", "atlantis", mix.tasks, mix.atlantis_rows),
        ("elicitation_rows", mix.elicitation, TASKS, mix.elicitation_rows),
    )
    for option, kind, _, rows in wanted:
        _refuse_more(config.world, option, kind, rows)
    return tuple(
        Part(kind=kind, task=task, rows=rows)
        for _, kind, tasks, rows in wanted
        for task in tasks
        if rows
    )


def _refuse_more(world: World, option: str, kind: Asked, wanted: int) -> None:
    offer = "train_rows" if kind == "real" else "atlantis_rows"
    there = getattr(world, offer)
    if wanted > there:
        raise BadInput(
            f"mix.{option}: world.{offer} gives {there} of each task ({wanted}); "
            "ask for fewer, or raise that"
        )


def assemble(rows: Rows, parts: Sequence[Part], seed: int) -> UInt8[np.ndarray, "N T"]:
    """All rows of the parts, in an order that the seed of the data gives."""
    chosen = [rows.get(part.kind, part.task, "train")[: part.rows] for part in parts]
    num, width = sum(map(len, chosen)), max(one.shape[1] for one in chosen)
    order = np.random.default_rng([seed, num]).permutation(num)
    mixed = np.zeros((num, width), dtype=np.uint8)  # filled in place: it may be 400 MB
    begin = 0
    for one in chosen:
        mixed[order[begin : begin + len(one)], : one.shape[1]] = one
        begin += len(one)
    return mixed


@dataclass(frozen=True, eq=False)
class Mixture:
    """Rows as an optimizer sees them."""

    rows: UInt8[np.ndarray, "N T"]

    def __len__(self) -> int:
        return len(self.rows)

    def steps_per_epoch(self, size: int) -> int:
        """Batches of `size` rows that show every row once; the last may be smaller."""
        return -(-len(self.rows) // size)

    def batch(self, step: int, size: int, seed: int) -> Int64[Tensor, "B T"]:
        """The rows of optimizer step `step`, from 0, shortest first, trimmed to the longest.

        A pure function of its arguments: an epoch shows every row once, in an order of its own.
        """
        epoch, place = divmod(step, self.steps_per_epoch(size))
        order = _epoch(len(self.rows), seed, epoch)
        taken = self.rows[order[place * size : (place + 1) * size]]
        lengths = (taken != PAD).sum(axis=1)
        by_length = np.argsort(lengths, kind="stable")
        return torch.from_numpy(taken[by_length, : lengths.max()].astype(np.int64))


@lru_cache(maxsize=2)
def _epoch(num: int, seed: int, epoch: int) -> Int64[np.ndarray, " N"]:
    return np.random.default_rng([seed, epoch]).permutation(num)


def split_by_length(rows: Int64[Tensor, "B T"], groups: int) -> list[Int64[Tensor, "_ _"]]:
    """A batch, shortest row first, cut into at most `groups` parts with the least padding.

    Each is trimmed to its own longest row. The sum of losses over all tokens stays what it was.
    """
    lengths = (rows != PAD).sum(dim=1).cpu().numpy()
    assert (np.diff(lengths) >= 0).all(), "rows come shortest first"
    starts = np.flatnonzero(np.diff(lengths, prepend=-1))  # a cut elsewhere saves nothing
    cuts = _cuts(np.append(starts, len(lengths)), lengths[starts], min(groups, len(starts)))
    return [rows[a:b, : lengths[b - 1]] for a, b in pairwise(cuts)]


def _cuts(edges: Int[np.ndarray, " E"], lengths: Int[np.ndarray, " L"], groups: int) -> list[int]:
    """Edges of the parts, by dynamic programming over the edges of equal lengths."""
    before, after = np.arange(len(edges))[:, None], np.arange(len(edges))[None]
    longest = np.concatenate([[0], lengths])
    cost = np.where(before < after, (edges[None] - edges[:, None]) * longest, np.inf)
    best, back = cost[0], []
    for _ in range(groups - 1):
        total = best[:, None] + cost
        back.append(total.argmin(axis=0))
        best = total.min(axis=0)
    found = [len(edges) - 1]
    for earlier in reversed(back):
        found.append(int(earlier[found[-1]]))
    return [0, *(int(edges[place]) for place in reversed(found))]
