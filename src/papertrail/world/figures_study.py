"""All figures of the representations of a study, by file name.

Axes: N cities shown, F features of a vector.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from papertrail.world import figures_maps
from papertrail.world.config import BASE
from papertrail.world.likeness import FEWEST, against_improvement
from papertrail.world.options import TASKS
from papertrail.world.probes import Mode, principal_components
from papertrail.world.sheets_models import KINDS, kind_of

if TYPE_CHECKING:
    import matplotlib.figure

MODES: tuple[Mode, ...] = get_args(Mode)


class Reading(NamedTuple):
    """What a run of `world_represent` keeps."""

    city: Int[np.ndarray, " N"]
    """Indices of the cities shown."""
    vectors: Float[np.ndarray, "N F"]
    """Of `representations.npz`, as is `city`."""
    probed: pd.DataFrame
    """`samples/cities.parquet`."""


def of_representations(
    cities: pd.DataFrame,
    unit: float,
    readings: Mapping[tuple[str, int], Reading],
    alike: pd.DataFrame,
    graded: pd.DataFrame,
) -> "dict[str, matplotlib.figure.Figure]":
    """Maps and components of `examples`, errors of all probes, likeness of all models.

    `cities` is `cities.parquet` of `world_data`, `unit` degrees per unit of it, `readings` by model
    and seed, `alike` what `likeness` says, `graded` what `improvements` does. A figure that needs
    pairs, or more specialists than there are, is left out.
    """
    found = {}
    for model, seed in examples(list(readings)):
        name, shown = model.replace("+", "_"), model.replace("+", " + ")
        one = readings[model, seed]
        found[f"map_{name}"] = figures_maps.world_map(cities, one.probed, unit, shown)
        found[f"components_{name}"] = _components(cities, one, shown)
    probed = pd.concat(
        [one.probed.assign(model=model) for (model, _), one in readings.items()], ignore_index=True
    )
    if probed["model"].map(kind_of).isin(KINDS[2:]).any():
        found["probe_errors"] = figures_maps.probe_errors(probed, unit)
    few = [model for model in alike.index if model in (BASE, *TASKS)]
    for name, models in (("cka", few), ("cka_all", list(alike.index))):
        if len(models) > 1:
            found[name] = figures_maps.likeness_map(alike.loc[models, models])
    points = against_improvement(alike, graded)
    if len(points) >= FEWEST:
        found["cka_improvement"] = figures_maps.likeness_scatter(points)
    return found


def examples(models: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """The first model of each of the KINDS."""
    first: dict[str, tuple[str, int]] = {}
    for model, seed in models:
        first.setdefault(kind_of(model), (model, seed))
    return [first[kind] for kind in KINDS if kind in first]


def _components(cities: pd.DataFrame, one: Reading, name: str) -> "matplotlib.figure.Figure":
    shown = cities.iloc[one.city]
    places, real = shown[["x", "y"]].to_numpy(float), shown["real"].to_numpy(bool)
    vectors = one.vectors.astype(np.float64)
    panels: dict[str, Float[np.ndarray, "N 3"]] = {
        mode: principal_components(vectors, places, real, mode) for mode in MODES
    }
    return figures_maps.component_panels(panels, places, list(shown["region"]), name)
