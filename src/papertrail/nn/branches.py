"""A feed-forward branch by its parts, so that it can be watched and asked on inputs of our own.

Axes: ... any leading axes, D width, F feed-forward width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from papertrail.nn.families import blocks, family


@dataclass(frozen=True)
class Branch:
    """What one block adds to the residual stream beside its attention; no LayerNorm is in it."""

    depth: int
    activated: nn.Module
    """The linear whose output the activation sees: the first one, or the gate of a gated MLP."""
    activation: nn.Module
    up: nn.Module | None
    """Of a gated MLP: the linear whose output the activated gate multiplies."""
    out: nn.Module

    @property
    def label(self) -> str:
        """`layer00`, `layer01`, ...: in the order of depth as text too."""
        return f"layer{self.depth:02d}"

    def __call__(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """What the branch computes of `x`; no hook on any of its parts hears of it."""
        hidden = self.activation.forward(self.activated.forward(x))
        if self.up is not None:
            hidden = hidden * self.up.forward(x)
        found: Tensor = self.out.forward(hidden)
        return found


def branches(model: PreTrainedModel) -> list[Branch]:
    """The branch of every block, in order of depth; BadInput for an unknown architecture."""
    row = family(model.config.model_type)
    if "gated_all" in row.scopes:
        up, out, activated = row.scopes["gated_all"]
    else:
        (activated, out), up = row.scopes["mlp_both"], ""
    return [
        Branch(
            depth=depth,
            activated=block.get_submodule(activated),
            activation=block.get_submodule(row.activation),
            up=block.get_submodule(up) if up else None,
            out=block.get_submodule(out),
        )
        for depth, block in enumerate(blocks(model))
    ]


@dataclass(frozen=True)
class Seen:
    """What went through one branch in a forward pass of the model."""

    branch: Branch
    x: Float[Tensor, "... D"]
    """What the branch was given."""
    z: Float[Tensor, "... F"]
    """What its activation was given."""
    y: Float[Tensor, "... D"]
    """What it gave."""
    norm: nn.Module | None
    """The normalisation that made x, where one stands directly in front of the branch."""
    h: Float[Tensor, "... D"] | None
    """What that was given."""


@contextmanager
def watching(model: PreTrainedModel, report: Callable[[Seen], None]) -> Iterator[None]:
    """Inside the block, each branch of `model` reports each of its forward passes as it ends.

    One layer's tensors are held at a time. All hooks are gone when the block ends, however it does.
    """
    held: dict[str, Any] = {}
    handles = []

    def normed(module: nn.Module, args: Any, output: Any) -> None:
        held["norm"] = (module, args[0], output)

    def entered(module: nn.Module, args: Any, output: Any) -> None:
        held["x"], held["z"] = args[0], output

    def left(branch: Branch, output: Tensor) -> None:
        norm, h, normalised = held.pop("norm", (None, None, None))
        x, z = held.pop("x"), held.pop("z")
        report(Seen(branch, x, z, output, *((norm, h) if normalised is x else (None, None))))

    try:
        for module in model.modules():
            if type(module).__name__.endswith("Norm"):
                handles.append(module.register_forward_hook(normed))
        for branch in branches(model):
            handles.append(branch.activated.register_forward_hook(entered))
            handles.append(
                branch.out.register_forward_hook(
                    lambda module, args, output, branch=branch: left(branch, output)
                )
            )
        yield
    finally:
        for handle in handles:
            handle.remove()
