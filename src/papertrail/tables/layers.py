"""A figure of what happens to each layer of a model: one panel per measure, one row per layer."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from papertrail.tables.figures import DASHES, MARKERS, PALETTE, WIDTH_INCHES, checked, house_style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import pandas


def per_layer(
    panels: Mapping[str, "pandas.DataFrame"], title: str = ""
) -> "matplotlib.figure.Figure":
    """Panels side by side over depth, each named on its vertical axis and drawn from zero.

    Columns of each: `depth`, `series`, `value`. Raises BadInput for a missing column or no rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with house_style():
        figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * 0.48), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        row = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, frame) in zip(row, panels.items(), strict=True):
            _panel(axes, name, frame)
    return figure


def _panel(axes: "matplotlib.axes.Axes", name: str, frame: "pandas.DataFrame") -> None:
    from matplotlib.ticker import MaxNLocator

    checked("per_layer", frame, ["depth", "series", "value"])
    looks = zip(PALETTE, DASHES * 2, MARKERS, strict=False)
    for (series, part), (colour, dash, marker) in zip(
        frame.groupby("series", sort=False), looks, strict=False
    ):
        part = part.sort_values("depth")
        axes.plot(
            part["depth"], part["value"], color=colour, linestyle=dash, marker=marker,
            label=str(series),
        )  # fmt: skip
    axes.set(xlabel="Layer", ylabel=name)
    axes.set_ylim(min(0.0, float(frame["value"].min()) * 1.08), _top(frame["value"]))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.12)
    if frame["series"].nunique() > 1:
        axes.legend(frameon=False, fontsize=7)


def _top(values: "pandas.Series[float]") -> float:
    highest = float(values.max())
    return highest * 1.25 if highest > 0 else 1.0  # room for the legend
