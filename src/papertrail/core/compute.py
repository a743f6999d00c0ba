"""How a Trainer computes: the options that every Lightning experiment shares. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device, precision and memory; only `precision` and `accumulate` are part of what a run is."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where tensors live; auto takes a GPU if there is one."""
    devices: PositiveInt = 1
    """Devices of that kind."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the forward and backward pass; master weights and optimizer state stay float32."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step; the batch of an option `batch_size` is split into them."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_seconds: PositiveFloat = 30.0
    """Time between resumable checkpoints, in seconds."""


INFRASTRUCTURE = tuple(
    f"compute.{name}"
    for name in ("accelerator", "devices", "gradient_checkpointing", "checkpoint_seconds")
)
"""The fields of `Compute` that do not decide what comes out."""
