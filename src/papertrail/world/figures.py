"""Figures of improvements and deviations, each from a graded frame; titles tell what they show.

Drawn without pyplot in the style of `tables.figures`. Axes: R rows, C columns.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from papertrail.core.errors import BadInput
from papertrail.tables.figures import PALETTE, WIDTH_INCHES, house_style
from papertrail.tables.sheet import Format, rounded
from papertrail.world.generalisation import (
    DISTANCE,
    cells_of,
    deviations,
    improvements,
    matrix,
    pairs,
    specialists,
)

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import matplotlib.image

FIELD_INCHES = 0.27  # height of a row
BINS = np.linspace(-0.5, 0.5, 24)  # as published
WITH, WITHOUT = PALETTE[1], PALETTE[0]
MOST_NUMBERS = 12  # columns of numbers that fit into the width
DARK = 0.5  # relative luminance below which numbers are white
FRAMED = "Evaluated on, with Atlantis (framed: fine-tuned on it)"


class Scale(NamedTuple):
    """Colours of a matrix, their ends, how its numbers are written, and of what they are."""

    colours: str
    low: float
    high: float
    format: Format
    name: str


IMPROVEMENT = Scale("cividis", 0.0, 1.0, Format(), "Normalised improvement")
DEVIATION = Scale(
    "PuOr", -0.5, 0.5, Format(sign=True), "Improvement − expected"
)  # orange: short of it
LIKENESS = Scale("cividis", 0.0, 1.0, Format(), "CKA")


def of_evaluations(frame: pd.DataFrame) -> "dict[str, matplotlib.figure.Figure]":
    """Every figure that evaluations (as in `improvements`) allow, by file name.

    What needs specialists or pairs is left out where the frame has none.
    """
    graded = improvements(frame)
    found = {}
    if len(specialists(graded)):
        found["generalisation"] = specialists_map(graded)
    if len(pairs(graded)):
        found["pairs"] = pairs_map(graded)
    if len(deviations(graded)):
        found |= {
            "deviation": deviation_map(graded), "deviation_histogram": deviation_histogram(graded)
        }  # fmt: skip
    return found


def specialists_map(graded: pd.DataFrame) -> "matplotlib.figure.Figure":
    """What each specialist makes of every task; the mean over seeds."""
    title = f"Specialists gain {_gains(graded, 'specialists', 'task')}"
    return matrix_figure(matrix(specialists(graded)), IMPROVEMENT, title, trained=True)


def pairs_map(graded: pd.DataFrame) -> "matplotlib.figure.Figure":
    """What each pair makes of every task; the mean over seeds."""
    title = f"Pairs gain {_gains(graded, 'pairs', 'tasks')}"
    return matrix_figure(matrix(pairs(graded)), IMPROVEMENT, title, trained=True)


def _gains(graded: pd.DataFrame, what: str, own: str) -> str:
    means = [cells_of(graded, what, group)["value"].mean() for group in ("trained", "transfer")]
    return f"{means[0]:.2f} on their own {own}, {means[1]:.2f} on others"


def deviation_map(graded: pd.DataFrame) -> "matplotlib.figure.Figure":
    """Improvement of pairs minus that of the better specialist; pairs with distance come first."""
    cells = deviations(graded).sort_values("with_distance", ascending=False, kind="stable")
    _refuse_nothing("deviation_map", cells)
    values = matrix(cells, "deviation")
    figure = matrix_figure(values, DEVIATION, shortfall(cells), trained=True)
    count = sum(DISTANCE in str(model).split("+") for model in values.index)
    if 0 < count < len(values):
        figure.axes[0].axhline(count - 0.5, color="black", linewidth=1.6)
    return figure


def shortfall(cells: pd.DataFrame) -> str:
    """The finding on distance in words: what pairs with it and pairs without come to."""
    told: list[str] = []
    for side, mean in cells.groupby("with_distance")["deviation"].mean()[::-1].items():
        verb, again = ("fall short by", "by") if mean < 0 else ("gain", "")
        verb = again if told and verb in told[0] else verb  # the title has one line
        name = "with distance" if side else "those without"
        told.append(" ".join(filter(None, (name, verb, f"{abs(mean):.2f}"))))
    return f"Pairs {', '.join(told)}"


def matrix_figure(
    values: pd.DataFrame, scale: Scale, title: str, trained: bool = False
) -> "matplotlib.figure.Figure":
    """Numbers in coloured fields; one without a value is white and says so with a dash.

    A field is framed where its column is one of the tasks (joined by +) that its row is named
    after, if `trained`. With many columns there is no room for numbers. BadInput where there is no
    row.
    """
    _refuse_nothing("matrix_figure", values)
    crowded = values.shape[1] > MOST_NUMBERS
    with house_style():
        height = (FIELD_INCHES / 2 if crowded else FIELD_INCHES) * len(values) + 1.7
        figure, axes = new_figure(height, title)
        image = axes.imshow(
            values.to_numpy(float), cmap=scale.colours, vmin=scale.low, vmax=scale.high,
            aspect="auto",
        )  # fmt: skip
        _name(axes, values, crowded)
        if not crowded:
            _number(axes, values.to_numpy(float), image, scale.format)
        if trained:
            _frame(axes, values)
        bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, aspect=30)
        bar.set_label(scale.name)
        bar.outline.set_visible(False)
    return figure


def _name(axes: "matplotlib.axes.Axes", values: pd.DataFrame, crowded: bool) -> None:
    shown: dict[str, Any] = {"rotation": 90, "fontsize": 6} if crowded else {"rotation": 30}
    rows, columns = (
        [str(name).replace("+", " + ") for name in names]
        for names in (values.index, values.columns)
    )
    axes.set_xticks(range(len(columns)), columns, ha="center" if crowded else "right", **shown)
    axes.set_yticks(range(len(rows)), rows, fontsize=6 if crowded else 8)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def _number(
    axes: "matplotlib.axes.Axes",
    values: Float[np.ndarray, "R C"],
    image: "matplotlib.image.AxesImage",
    format: Format,
) -> None:
    for (y, x), value in np.ndenumerate(values):
        shade = tuple(image.cmap(image.norm(value))) if np.isfinite(value) else (1.0,) * 4
        axes.text(
            x, y, written(float(value), format), fontsize=7, ha="center", va="center",
            color="white" if luminance(shade) < DARK else "black",
        )  # fmt: skip


def written(value: float, format: Format) -> str:
    """The number in a field, with a minus as on the axes; a dash where there is none."""
    return rounded(value, format).replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "–"


def _frame(axes: "matplotlib.axes.Axes", values: pd.DataFrame) -> None:
    from matplotlib.patches import Rectangle

    lines = (("black", 1.5), ("white", 0.6))  # one of them is seen on any colour
    for y, row in enumerate(values.index):
        for x, column in enumerate(values.columns):
            for colour, width in lines if column in str(row).split("+") else ():
                corner = (x - 0.47, y - 0.45)
                axes.add_patch(
                    Rectangle(corner, 0.94, 0.9, fill=False, edgecolor=colour, linewidth=width)
                )
    axes.set(xlabel=FRAMED, ylabel="Fine-tuned on")


def luminance(colour: tuple[float, ...]) -> float:
    """Of an RGBA colour, 0 black to 1 white, as ITU-R BT.709 weighs the channels."""
    return float(np.dot(colour[:3], (0.2126, 0.7152, 0.0722)))


def deviation_histogram(graded: pd.DataFrame) -> "matplotlib.figure.Figure":
    """Deviations of pairs with distance beside the others', as shares of the cells of each.

    What lies beyond the ends is counted in the outermost bins.
    """
    cells = deviations(graded)
    _refuse_nothing("deviation_histogram", cells)
    with house_style():
        figure, axes = new_figure(WIDTH_INCHES * 0.56, shortfall(cells))
        for side, name, colour in ((False, "without", WITHOUT), (True, "with", WITH)):
            values = cells["deviation"][cells["with_distance"] == side].to_numpy()
            if not len(values):
                continue
            shares = np.full(len(values), 1 / len(values))
            label = f"Pairs {name} distance ({len(values)} cells)"
            axes.hist(
                values.clip(BINS[0], BINS[-1]), BINS.tolist(), weights=shares, color=colour,
                alpha=0.5, histtype="stepfilled", edgecolor=colour, linewidth=1.2, label=label,
                hatch="////" if side else None,
            )  # fmt: skip
            axes.axvline(values.mean(), color=colour, linewidth=1.6, linestyle="--")
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(xlabel=f"{DEVIATION.name} (dashed: mean)", ylabel="Share of cells")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return figure


def new_figure(
    height: float, title: str, columns: int = 1
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    """A figure of the paper's width, `height` inches high, and its first axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False)[0, 0]
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure, axes


def _refuse_nothing(who: str, values: pd.DataFrame) -> None:
    if values.empty:
        raise BadInput(f"{who}: no rows to draw; check the evaluations")
