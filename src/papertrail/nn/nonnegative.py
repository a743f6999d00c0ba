"""Weights that cannot be negative: W = softplus(V), with V free.

Cooper et al. 2026 (arXiv 2602.02686), section 3: elementwise on the feed-forward matrices; biases,
LayerNorm, attention and embeddings stay as they are.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papertrail.core.errors import BadInput
from papertrail.nn.families import Scope, constrained_linears

Init = Literal["abs", "relu"]

LEAST_WEIGHT: dict[Init, float] = {"abs": 1e-8, "relu": 1e-3}
"""What the start never goes below. A step of V multiplies a small W by about exp(step), so a weight
at 1e-8 is dead in practice; that is rare under `abs`, but half of all weights under `relu`."""


class NonNegative(nn.Module):
    """softplus, and the V that it maps back onto |W| (`abs`, the paper) or max(W, 0) (`relu`)."""

    def __init__(self, init: Init) -> None:
        super().__init__()
        self.init = init

    def forward(self, V: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        return F.softplus(V)

    def right_inverse(self, W: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        """V = w + log(1 - exp(-w)): unlike log(exp(w) - 1) it neither overflows nor cancels."""
        w = start(W.double(), self.init)
        return (w + torch.log(-torch.expm1(-w))).to(W.dtype)


def start(W: Float[Tensor, "out in"], init: Init) -> Float[Tensor, "out in"]:
    """The positive matrix that training starts from."""
    return (W.abs() if init == "abs" else W).clamp_min(LEAST_WEIGHT[init])


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How much of the pretrained function the start of training throws away."""

    num_weights: int
    fraction_negative: float
    """Weights whose sign `abs` flips and `relu` cuts off."""
    relative_change: float
    """Frobenius norm of W_start - W over that of W."""


def conversion(model: PreTrainedModel, scope: Scope, init: Init) -> Conversion:
    """What `constrain` would do to an unconstrained model, which stays as it is."""
    weights = [linear.weight.detach().double() for _, linear in constrained_linears(model, scope)]
    num_weights = sum(W.numel() for W in weights)
    changed = sum(float((start(W, init) - W).square().sum()) for W in weights)
    return Conversion(
        num_weights=num_weights,
        fraction_negative=sum(int((W < 0).sum()) for W in weights) / num_weights,
        relative_change=(changed / sum(float(W.square().sum()) for W in weights)) ** 0.5,
    )


def constrain(model: PreTrainedModel, scope: Scope, init: Init) -> list[str]:
    """Reparametrise the linears of `scope` in place; their names.

    Raises BadInput for weights that are not float32 or float64: near V = -4 neighbouring bfloat16
    numbers are 0.03 apart, so an optimizer step rounds away and V never moves.
    """
    linears = constrained_linears(model, scope)
    for name, linear in linears:
        if linear.weight.dtype not in (torch.float32, torch.float64):
            raise BadInput(f"model: {name} is {linear.weight.dtype}; load it as float32")
        assert not parametrize.is_parametrized(linear), f"{name} is constrained already"
    for _, linear in linears:
        parametrize.register_parametrization(linear, "weight", NonNegative(init))
    return [name for name, _ in linears]


def free_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every V under its name in `model.named_parameters()`, for an optimizer group of its own."""
    suffix = ".parametrizations.weight.original"
    named = dict(model.named_parameters())
    return {name + suffix: named[name + suffix] for name in _constrained(model)}


def least_effective_weight(model: PreTrainedModel, scope: Scope) -> float:
    """The smallest weight that the linears of `scope` multiply with, constrained or not.

    It reads `linear.weight`: a constrained layer has no parameter of that name, so a check over
    named parameters would look at nothing and pass.
    """
    return min(linear.weight.min().item() for _, linear in constrained_linears(model, scope))


def merge(model: nn.Module) -> None:
    """Turn every constrained linear back into a plain one with the same weights, in place.

    Never on a `copy.deepcopy` of a constrained model: copies share the class that torch generated,
    and removing the parametrization from one breaks the other. Build a model anew, or `export`.
    """
    for linear in _constrained(model).values():
        parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)


def effective_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that the merged model would have; `model` stays as it is."""
    constrained = _constrained(model)
    inner = {f"{name}.parametrizations." for name in constrained}
    state = {
        key: value
        for key, value in model.state_dict().items()
        if not any(key.startswith(prefix) for prefix in inner)
    }
    return state | {
        f"{name}.weight": linear.weight.detach() for name, linear in constrained.items()
    }


def export(
    model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None
) -> None:
    """Write a plain checkpoint whose `from_pretrained` computes exactly what `model` computes.

    `model.save_pretrained` alone would write the V's under names that `from_pretrained` does not
    know, and it would fill the constrained layers with fresh random weights.
    """
    model.save_pretrained(folder, state_dict=effective_state_dict(model))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def _constrained(model: nn.Module) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight")
    }
