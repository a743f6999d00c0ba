"""Where the feed-forward and attention-output linears of each architecture are: one row each."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn
from transformers import PreTrainedModel

from papertrail.core.errors import BadInput

Scope = Literal["mlp_in", "mlp_both", "mlp_in_attn_out"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Exact module names: `blocks` from the causal LM down, the others from one block down."""

    blocks: str
    mlp_in: str
    mlp_out: str
    attention_out: str


FAMILIES = {
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        mlp_in="mlp.dense_h_to_4h",
        mlp_out="mlp.dense_4h_to_h",
        attention_out="attention.dense",
    ),
}
"""Keyed by `config.model_type`. Only plain two-matrix MLPs belong here: a gated MLP multiplies two
branches, so the three scopes mean something else there. GPT-2's Conv1D is no nn.Linear either."""


def constrained_linears(model: PreTrainedModel, scope: Scope) -> list[tuple[str, nn.Linear]]:
    """The linears of `scope` with their dotted names, in order of depth.

    Raises BadInput for an architecture that is not in the table, and for a block that lacks a
    linear where the table says it is: a scope never matches fewer blocks than there are.
    """
    family = _family(model)
    blocks = model.get_submodule(family.blocks)
    assert isinstance(blocks, nn.ModuleList), f"{family.blocks} is {type(blocks).__name__}"
    names = [
        f"{family.blocks}.{depth}.{inner}"
        for depth in range(len(blocks))
        for inner in _within_block(family, scope)
    ]
    return list(_resolved(model, names))


def _family(model: PreTrainedModel) -> Family:
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise BadInput(
            f"model: architecture without a known place for its MLPs ({kind}); "
            f"use one of {', '.join(sorted(FAMILIES))}"
        )
    return FAMILIES[kind]


def _within_block(family: Family, scope: Scope) -> tuple[str, ...]:
    match scope:
        case "mlp_in":
            return (family.mlp_in,)
        case "mlp_both":
            return (family.mlp_in, family.mlp_out)
        case "mlp_in_attn_out":
            return (family.mlp_in, family.attention_out)


def _resolved(model: PreTrainedModel, names: list[str]) -> Iterator[tuple[str, nn.Linear]]:
    modules = dict(model.named_modules())
    for name in names:
        linear = modules.get(name)
        if not isinstance(linear, nn.Linear):
            found = "nothing" if linear is None else type(linear).__name__
            raise BadInput(
                f"model: {name} should be a linear layer ({found}); check its families row"
            )
        yield name, linear
