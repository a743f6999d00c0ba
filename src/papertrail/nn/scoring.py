"""Negative log-likelihood of chosen tokens under a causal language model.

The one place where a model's logits become a number: training, perplexity and attacks call it.
Axes: B sequences, T tokens, D width, V vocabulary, N scored tokens.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

CPU_ROWS = 256
CPU_LOGITS = 1 << 21
"""8 MB of logits at a time. From a few times that on, the C allocator gives pages back after every
piece and faults them in again, which costs more than the matrix product."""
LOGITS = 1 << 26
"""On an accelerator, where few large kernels are best and only memory (here 256 MB) counts."""


def token_nll(
    model: Any,
    ids: Int[Tensor, "B T"],
    scored: Bool[Tensor, "B T"],
    embeds: Float[Tensor, "B T D"] | None = None,
) -> Float[Tensor, " N"]:
    """NLL in nats of every token marked in `scored`, row by row, given all tokens before it.

    `embeds` stands in for the input embeddings of `ids` (for gradients); `ids` stay the targets.
    Logits exist only at scored positions. Column 0 has nothing before it and cannot be scored; the
    last column is never fed, so T may be the model's context plus one. Rows are right-padded, so no
    attention mask is needed: under causal attention no scored token can see the padding behind it.
    """
    assert not scored[:, 0].any(), "the first token has no context to be scored in"
    fed = {"input_ids": ids[:, :-1]} if embeds is None else {"inputs_embeds": embeds[:, :-1]}
    hidden = model.base_model(**fed, use_cache=False).last_hidden_state  # (B, T-1, D)
    states = hidden[scored[:, 1:]]  # (N, D): position t-1 predicts token t
    return head_nll(model, states, ids[:, 1:][scored[:, 1:]])


def span_nll(
    model: Any,
    ids: Int[Tensor, "B T"],
    scored: Bool[Tensor, "B T"],
    embeds: Float[Tensor, "B T D"] | None = None,
) -> Float[Tensor, " B"]:
    """Sum of `token_nll` over each row, in nats.

    Added up in float64, so neither the length of a row nor the order of addition on a GPU shows.
    """
    per_token = token_nll(model, ids, scored, embeds)
    rows = scored.nonzero()[:, 0]
    sums = per_token.new_zeros(len(ids), dtype=torch.float64)
    return sums.index_add(0, rows, per_token.double()).to(per_token.dtype)


def head_nll(
    model: Any, states: Float[Tensor, "N D"], targets: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """NLL in nats of `targets` under the logits of final hidden `states`, some rows at a time."""
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Linear), f"output head is {type(head).__name__}"
    rows = rows_at_once(states.device, head.out_features)
    parts = [
        F.cross_entropy(head(some).float(), wanted, reduction="none")
        for some, wanted in zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.cat(parts)


def rows_at_once(device: torch.device, vocab_size: int) -> int:
    """How many tokens' logits to hold at a time."""
    if device.type == "cpu":
        return max(1, min(CPU_ROWS, CPU_LOGITS // vocab_size))
    return max(1, LOGITS // vocab_size)
