"""What one forward pass tells about a text, kept so that no token is computed twice.

A replacement at position p leaves keys, values and NLLs of everything before p as they were.
Axes: S states (texts as they are now), N rows, T tokens, L recomputed tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import DynamicCache, DynamicLayer

from papertrail.attacks.objectives import Objective
from papertrail.core.errors import BadInput

R = TypeVar("R")

# 8 MB of fp32 logits stay in cache; 16 times as many at once took twice the time on two CPU cores.
_LOGITS_AT_ONCE = 1 << 21


@dataclass
class Work:
    """How many tokens go through the model at once, and how often memory ran out."""

    tokens_at_once: int = 8192
    num_oom_retries: int = 0

    def in_chunks(self, costs: Sequence[int], compute: Callable[[slice], R]) -> list[R]:
        """`compute` over consecutive rows whose falling `costs` (tokens) fit; halves on OOM.

        Never drops a row: BadInput where memory does not hold a single one.
        """
        results, start = [], 0
        while start < len(costs):
            rows = max(1, self.tokens_at_once // costs[start])
            part = slice(start, min(len(costs), start + rows))
            try:
                results.append(compute(part))
            except torch.OutOfMemoryError as error:
                if part.stop - part.start == 1:
                    raise BadInput(
                        f"memory: one text does not fit (out of memory with {costs[start]} tokens "
                        "at once); shorten the texts, set load.quantization=int8 or use a device "
                        "with more memory"
                    ) from error
                self.num_oom_retries += 1
                self.tokens_at_once = (part.stop - part.start) * costs[start] // 2
                continue
            start = part.stop
        return results


@dataclass(frozen=True)
class Prefix:
    """Keys and values of S states: one pair of (S, heads, T, d) tensors per layer."""

    layers: tuple[tuple[Tensor, Tensor], ...]

    def cache(self, states: Int[Tensor, " N"], length: int) -> DynamicCache:
        """The first `length` tokens of `states`, as the model wants them."""
        cache = DynamicCache()
        cache.layers = [
            _layer(*(kv.narrow(2, 0, length).index_select(0, states) for kv in pair))
            for pair in self.layers
        ]
        return cache


@dataclass(frozen=True)
class Known:
    """S states with what has been computed of them."""

    ids: Int[Tensor, "S T"]
    token_nll: Float[Tensor, "S T"]
    """Nats; 0 where not scored."""
    prefix: Prefix | None
    """None for an architecture whose cache is not one pair of keys and values per token."""

    @property
    def losses(self) -> Float[Tensor, " S"]:
        """Summed NLL of the scored tokens, nats."""
        return self.token_nll.sum(1)


def know(model: Any, objective: Objective, ids: Int[Tensor, "S T"], work: Work) -> Known:
    """NLL, keys and values of the states `ids`; row s of `objective` belongs to state s."""

    @torch.no_grad()
    def compute(part: slice) -> Known:
        return _forward(model, objective.scored[part], ids[part], None)

    return _joined(work.in_chunks([ids.shape[1]] * len(ids), compute))


def linearise(
    model: Any,
    objective: Objective,
    ids: Int[Tensor, "S T"],
    work: Work,
    displacement: Float[Tensor, "S T D"] | None = None,
) -> tuple[Known, Float[Tensor, "S T D"]]:
    """As `know`, with the gradient of the summed NLL by each state's input embeddings, in fp32.

    The gradient stops at the embeddings: no parameter receives one. With a `displacement`, both
    are of the embeddings it leads to, which belong to no text: no keys and values are kept.
    """
    embedding = model.get_input_embeddings()
    assert not model.training, "dropout would make the losses random; call model.eval() first"

    @torch.enable_grad()
    def compute(part: slice) -> tuple[Known, Tensor]:
        embeds = embedding(ids[part]).detach()
        embeds = embeds.to(at_least_fp32(embeds.dtype))
        if displacement is not None:
            embeds = embeds + displacement[part]
        embeds.requires_grad_()
        known = _forward(model, objective.scored[part], ids[part], embeds, displacement is None)
        (gradient,) = torch.autograd.grad(known.token_nll.sum(), embeds)
        return _detached(known), gradient

    # The backward pass keeps activations, about four times the memory of a forward pass.
    parts = work.in_chunks([4 * ids.shape[1]] * len(ids), compute)
    gradient = torch.cat([g for _, g in parts])
    assert gradient.isfinite().all(), "the gradient of the loss is not finite"
    return _joined([known for known, _ in parts]), gradient


def suffix_nll(
    model: Any,
    ids: Int[Tensor, "N T"],
    scored: Bool[Tensor, "N T"],
    first: int,
    cache: DynamicCache | None,
) -> Float[Tensor, " N"]:
    """Summed NLL of the scored tokens behind position `first`, given a cache of all before it."""
    hidden = model.base_model(
        input_ids=ids[:, first:-1], past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state
    return _scatter_nll(model, hidden, ids, scored, first).sum(1)


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """Half precision is too coarse for gradients and sums of NLLs."""
    return torch.promote_types(dtype, torch.float32)


def splice(
    old: Tensor, source: Int[Tensor, " M"], fresh: Tensor, is_fresh: Bool[Tensor, " N"]
) -> Tensor:
    """N rows: those of `fresh` where `is_fresh`, rows `source` of `old` elsewhere, in order."""
    if len(source) == 0:
        return fresh
    out = old.new_empty((len(is_fresh), *old.shape[1:]))
    out[is_fresh] = fresh
    out[~is_fresh] = old[source]
    return out


def splice_known(old: Known, source: Tensor, fresh: Known, is_fresh: Tensor) -> Known:
    """`splice` for everything known about the states."""

    def join(a: Tensor, b: Tensor) -> Tensor:
        return splice(a, source, b, is_fresh)

    prefix = None
    if old.prefix is not None and fresh.prefix is not None:
        pairs = zip(old.prefix.layers, fresh.prefix.layers, strict=True)
        prefix = Prefix(tuple((join(a[0], b[0]), join(a[1], b[1])) for a, b in pairs))
    return Known(join(old.ids, fresh.ids), join(old.token_nll, fresh.token_nll), prefix)


def _forward(
    model: Any, scored: Tensor, ids: Tensor, embeds: Tensor | None, keep: bool = True
) -> Known:
    if embeds is None:
        inputs = {"input_ids": ids[:, :-1]}
    else:
        dtype = model.get_input_embeddings().weight.dtype
        inputs = {"inputs_embeds": embeds[:, :-1].to(dtype)}
    out = model.base_model(**inputs, use_cache=keep)
    token_nll = _scatter_nll(model, out.last_hidden_state, ids, scored, 0)
    return Known(ids, token_nll, _prefix(out.past_key_values) if keep else None)


def _scatter_nll(model: Any, hidden: Tensor, ids: Tensor, scored: Tensor, first: int) -> Tensor:
    """(N, T) NLLs, 0 where not scored or not behind `first`; `hidden` covers first .. T - 2."""
    wanted = scored[:, first + 1 :]  # position t predicts token t + 1
    nll = _head_nll(model, hidden[wanted], ids[:, first + 1 :][wanted])
    behind = nll.new_zeros(wanted.shape).masked_scatter(wanted, nll)
    return F.pad(behind, (first + 1, 0))


def _head_nll(model: Any, states: Tensor, targets: Tensor) -> Tensor:
    head = model.get_output_embeddings()
    dtype = at_least_fp32(states.dtype)
    rows = max(1, _LOGITS_AT_ONCE // head.weight.shape[0])
    parts = [
        F.cross_entropy(head(some).to(dtype), wanted, reduction="none")
        for some, wanted in zip(torch.split(states, rows), torch.split(targets, rows), strict=True)
    ]
    return torch.cat(parts) if parts else states.new_zeros(0, dtype=dtype)


def _prefix(past: Any) -> Prefix | None:
    # Sliding windows and recurrent states cannot be cut back to an earlier position.
    if not isinstance(past, DynamicCache) or any(type(x) is not DynamicLayer for x in past.layers):
        return None
    layers: list[Any] = past.layers
    return Prefix(tuple((layer.keys, layer.values) for layer in layers))


def _layer(keys: Tensor, values: Tensor) -> DynamicLayer:
    layer = DynamicLayer()  # type: ignore[no-untyped-call]
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


def _detached(known: Known) -> Known:
    prefix = known.prefix and Prefix(
        tuple((k.detach(), v.detach()) for k, v in known.prefix.layers)
    )
    return Known(known.ids, known.token_nll.detach(), prefix)


def _joined(parts: list[Known]) -> Known:
    if len(parts) == 1:
        return parts[0]
    prefixes = [p.prefix.layers for p in parts if p.prefix is not None]
    layers = tuple(
        (torch.cat([k for k, _ in pairs]), torch.cat([v for _, v in pairs]))
        for pairs in zip(*prefixes, strict=True)
    )
    return Known(
        torch.cat([p.ids for p in parts]),
        torch.cat([p.token_nll for p in parts]),
        Prefix(layers) if prefixes else None,
    )
