"""What one token sequence in front of every text of a batch does to the texts' losses.

The trigger's own tokens are never targets, so clean and attacked texts are scored on the same ones.
Axes: B texts, T text tokens, P trigger tokens, K triggers, N = K * B rows, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from papertrail.attacks.objectives import Direction, Objective
from papertrail.attacks.prefix import Work, know, linearise, suffix_nll


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What a trigger is put in front of, and which tokens of it are scored."""

    ids: Int[Tensor, "B T"]
    """Right-padded."""
    scored: Bool[Tensor, "B T"]
    direction: Direction = "max"

    @property
    def sign(self) -> float:
        """+1 where a larger NLL is wanted, -1 where a smaller one is."""
        return 1.0 if self.direction == "max" else -1.0

    def behind(self, triggers: Int[Tensor, "K P"]) -> Objective:
        """Every text behind every trigger, (N, P + T), trigger by trigger, same targets."""
        trigger, text = _crossed(len(triggers), self.ids)
        ids = torch.cat([triggers[trigger], self.ids[text]], 1)
        width = triggers.shape[1]
        scored = F.pad(self.scored[text], (width, 0))
        attackable = torch.arange(ids.shape[1], device=ids.device) < width
        return Objective(
            ids=ids, attackable=attackable.expand_as(ids), scored=scored, direction=self.direction
        )


def whole_texts(
    ids: Int[Tensor, "B T"],
    num_tokens: Int[Tensor, " B"] | None = None,
    direction: Direction = "max",
) -> Texts:
    """Scores every token but a text's first: without a trigger nothing stands before that one.

    So clean and attacked texts share every target. `num_tokens` are the lengths before
    right-padding (default: T).
    """
    position = torch.arange(ids.shape[1], device=ids.device)
    lengths = torch.full_like(ids[:, 0], ids.shape[1]) if num_tokens is None else num_tokens
    scored = (position >= 1) & (position < lengths[:, None])
    return Texts(ids=ids, scored=scored, direction=direction)


def clean_losses(model: Any, texts: Texts, work: Work | None = None) -> Float[Tensor, " B"]:
    """Summed NLL in nats of every text's scored tokens with nothing in front of it."""

    @torch.no_grad()
    def compute(part: slice) -> Tensor:
        return suffix_nll(model, texts.ids[part], texts.scored[part], 0, None)

    return torch.cat((work or Work()).in_chunks([texts.ids.shape[1]] * len(texts.ids), compute))


def trigger_losses(
    model: Any, texts: Texts, triggers: Int[Tensor, "K P"], work: Work | None = None
) -> Float[Tensor, "K B"]:
    """Summed NLL in nats of every text's scored tokens behind every trigger.

    A trigger is run once for all texts and its keys and values are shared; where the architecture
    has no plain key-value cache, whole sequences are run: the same number.
    """
    work, width = work or Work(), triggers.shape[1]
    prefix = know(model, _unscored(triggers), _unscored(triggers).ids, work).prefix
    trigger, text = _crossed(len(triggers), texts.ids)
    first = 0 if prefix is None else width

    @torch.no_grad()
    def compute(part: slice) -> Tensor:
        ids = torch.cat([triggers[trigger[part]], texts.ids[text[part]]], 1)
        scored = F.pad(texts.scored[text[part]], (width, 0))
        cache = None if prefix is None else prefix.cache(trigger[part], width)
        return suffix_nll(model, ids, scored, first, cache)

    costs = [width + texts.ids.shape[1] - first] * len(text)
    return torch.cat(work.in_chunks(costs, compute)).view(len(triggers), len(texts.ids))


def trigger_gradient(
    model: Any, texts: Texts, trigger: Int[Tensor, " P"], work: Work | None = None
) -> Float[Tensor, "P D"]:
    """Gradient of the NLL summed over all texts by the trigger's embeddings, in fp32."""
    task = texts.behind(trigger[None])
    _, gradient = linearise(model, task, task.ids, work or Work())
    return gradient[:, : len(trigger)].sum(0)


def _crossed(num: int, texts: Tensor) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Trigger and text of every row of `num` triggers x texts, trigger by trigger."""
    row = torch.arange(num * len(texts), device=texts.device)
    return row // len(texts), row % len(texts)


def _unscored(triggers: Int[Tensor, "K P"]) -> Objective:
    """Triggers as texts of which only keys and values are wanted; the last column is never fed."""
    ids = torch.cat([triggers, triggers[:, :1]], 1)
    nowhere = torch.zeros_like(ids, dtype=torch.bool)
    return Objective(ids=ids, attackable=nowhere, scored=nowhere)
