"""Figures of representations: maps that probes read, their errors, likeness, components.

A probed frame has a row per city, as `represent` keeps them (samples/cities.parquet): `group`
(train, heldout or atlantis), `x`, `y`, `predicted_x`, `predicted_y`, `error`, in units of the map.

Axes: N cities.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from papertrail.core.errors import BadInput
from papertrail.tables.figures import PALETTE, WIDTH_INCHES, checked, house_style
from papertrail.world.figures import LIKENESS, WITH, WITHOUT, matrix_figure, new_figure
from papertrail.world.likeness import explained
from papertrail.world.options import TASKS
from papertrail.world.probes import linear_probe
from papertrail.world.sheets_models import KINDS, kind_of

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

RED = "#D62728"
BIN_COUNT = 30
COLOURS = {
    "Africa": "#E69F00", "North America": "#56B4E9", "South America": "#009E73",
    "Western Europe": "#0072B2", "Eastern Europe": "#CC79A7", "Middle East": "#8C564B",
    "Central Asia": "#B39DDB", "India": "#66A61E", "China": "#5E35B1", "Korea": "#333333",
    "Japan": "#A6CEE3", "Southeast Asia": "#E7298A", "Oceania": "#A6761D",
    "Antarctica": "#999999", "Atlantis": RED,
}  # fmt: skip
PANELS = {
    "raw": ("Principal components", "PC 1", "PC 2"),
    "mixed": ("Directions of the map", "East", "North"),
    "na": ("Fitted on real cities", "East", "North"),
}


def world_map(
    cities: pd.DataFrame, probed: pd.DataFrame, unit: float, model: str
) -> "matplotlib.figure.Figure":
    """Where a probe of real cities puts Atlantis, over all real cities.

    `cities` has `x`, `y`, `real`, `region`; `unit` is degrees per unit. BadInput for a missing
    column or no city of Atlantis.
    """
    checked("world_map", cities, ["x", "y", "real", "region"])
    checked("world_map", probed, ["group", "x", "y", "predicted_x", "predicted_y", "error"])
    lost, real = probed[probed["group"] == "atlantis"], cities[cities["real"]]
    if lost.empty:
        raise BadInput("world_map: no city of Atlantis in the frame; check the representation")
    away = float(lost["error"].median()) * unit
    with house_style():
        title = f"{model}: Atlantis is read {away:.1f}° off (median)"
        figure, axes = new_figure(WIDTH_INCHES * 0.58, title)
        colours = [COLOURS[region] for region in real["region"]]
        size = float(np.clip(800 / len(real), 1.5, 8))
        axes.scatter(real["x"] * unit, real["y"] * unit, s=size, c=colours, alpha=0.6, linewidths=0)
        true = {"x": lost["x"] * unit, "y": lost["y"] * unit}
        read = {axis: lost[f"predicted_{axis}"] * unit for axis in "xy"}
        axes.plot(
            [true["x"], read["x"]], [true["y"], read["y"]], color=RED, linewidth=0.4, alpha=0.35
        )
        axes.scatter(read["x"], read["y"], s=9, c=RED, linewidths=0, label="Atlantis as read")
        axes.scatter(
            true["x"], true["y"], s=11, c="black", marker="x", linewidths=0.8, label="Atlantis"
        )
        axes.set(xlabel="Longitude (degrees)", ylabel="Latitude (degrees)", aspect="equal")
        _keep_the_world(axes, read)
        axes.grid(visible=False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _keep_the_world(axes: "matplotlib.axes.Axes", read: Mapping[str, "pd.Series[float]"]) -> None:
    """The whole map, and no farther than half a map beyond it: a probe may point anywhere."""
    for axis, end, limit in (("x", 180, axes.set_xlim), ("y", 90, axes.set_ylim)):
        low, high = float(read[axis].min()), float(read[axis].max())
        limit(max(min(low - 5, -end), -1.5 * end), min(max(high + 5, end), 1.5 * end))


def probe_errors(probed: pd.DataFrame, unit: float) -> "matplotlib.figure.Figure":
    """Errors of three kinds of cities under all pairs together, on a logarithmic axis.

    Columns `model` (pairs count, other models do not), `group`, `error`. BadInput where no model is
    a pair.
    """
    checked("probe_errors", probed, ["model", "group", "error"])
    kinds = probed["model"].map(kind_of)
    real = kinds.isin(KINDS[2:]) & (probed["group"] == "heldout")
    lost = probed["group"] == "atlantis"
    groups = {
        "Real, held out": (real, PALETTE[2]),
        "Atlantis, pairs without distance": (lost & (kinds == KINDS[2]), WITHOUT),
        "Atlantis, pairs with distance": (lost & (kinds == KINDS[3]), WITH),
    }
    found = {
        name: (probed["error"][mask].to_numpy(float) * unit, colour)
        for name, (mask, colour) in groups.items() if mask.any()
    }  # fmt: skip
    if not found:
        raise BadInput("probe_errors: no model is a pair; give representations of pairs")
    return _error_histogram(found)


def _error_histogram(
    found: Mapping[str, tuple[Float[np.ndarray, " _"], str]],
) -> "matplotlib.figure.Figure":
    every = np.concatenate([values for values, _ in found.values()])
    low, high = every[every > 0].min(), every.max()
    bins = np.geomspace(low, high * 1.001, BIN_COUNT).tolist()
    medians = {name: float(np.median(values)) for name, (values, _) in found.items()}
    with house_style():
        figure, axes = new_figure(WIDTH_INCHES * 0.6, _told(medians))
        for number, (name, (values, colour)) in enumerate(found.items()):
            axes.hist(
                values.clip(low, high), bins, weights=np.full(len(values), 1 / len(values)),
                color=colour, alpha=0.45, histtype="stepfilled", edgecolor=colour, linewidth=1.2,
                hatch=("", "////", "....")[number], label=f"{name} ({len(values)})",
            )  # fmt: skip
            axes.axvline(medians[name], color=colour, linewidth=1.6, linestyle="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="Error of the place (degrees; dashed: median)", ylabel="Share of cities")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def _told(medians: Mapping[str, float]) -> str:
    far = [value for name, value in medians.items() if name.startswith("Atlantis")]
    if len(far) == 2:
        return f"Atlantis is misread by {far[1]:.1f}° with distance, {far[0]:.1f}° without"
    return f"Atlantis is misread by {far[0]:.1f}° (median)" if far else "Held-out cities"


def likeness_map(alike: pd.DataFrame) -> "matplotlib.figure.Figure":
    """CKA of every two models of a square frame; a field without a value has a dash."""
    values = alike.to_numpy(float)
    off = values[~np.eye(len(values), dtype=bool)]
    mean, least = float(np.nanmean(off)), float(np.nanmin(off))
    title = f"CKA between models: {mean:.2f} on average, {least:.2f} at least"
    return matrix_figure(alike, LIKENESS, title)


def likeness_scatter(points: pd.DataFrame) -> "matplotlib.figure.Figure":
    """What a specialist gives to another task, against how alike both specialists are.

    `points` is what `likeness.against_improvement` returns. A colour per task that is trained.
    """
    checked("likeness_scatter", points, ["trained", "evaluated", "cka", "improvement"])
    r2, p, slope, intercept = explained(points)
    with house_style():
        title = f"Likeness explains {r2:.0%} of what tasks give each other (p = {p:.2g})"
        figure, axes = new_figure(WIDTH_INCHES * 0.66, title)
        ends = np.array([points["cka"].min(), points["cka"].max()])
        axes.plot(ends, slope * ends + intercept, color="black", linewidth=1, linestyle="--")
        for task, colour, marker in zip(TASKS, PALETTE, "os^DvPX", strict=True):
            mine = points[points["trained"] == task]
            axes.plot(
                mine["cka"], mine["improvement"], marker, color=colour, markersize=5,
                label=task if len(mine) else None,
            )  # fmt: skip
        axes.set(xlabel="CKA of the two specialists", ylabel="Improvement of the other task")
        figure.legend(loc="outside right center", frameon=False, fontsize=8, title="Fine-tuned on")
    return figure


def component_panels(
    panels: Mapping[str, Float[np.ndarray, "N _"]],
    places: Float[np.ndarray, "N 2"],
    regions: Sequence[str],
    model: str,
) -> "matplotlib.figure.Figure":
    """The first two coordinates of every city under each mode of `principal_components`.

    The title says of the last panel how far Atlantis lies from where it belongs (`misplaced`).
    BadInput where no city is in Atlantis.
    """
    where = np.array(regions)
    with house_style():
        off = misplaced(panels[list(panels)[-1]], places, where != "Atlantis")
        title = f"{model}: Atlantis is {off:.2f} map radii off"
        figure, _ = new_figure(WIDTH_INCHES * 0.62, title, columns=len(panels))
        for axes, (mode, found) in zip(figure.axes, panels.items(), strict=True):
            _panel(axes, found, where)
            name, right, up = PANELS[mode]
            axes.set_title(name, fontsize=8, pad=4)
            axes.set(xlabel=right, ylabel=up, xticks=[], yticks=[])
            axes.grid(visible=False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=7,
            markerscale=2, handletextpad=0.1, columnspacing=0.8,
        )  # fmt: skip
    return figure


def _panel(axes: "matplotlib.axes.Axes", found: Any, where: np.ndarray) -> None:
    for region, colour in COLOURS.items():
        mine = where == region
        if mine.any():
            lost = region == "Atlantis"
            axes.scatter(
                found[mine, 0], found[mine, 1], c=colour, label=region, s=8 if lost else 4,
                marker="x" if lost else "o", linewidths=0.7 if lost else 0,
            )  # fmt: skip


def misplaced(
    found: Float[np.ndarray, "N _"], places: Float[np.ndarray, "N 2"], real: Bool[np.ndarray, " N"]
) -> float:
    """How far the middle of Atlantis lies, in the first two coordinates, from where it belongs.

    It belongs where the best affine image of the map, fitted on real cities, puts it; a map radius
    is the root mean square distance of real cities from their middle. BadInput without Atlantis.
    """
    if real.all():
        raise BadInput("misplaced: no city of Atlantis; give the vectors of all cities")
    seen = np.asarray(found[:, :2])
    radius = np.sqrt(np.square(seen[real] - seen[real].mean(0)).sum(1).mean())
    belongs = linear_probe(places[real], seen[real])(places[~real])
    return float(np.linalg.norm((seen[~real] - belongs).mean(0)) / radius)
