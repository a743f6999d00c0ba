"""What an attack did to a batch: as arrays that a killed run finds again, and as rows of a table.

Axes: R draws, B texts, n budgets, T tokens. Arrays that differ by text have the axes (R, B, n).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from papertrail.attacks.pgd import Ascent, Norm, extent
from papertrail.attacks.search import Curve
from papertrail.core.writing.parts import Arrays

MEASURED = ("evaluations", "gradients", "seconds", "num_oom_retries", "round_trip")
DISPLACED = ("radius", "moved", "strayed")


def of_curves(curves: Sequence[Curve], budgets: Sequence[int]) -> dict[str, np.ndarray]:
    """Independent draws of one attack on the same texts."""

    def stacked(name: str) -> np.ndarray:
        values = torch.stack([getattr(curve, name) for curve in curves])
        return values.cpu().numpy()

    found = {name: stacked(name) for name in ("ids", "losses", "evaluations", "gradients")}
    losses = found["losses"].astype(float)
    return found | {"budgets": np.array(budgets), "losses": losses, "clean": losses[0, :, 0]}


def of_ascent(
    ascent: Ascent,
    radii: Sequence[int | float],
    norm: Norm,
    clean: Float[Tensor, " B"],
    attackable: Bool[Tensor, "B T"],
) -> dict[str, np.ndarray]:
    """Embedding space: no ids. `clean` are the losses of the texts themselves."""
    far = extent(ascent.displacement, norm)  # (B, n, T)
    moved, strayed = ((far * mask[:, None]).amax(-1) for mask in (attackable, ~attackable))
    values = {
        "losses": ascent.losses.double(),
        "evaluations": torch.zeros_like(ascent.gradients),
        "gradients": ascent.gradients,
        "moved": moved,
        "strayed": strayed,
    }
    return {name: value[None].cpu().numpy() for name, value in values.items()} | {
        "budgets": np.arange(len(radii) + 1),
        "radius": np.array([0.0, *radii]),
        "clean": clean.double().cpu().numpy(),
    }


def frame(found: Arrays) -> pd.DataFrame:
    """One row per text, draw and budget; what was not measured is missing."""
    shape = found["losses"].shape

    def each(values: np.ndarray) -> np.ndarray:
        return np.broadcast_to(values, shape).flatten()

    columns = {
        "text": each(found["text"][:, None]),
        "draw": each(np.arange(shape[0])[:, None, None]),
        "flips": each(found["budgets"]),
        "clean_nll": each(found["clean"][:, None]),
        "attacked_nll": each(found["losses"]),
        "num_scored_tokens": each(found["num_scored"][:, None]),
    }
    columns |= {name: each(found[name]) for name in (*MEASURED, *DISPLACED) if name in found}
    table = pd.DataFrame(columns)
    if "round_trip" not in columns:
        table["round_trip"] = pd.array([pd.NA] * len(table), dtype="boolean")
    return table
