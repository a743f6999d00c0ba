"""How a Trainer computes: the options that every Lightning experiment shares. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class Compute:
    """Device, precision and memory; precision, accumulate and weights are part of what a run is."""

    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    """Where tensors live; auto takes a GPU if there is one."""
    devices: PositiveInt = 1
    """Devices of that kind that a training is spread over: each takes an equal share of a batch, so
    results are those of one device up to rounding, and up to what dropout draws where a model has
    it. Evaluations and attacks use one."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """Across several devices. ddp, which auto takes: each holds the whole model; fsdp: each holds a
    share of weights, gradients and optimizer state. Both are tested with two CPU processes."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """Of the forward and backward pass; master weights and optimizer state stay float32."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step; the batch of an option `batch_size` is split into them."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    checkpoint_seconds: PositiveFloat = 30.0
    """Time between resumable checkpoints, in seconds."""
    weights: Literal["last", "best"] = "last"
    """What a training gives: the weights of its last step, or those of the validation with the
    lowest loss."""


_ELSEWHERE = ("accelerator", "devices", "strategy", "gradient_checkpointing", "checkpoint_seconds")
INFRASTRUCTURE = tuple(f"compute.{name}" for name in _ELSEWHERE)
"""The fields of `Compute` that do not decide what comes out."""

NEUTRAL = {"compute.weights": "last"}
"""What a run was that is older than the field."""
