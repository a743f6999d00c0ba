"""What constrained weights look like, and what the feed-forward layers around them do on real text.

Axes: B windows, T tokens, D width, F feed-forward width, L layers.
"""

import math
from typing import Any

import lightning as L
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from papertrail.core.errors import BadInput
from papertrail.nn.activations import TURNING_POINT
from papertrail.nn.branches import Seen, branches, watching
from papertrail.nn.families import Matrix, Scope, constrained_linears

DEAD = 1e-6
"""A weight below it in size does nothing, and under softplus hardly ever moves again."""
RISE = 0.1
"""From h to h', in standard deviations of h. A large step leaves the region where an activation
falls behind, and would find order kept that is not kept nearby."""
ROUNDING = 1e-5
"""Share of the outputs' root mean square below which a decrease is float32 rounding."""


def weight_statistics(model: PreTrainedModel, scope: Scope) -> pd.DataFrame:
    """One row per matrix of `scope`, constrained or not: the weights that it multiplies with.

    `effective_rank` is exp of the entropy of the normalised singular values (Roy and Vetterli
    2007).
    """
    with torch.no_grad():
        rows = [
            {"layer": name, "depth": _depth(name), "matrix": name.rpartition(".")[2]}
            | _of_matrix(_out_in(linear))
            for name, linear in constrained_linears(model, scope)
        ]
    return pd.DataFrame(rows)


def weight_totals(rows: pd.DataFrame) -> dict[str, int | float]:
    """The same over all matrices together: every weight counts once."""
    num = rows["outputs"] * rows["inputs"]
    mean, total = (rows["mean"] * num).sum() / num.sum(), num.sum()
    squares = (rows["frobenius_norm"] ** 2).sum()
    return {
        "num_weights": int(total),
        "mean": float(mean),
        "std": float((squares / total - mean**2) ** 0.5),
        "least": float(rows["least"].min()),
        "fraction_negative": float((rows["fraction_negative"] * num).sum() / total),
        "fraction_dead": float((rows["fraction_dead"] * num).sum() / total),
        "frobenius_norm": float(squares**0.5),
    }


def _depth(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def _out_in(linear: Matrix) -> Float[Tensor, "out in"]:
    """The effective weight as nn.Linear has it; GPT-2's Conv1D holds the transpose."""
    W: Tensor = linear.weight.detach().double()
    return W.T if isinstance(linear, Conv1D) else W


def _of_matrix(W: Float[Tensor, "out in"]) -> dict[str, int | float]:
    # Squares of the singular values: the small Gram matrix is far cheaper than an SVD, and in
    # float64 it is as good for all but values that weigh nothing here.
    gram = W @ W.T if W.shape[0] <= W.shape[1] else W.T @ W
    singular = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    shares = singular / singular.sum()
    return {
        "outputs": W.shape[0],
        "inputs": W.shape[1],
        "mean": float(W.mean()),
        "std": float(W.std(correction=0)),
        "least": float(W.min()),
        "fraction_negative": float((W < 0).double().mean()),
        "fraction_dead": float((W.abs() < DEAD).double().mean()),
        "frobenius_norm": float(W.square().sum().sqrt()),
        "spectral_norm": float(singular.max()),
        "effective_rank": float(torch.special.entr(shares).sum().exp()),
    }


class Activations(L.LightningModule):
    """Watches every feed-forward layer of a model on windows of ids, under `trainer.test`.

    Whether order is kept is asked in pairs h <= h': h is what the layer was given, and h' - h is
    half-normal in every coordinate, `RISE` standard deviations of h large, from `seed`.
    """

    def __init__(self, model: PreTrainedModel, seed: int) -> None:
        super().__init__()
        self.model = evaluated(model)
        self._seed = seed
        self._sums: dict[int, dict[str, Any]] = {}

    def on_test_start(self) -> None:
        """Starts from nothing. BadInput for more than one process: sums are not gathered."""
        one_process(self.trainer)
        self._sums = {}

    def test_step(self, ids: Int[Tensor, "B T"], batch_idx: int) -> None:
        """One batch of windows."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + batch_idx)
        with watching(self.model, lambda seen: self._add(seen, generator)):
            self.model.base_model(ids, use_cache=False)

    def _add(self, seen: Seen, generator: torch.Generator) -> None:
        sums = self._sums.setdefault(seen.branch.depth, {})
        found = _of_pre_activations(seen) | _of_order(seen, generator)
        for key, value in found.items():
            sums[key] = sums[key] + value if key in sums else value  # of truth values: or

    def frame(self) -> pd.DataFrame:
        """One row per layer; what stands in `_summary`."""
        rows = [
            {"layer": branch.label, "depth": branch.depth} | _summary(self._sums[branch.depth])
            for branch in branches(self.model)
        ]
        return pd.DataFrame(rows)


def evaluated(model: PreTrainedModel) -> PreTrainedModel:
    """`model` without dropout and gradients."""
    model.eval().requires_grad_(False)  # type: ignore[no-untyped-call]
    return model


def one_process(trainer: L.Trainer) -> None:
    """BadInput for a Trainer of several processes, whose sums nobody would gather."""
    if trainer.world_size > 1:
        raise BadInput(
            f"compute.devices: statistics are taken in one process ({trainer.world_size}); "
            f"set compute.devices=1"
        )


def _of_pre_activations(seen: Seen) -> dict[str, Tensor]:
    """Sums over all tokens and units of one layer."""
    z = seen.z.double()
    return {
        "num": torch.tensor(z.numel()),
        "z": z.sum(),
        "z_squared": z.square().sum(),
        "below_turning_point": (z < TURNING_POINT).sum(),
        "falling": _falls(seen).sum(),
        "inactive": (z <= 0).sum(),
        "ever_active": (z > 0).flatten(0, -2).any(0),
    }


def _falls(seen: Seen) -> Bool[Tensor, "..."]:
    """Where the layer's own activation falls: its slope, whatever function it is."""
    with torch.enable_grad():
        z = seen.z.detach().requires_grad_()
        (slope,) = torch.autograd.grad(seen.branch.activation.forward(z).sum(), z)
    falls: Tensor = slope < 0
    return falls


def _of_order(seen: Seen, generator: torch.Generator) -> dict[str, Tensor]:
    """How many outputs fall while no input does: of the branch, and of LayerNorm and branch."""
    higher = seen.branch(seen.x + _rise(seen.x, generator))
    found = {"num_outputs": torch.tensor(seen.y.numel()), "falls": _num_falls(seen.y, higher)}
    if seen.norm is None or seen.h is None:
        return found
    higher = seen.branch(seen.norm.forward(seen.h + _rise(seen.h, generator)))
    return found | {"falls_behind_norm": _num_falls(seen.y, higher)}


def _rise(x: Float[Tensor, "... D"], generator: torch.Generator) -> Float[Tensor, "... D"]:
    drawn = torch.randn(x.shape, generator=generator)  # on the CPU: the same on every device
    return drawn.abs().to(x) * x.std() * RISE


def _num_falls(low: Float[Tensor, "... D"], high: Float[Tensor, "... D"]) -> Int[Tensor, ""]:
    return (high - low < -ROUNDING * low.square().mean().sqrt()).sum()


def _summary(sums: dict[str, Tensor]) -> dict[str, int | float]:
    """Shares and moments of one layer; `falls_behind_norm` is NaN where no norm is in front."""
    found = {key: float(value) for key, value in sums.items() if key != "ever_active"}
    num, outputs = found["num"], found["num_outputs"]
    mean = found["z"] / num
    return {
        "num_units": sums["ever_active"].numel(),
        "num_pre_activations": int(num),
        "mean": mean,
        "std": (found["z_squared"] / num - mean**2) ** 0.5,
        "fraction_below_turning_point": found["below_turning_point"] / num,
        "fraction_falling": found["falling"] / num,
        "fraction_inactive": found["inactive"] / num,
        "fraction_never_active": float((~sums["ever_active"]).double().mean()),
        "fraction_of_outputs_falling": found["falls"] / outputs,
        "fraction_of_outputs_falling_behind_norm": found.get("falls_behind_norm", math.nan)
        / outputs,
    }


def activation_totals(rows: pd.DataFrame) -> dict[str, int | float]:
    """Means over all layers, each pre-activation and each output counting once.

    Every layer of a model has as many units as any other. What a layer lacks, the total lacks.
    """
    shares = [name for name in map(str, rows) if name.startswith("fraction_")]
    assert rows["num_pre_activations"].nunique() == 1, "layers of unlike width"
    return {name: float(rows[name].mean(skipna=False)) for name in shares}
