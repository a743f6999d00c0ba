"""Paper figures from tidy frames, in one house style that survives greyscale and colour blindness.

Figures are made without pyplot: no global state, no window, nothing to close.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from papertrail.core.errors import BadInput

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure
    import pandas

# Okabe and Ito's palette (jfly.uni-koeln.de/color), reordered dark to light; without its yellow,
# which vanishes on paper. A line style per series besides, for greyscale.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH_INCHES = 5.5  # the text width of a one-column conference paper
LABEL_GAP = 0.052  # least distance of two direct labels, as a fraction of the axis

STYLE: Any = {  # keys are checked by matplotlib
    "figure.dpi": 200,
    "figure.facecolor": "white",
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelsize": 9,
    "axes.labelcolor": "#33383f",
    "axes.edgecolor": "#8a9099",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e3e6ea",
    "grid.linewidth": 0.7,
    "xtick.color": "#5c6470",
    "ytick.color": "#5c6470",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "ytick.major.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.6,
    "pdf.fonttype": 42,  # TrueType: journals refuse matplotlib's default Type 3
    "svg.fonttype": "none",
    "svg.hashsalt": "papertrail",
}


@contextmanager
def house_style() -> Iterator[None]:
    """matplotlib as the papers want it, only inside the `with`."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def save(figure: "matplotlib.figure.Figure", path: Path) -> None:
    """Write PNG, PDF or SVG by suffix; the same figure gives the same bytes."""
    dated = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
    with house_style():  # fonts are embedded while saving
        figure.savefig(path, metadata=dated.get(path.suffix))


def budget_curves(
    frame: "pandas.DataFrame", title: str = "", ylabel: str = "Attack success"
) -> "matplotlib.figure.Figure":
    """Success rate against the number of flips, one labelled line per model and attack.

    Columns: `model`, `attack`, `num_flips`, `success` and its interval `low`, `high` (fractions).
    A model has a colour, an attack a line style. Raises BadInput for a missing column, no rows,
    or two rows with one budget.
    """
    series = ["model", "attack"]
    checked("budget_curves", frame, [*series, "num_flips", "success", "low", "high"])
    unique("budget_curves", frame, [*series, "num_flips"])
    models = _models(frame)
    looks = list(zip(cycle(DASHES), MARKERS, strict=False))
    styles = dict(zip(frame["attack"].unique(), cycle(looks), strict=False))
    with house_style():
        figure, axes = _axes(title, "Token flips", ylabel)
        ends = []
        for (model, attack), part in frame.groupby(series, sort=False):
            part = part.sort_values("num_flips")
            x, (dash, marker), (colour, look) = part["num_flips"], styles[attack], models[model]
            axes.fill_between(x, part["low"], part["high"], color=colour, alpha=0.13, linewidth=0)
            axes.plot(x, part["success"], linestyle=dash, **(look | {"marker": marker}))
            end = float(x.iloc[-1]), float(part["success"].iloc[-1])
            ends.append(End(*end, f"{model}, {attack}", colour))
        _rates(axes, float(frame["high"].max()))
        _whole_numbers(axes, float(frame["num_flips"].min()), float(frame["num_flips"].max()))
        label_ends(axes, ends)
    return figure


def training_curves(
    frame: "pandas.DataFrame", title: str = "", ylabel: str = "Loss (nats per token)"
) -> "matplotlib.figure.Figure":
    """A metric against training steps, one labelled line per model and split.

    Columns: `model`, `split`, `step`, `value`. Rows of several `seed`s (optional column) become
    their mean with the range from lowest to highest around it. Raises BadInput for a missing
    column, no rows, or two rows at one step.
    """
    series = ["model", "split"]
    checked("training_curves", frame, [*series, "step", "value"])
    seed = ["seed"] if "seed" in frame else []
    unique("training_curves", frame, [*series, *seed, "step"])
    models = _models(frame)
    dashes = dict(zip(frame["split"].unique(), cycle(DASHES), strict=False))
    with house_style():
        figure, axes = _axes(title, "Training step", ylabel)
        ends = []
        for (model, split), part in frame.groupby(series, sort=False):
            at = part.groupby("step")["value"].agg(["mean", "min", "max"]).sort_index()
            colour, look = models[model]
            axes.fill_between(at.index, at["min"], at["max"], color=colour, alpha=0.13, linewidth=0)
            axes.plot(at.index, at["mean"], linestyle=dashes[split], markevery=0.12, **look)
            end = float(at.index[-1]), float(at["mean"].iloc[-1])
            ends.append(End(*end, f"{model}, {split}", colour))
        axes.margins(x=0.01)
        label_ends(axes, ends)
    return figure


def heatmap(
    frame: "pandas.DataFrame", title: str = "", xlabel: str = "", ylabel: str = ""
) -> "matplotlib.figure.Figure":
    """A value per row and column, written into its field; a field without a value stays empty.

    Columns: `row`, `column`, `value` (fractions), both axes in order of first appearance. Raises
    BadInput for a missing column, no rows, or two rows for one field.
    """
    checked("heatmap", frame, ["row", "column"])
    unique("heatmap", frame, ["row", "column"])
    rows, columns = (list(frame[key].unique()) for key in ("row", "column"))
    values = frame.pivot(index="row", columns="column", values="value").loc[rows, columns]
    with house_style():
        figure, axes = _axes(title, xlabel, ylabel)
        image = axes.imshow(values.to_numpy(dtype=float), cmap="cividis", aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
        axes.set_yticks(range(len(rows)), rows)
        axes.grid(visible=False)
        middle = sum(image.get_clim()) / 2
        for y, row in enumerate(values.to_numpy(dtype=float)):
            for x, value in enumerate(row):
                if value == value:  # not NaN
                    colour = "black" if value > middle else "white"
                    axes.text(x, y, f"{value:.0%}", ha="center", va="center", color=colour)
    return figure


def checked(who: str, frame: "pandas.DataFrame", columns: Sequence[str]) -> None:
    """Refuse a frame that lacks a column, a row or a value."""
    absent = [column for column in columns if column not in frame]
    if absent:
        raise BadInput(f"{who}: no column {absent}; the frame has {list(frame)}")
    if frame.empty:
        raise BadInput(f"{who}: no rows to draw; check the query")
    holes = [column for column in columns if frame[column].isna().any()]
    if holes:
        raise BadInput(f"{who}: missing values in {holes}; drop those rows or run what they lack")


def unique(who: str, frame: "pandas.DataFrame", by: list[str]) -> None:
    """Refuse two rows where a line can have one point."""
    twice = frame[frame.duplicated(by)]
    if len(twice):
        first = dict(zip(by, twice[by].iloc[0], strict=True))
        raise BadInput(f"{who}: {len(twice) + 1} rows for {first}; aggregate them or name the seed")


class End(NamedTuple):
    """Where a line ends and what it is called."""

    x: float
    y: float
    name: str
    colour: str


def label_ends(axes: "matplotlib.axes.Axes", ends: Sequence[End]) -> None:
    """Write each line's name at its right end, moved apart where lines end close together."""
    low, high = axes.get_ylim()
    places = spread_out([(end.y - low) / (high - low) for end in ends], LABEL_GAP)
    for place, (x, y, name, colour) in zip(places, ends, strict=True):
        axes.annotate(
            name, xy=(x, y), xytext=(1.045, place), textcoords="axes fraction", color=colour,
            fontsize=8, va="center", annotation_clip=False, parse_math=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6,
                        "shrinkA": 1, "shrinkB": 3},
        )  # fmt: skip


def spread_out(heights: Sequence[float], gap: float) -> list[float]:
    """The nearest heights in the same order that are at least `gap` apart, in input order.

    Neighbours that are too close form a block around their common mean; blocks that then touch
    merge (pool adjacent violators).
    """
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    blocks: list[tuple[float, int]] = []  # mean of height - rank * gap, size
    for rank, i in enumerate(order):
        mean, size = heights[i] - rank * gap, 1
        while blocks and blocks[-1][0] > mean:
            before, count = blocks.pop()
            mean, size = (before * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    places = [mean for mean, size in blocks for _ in range(size)]
    by_rank = {
        i: place + rank * gap for rank, (i, place) in enumerate(zip(order, places, strict=True))
    }
    return [by_rank[i] for i in range(len(heights))]


def _models(frame: "pandas.DataFrame") -> dict[Any, tuple[str, dict[str, Any]]]:
    # Every other model has hollow markers: in greyscale two colours may be one.
    looks = [
        (c, {"color": c, "marker": marker, "markerfacecolor": "white" if i % 2 else c})
        for i, (c, marker) in enumerate(zip(PALETTE, MARKERS, strict=True))
    ]
    return dict(zip(frame["model"].unique(), cycle(looks), strict=False))


def _axes(
    title: str, xlabel: str, ylabel: str
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * 0.56), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
    return figure, axes


def _rates(axes: "matplotlib.axes.Axes", highest: float) -> None:
    from matplotlib.ticker import PercentFormatter

    # From zero, so that a small rate looks small; to 100 % only where the data go there.
    axes.set_ylim(0, min(1.0, highest * 1.08) if highest > 0 else 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if highest > 0.05 else 1))


def _whole_numbers(axes: "matplotlib.axes.Axes", first: float, last: float) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(first - 0.15, last + 0.15)
