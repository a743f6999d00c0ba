"""Where the feed-forward and attention-output matrices of each architecture are: one row each.

Axes: a Linear keeps its weight as (out, in), GPT-2's Conv1D as (in, out).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as ENCODER_DECODERS,
)
from transformers.pytorch_utils import Conv1D

from papertrail.core.errors import BadInput

Scope = Literal["mlp_in", "mlp_both", "mlp_in_attn_out", "gated_updown", "gated_all"]
Matrix = nn.Linear | Conv1D


@dataclass(frozen=True, kw_only=True)
class Family:
    """Exact module names: `blocks` from the causal LM down, the others from one block down.

    Two matrices with an activation between: W >= 0 in both makes this branch monotone, provided
    that the activation never falls; W >= 0 in the first alone makes the hidden units so, and not
    the branch. GELU falls where its input is below -0.7518, so with it one can say W >= 0 but not
    monotone: 0.4 to 2 % of the outputs fall while inputs rise. And it is the branch alone, never
    the block: LayerNorm in front of it keeps no order, and half of the outputs fall.

    With a `gate`, down(act(gate(h)) * up(h)), W >= 0 guarantees much less: a product of two rising
    factors rises where neither is negative. So `gated_all` is monotone for ReLU and inputs h >= 0
    only, but RMSNorm hands on both signs; and `gated_updown` leaves the gate free. What these arms
    show is the effect of W >= 0, not of monotonicity.
    """

    blocks: str
    mlp_in: str
    mlp_out: str
    attention_out: str
    gate: str = ""
    activation: str
    activation_option: str
    """The key of `config` that names the activation."""

    @property
    def scopes(self) -> dict[Scope, tuple[str, ...]]:
        """The matrices of each scope that this architecture has."""
        both = (self.mlp_in, self.mlp_out)
        if self.gate:
            return {"gated_updown": both, "gated_all": (*both, self.gate)}
        return {
            "mlp_in": (self.mlp_in,),
            "mlp_both": both,
            "mlp_in_attn_out": (self.mlp_in, self.attention_out),
        }


def _gated() -> Family:
    return Family(
        blocks="model.layers",
        mlp_in="mlp.up_proj",
        mlp_out="mlp.down_proj",
        attention_out="self_attn.o_proj",
        gate="mlp.gate_proj",
        activation="mlp.act_fn",
        activation_option="hidden_act",
    )


FAMILIES = {
    "gpt_neox": Family(
        blocks="gpt_neox.layers",
        mlp_in="mlp.dense_h_to_4h",
        mlp_out="mlp.dense_4h_to_h",
        attention_out="attention.dense",
        activation="mlp.act",
        activation_option="hidden_act",
    ),
    "gpt2": Family(
        blocks="transformer.h",
        mlp_in="mlp.c_fc",
        mlp_out="mlp.c_proj",
        attention_out="attn.c_proj",
        activation="mlp.act",
        activation_option="activation_function",
    ),
    "opt": Family(
        blocks="model.decoder.layers",
        mlp_in="fc1",
        mlp_out="fc2",
        attention_out="self_attn.out_proj",
        activation="activation_fn",
        activation_option="activation_function",
    ),
    "llama": _gated(),
    "mistral": _gated(),
    "qwen2": _gated(),
    "qwen3": _gated(),
    "gemma": _gated(),
}
"""Keyed by `config.model_type`. Only models whose logits are a linear map of the last hidden state
belong here: Gemma 2 caps its logits afterwards, which `scoring` does not."""


def family(model_type: str) -> Family:
    """The row of an architecture; BadInput with those that there are if it has none.

    T5 and its like have none although the first experiments of the paper were made with T5. A text
    is one sequence here, from training windows to perplexity, attacks and benchmarks: an
    encoder-decoder would need a second, paired form of every one of them.
    """
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    known = f"use one of {', '.join(sorted(FAMILIES))}"
    if model_type in ENCODER_DECODERS:
        raise BadInput(
            f"model: an encoder-decoder ({model_type}); texts here are single sequences, each "
            f"token predicted from those before it, not pairs of source and target; {known}"
        )
    raise BadInput(
        f"model: architecture without a known place for its MLPs ({model_type}); {known}"
    )


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The transformer blocks, in order of depth."""
    row = family(model.config.model_type)
    found = model.get_submodule(row.blocks)
    assert isinstance(found, nn.ModuleList), f"{row.blocks} is {type(found).__name__}"
    assert len(found), f"{row.blocks} is empty"
    return found


def constrained_linears(model: PreTrainedModel, scope: Scope) -> list[tuple[str, Matrix]]:
    """The matrices of `scope` with their dotted names, in order of depth.

    Raises BadInput for an architecture that is not in the table, for a scope that it does not have,
    and for a block that lacks a matrix where the table says it is: a scope never matches fewer
    blocks than there are.
    """
    kind = model.config.model_type
    row = family(kind)
    if scope not in row.scopes:
        raise BadInput(
            f"constraint.scope: {kind} has none of this name ({scope}); "
            f"use one of {', '.join(row.scopes)}"
        )
    names = [
        f"{row.blocks}.{depth}.{inner}"
        for depth in range(len(blocks(model)))
        for inner in row.scopes[scope]
    ]
    return list(_resolved(model, names))


def _resolved(model: PreTrainedModel, names: list[str]) -> Iterator[tuple[str, Matrix]]:
    modules: dict[str, Any] = dict(model.named_modules())
    for name in names:
        matrix = modules.get(name)
        if not isinstance(matrix, nn.Linear | Conv1D):
            found = "nothing" if matrix is None else type(matrix).__name__
            raise BadInput(
                f"model: {name} should be a linear layer ({found}); check its families row"
            )
        yield name, matrix
