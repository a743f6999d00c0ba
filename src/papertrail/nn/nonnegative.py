"""Models whose feed-forward weights are held: W = softplus(V) >= 0 with V free, and its rivals.

Cooper et al. 2026 (arXiv 2602.02686), section 3: elementwise on the feed-forward matrices; biases,
LayerNorm, attention and embeddings stay as they are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int8
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papertrail.core.errors import BadInput
from papertrail.nn.constraints import Init, Kind, NonNegative, SignFrozen, start
from papertrail.nn.families import Matrix, Scope, constrained_linears


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How much of the pretrained function the start of training throws away."""

    num_weights: int
    fraction_negative: float
    """Weights whose sign `abs` flips and `relu` cuts off."""
    relative_change: float
    """Frobenius norm of W_start - W over that of W."""


def conversion(
    model: PreTrainedModel, scope: Scope, init: Init, kind: Kind = "softplus"
) -> Conversion:
    """What `constrain` would do to an unconstrained model, which stays as it is."""
    weights = [linear.weight.detach().double() for _, linear in constrained_linears(model, scope)]
    num_weights = sum(W.numel() for W in weights)
    changed = sum(float((start(W, kind, init) - W).square().sum()) for W in weights)
    return Conversion(
        num_weights=num_weights,
        fraction_negative=sum(int((W < 0).sum()) for W in weights) / num_weights,
        relative_change=(changed / sum(float(W.square().sum()) for W in weights)) ** 0.5,
    )


def constrain(
    model: PreTrainedModel, scope: Scope, init: Init, kind: Kind = "softplus"
) -> list[str]:
    """Convert the matrices of `scope` in place, by a parametrization or by new values; their names.

    `projected` holds only as long as whoever trains calls `project` after each step. Raises
    BadInput for weights that are not float32 or float64: near V = -4 neighbouring bfloat16 numbers
    are 0.03 apart, so an optimizer step rounds away and V never moves.
    """
    linears = constrained_linears(model, scope)
    for name, linear in linears:
        if linear.weight.dtype not in (torch.float32, torch.float64):
            raise BadInput(f"model: {name} is {linear.weight.dtype}; load it as float32")
        assert not parametrize.is_parametrized(linear), f"{name} is constrained already"
    for _, linear in linears:
        _convert(linear, kind, init)
    return [name for name, _ in linears]


def _convert(linear: Matrix, kind: Kind, init: Init) -> None:
    match kind:
        case "softplus":
            parametrize.register_parametrization(linear, "weight", NonNegative(init))
        case "sign_frozen":
            parametrize.register_parametrization(linear, "weight", SignFrozen(linear.weight))
        case "free" | "projected":
            with torch.no_grad():
                linear.weight.copy_(start(linear.weight, kind, init))


@torch.no_grad()
def project(weights: Iterable[Tensor]) -> None:
    """The nearest matrices without a negative entry, in place: max(W, 0)."""
    for W in weights:
        W.clamp_(min=0)


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
    least = [linear.weight.detach().min() for _, linear in constrained_linears(model, scope)]
    return torch.stack(least).min().item()  # NaN if any is: min() of Python would pass over it


def signs(model: PreTrainedModel, scope: Scope) -> dict[str, Int8[Tensor, "rows columns"]]:
    """-1, 0 or 1 for every effective weight of `scope`, by matrix: what `fraction_crossed` asks."""
    return {
        name: linear.weight.detach().sign().to(torch.int8)
        for name, linear in constrained_linears(model, scope)
    }


def fraction_crossed(
    model: PreTrainedModel, scope: Scope, before: Mapping[str, Int8[Tensor, "rows columns"]]
) -> float:
    """Share of the weights that are on another side of zero than `before`.

    One that has shrunk to zero has not crossed it; one that has left zero, or is NaN, has.
    """
    crossed = total = 0
    for name, linear in constrained_linears(model, scope):
        W = linear.weight.detach()
        crossed += int(((W.sign() != before[name]) & (W != 0)).sum())
        total += W.numel()
    return crossed / total


def merge(model: nn.Module) -> None:
    """Turn every constrained matrix back into a plain one with the same weights, in place."""
    for linear in _constrained(model).values():
        _disown(linear)
        parametrize.remove_parametrizations(linear, "weight", leave_parametrized=True)


def _disown(linear: Matrix) -> None:
    """Give `linear` a class of its own.

    torch generates one for each constrained module, and `copy.deepcopy` has a module and its copy
    share it; removing the parametrization from one would take `weight` from the other.
    """
    shared = type(linear)
    linear.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))


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


def _constrained(model: nn.Module) -> dict[str, Matrix]:
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, Matrix) and parametrize.is_parametrized(module, "weight")
    }
