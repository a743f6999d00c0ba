"""Activations by name, and a GELU that never falls.

A checkpoint keeps the name only, so ours are told to transformers before a model is built.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from papertrail.core.errors import BadInput
from papertrail.nn.families import blocks, family

Activation = Literal["kept", "gelu", "relu", "gelu_clipped"]

TURNING_POINT = -0.7517915246935644
"""Where GELU is least: the root of Phi(z) + z phi(z)."""
CLIPPED = "papertrail_gelu_clipped"
"""What a checkpoint says. No name that transformers might one day give to something else."""


class GeluClipped(nn.Module):
    """GELU, and left of its minimum the minimum, -0.16997: nondecreasing everywhere."""

    def forward(self, z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return F.gelu(z.clamp_min(TURNING_POINT))


def register() -> None:
    """Have transformers know our activations, so that it can load a checkpoint that names one.

    Whoever loads such a checkpoint without this gets a KeyError with that name, never a model with
    some other activation.
    """
    ACT2FN[CLIPPED] = GeluClipped


def set_activation(model: PreTrainedModel, activation: Activation) -> None:
    """Give every MLP of `model` this activation, and its config the name; gated MLPs: the gate.

    Raises BadInput where a checkpoint would come back with another: Gemma reads gelu as tanh-GELU.
    """
    if activation == "kept":
        return
    register()
    name = CLIPPED if activation == "gelu_clipped" else activation
    row = family(model.config.model_type)
    for block in blocks(model):
        block.set_submodule(row.activation, ACT2FN[name], strict=True)
    setattr(model.config, row.activation_option, name)
    loaded = type(model.config).from_dict(model.config.to_dict())
    if (other := getattr(loaded, row.activation_option)) != name:
        raise BadInput(
            f"constraint.activation: {model.config.model_type} checkpoints take {activation} for "
            f"{other}; use another, or leave it at kept"
        )
