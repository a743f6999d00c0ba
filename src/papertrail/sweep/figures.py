"""Figures of a sweep: its history, what mattered, which values were good, the Pareto front."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from papertrail.sweep.options import Dimension
from papertrail.tables.figures import PALETTE, WIDTH_INCHES, house_style

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

    from papertrail.sweep.results import Result, Tried

BLUE, ORANGE, GREY = PALETTE[0], PALETTE[1], "#b4bac2"
FLAT = 0.56  # height over width of a figure
LONGEST = 18  # characters of a choice on an axis
ACROSS = 75  # characters of names that stand beside each other under the axes


def all_of(
    found: "Result", dimensions: Mapping[str, Dimension]
) -> "dict[str, matplotlib.figure.Figure]":
    """Every figure that these trials allow, by file name."""
    figures = {}
    with house_style():
        for name in sorted(found.objectives):
            flat = name.replace("/", "_")
            figures[f"history_{flat}"] = history(found, name)
            if found.importance[name]:
                figures[f"importance_{flat}"] = importance(found, name)
            figures[f"parallel_{flat}"] = parallel(found, name, dimensions)
        if len(found.objectives) == 2:
            figures["pareto"] = pareto(found)
    return figures


def history(found: "Result", name: str) -> "matplotlib.figure.Figure":
    """Value of every trial in its order, and the best until then."""
    figure, axes = _blank(f"{found.target}: {name} by trial", "Trial", name)
    complete = [one for one in _complete(found) if name in one.values]
    numbers, values = [t.number for t in complete], [t.values[name] for t in complete]
    take = np.minimum if found.objectives[name] == "minimize" else np.maximum
    axes.plot(
        numbers, take.accumulate(values), color=BLUE, drawstyle="steps-post", label="best so far"
    )
    axes.plot(numbers, values, "o", color=GREY, markeredgecolor="#6b7280", label="complete")
    ended = [t for t in found.trials if t.state == "pruned" and name in t.values]
    if ended:
        axes.plot(
            [t.number for t in ended], [t.values[name] for t in ended], "x", color=ORANGE,
            label="pruned, last value",
        )  # fmt: skip
    failed = [t.number for t in found.trials if t.state == "failed"]
    if failed:
        axes.plot(
            failed, np.zeros(len(failed)), "|", color="black", transform=axes.get_xaxis_transform(),
            clip_on=False, label="failed",
        )  # fmt: skip
    _stretched(axes, values + [t.values[name] for t in ended])
    _whole(axes)
    axes.legend(frameon=False, fontsize=8)
    return figure


def importance(found: "Result", name: str) -> "matplotlib.figure.Figure":
    """Share of each option in how good a trial is."""
    shares = list(reversed(found.importance[name].items()))
    figure, axes = _blank(
        f"{found.target}: what decides {name}", "Importance (PED-ANOVA, sums to 1)", "",
        height=0.14 + 0.08 * len(shares),
    )  # fmt: skip
    bars = axes.barh(
        [option for option, _ in shares], [share for _, share in shares], color=BLUE, height=0.6
    )
    axes.bar_label(bars, [f"{share:.2f}" for _, share in shares], padding=3, fontsize=8)
    axes.grid(visible=False)
    axes.set_xlim(0, max(share for _, share in shares) * 1.12)
    return figure


def parallel(
    found: "Result", name: str, dimensions: Mapping[str, Dimension]
) -> "matplotlib.figure.Figure":
    """A line per complete trial through its values: the darker, the better by rank."""
    figure, axes = _blank(f"{found.target}: options of good trials (dark) and bad", "", "")
    complete = [one for one in _complete(found) if name in one.values]
    sign = 1 if found.objectives[name] == "minimize" else -1
    worst_first = sorted(complete, key=lambda one: -sign * one.values[name])
    options = sorted(dimensions)
    places = {option: _place(dimensions[option]) for option in options}
    ends = [one.values[name] for one in complete]
    low, high = min(ends), max(ends)
    from matplotlib import colormaps

    for rank, one in enumerate(worst_first):
        share = (rank + 1) / len(worst_first)
        heights = [places[option](one.point[option]) for option in options]
        heights.append((one.values[name] - low) / (high - low) if high > low else 0.5)
        axes.plot(
            range(len(heights)), heights, color=colormaps["cividis_r"](0.1 + 0.9 * share),
            alpha=0.35 + 0.6 * share, linewidth=0.8 + 1.2 * share, zorder=rank,
        )  # fmt: skip
    names = [*options, name]
    _upright(axes, [_folded(one, ACROSS // len(names)) for one in names])
    for place, option in enumerate(options):
        _ticks(axes, place, dimensions[option], places[option])
    for height, value in ((0.0, low), (1.0, high)) if high > low else ((0.5, low),):
        _tick(axes, len(options), height, f"{value:.4g}")
    return figure


def pareto(found: "Result") -> "matplotlib.figure.Figure":
    """Two objectives against each other, and the trials that no other beats in both."""
    across, up = sorted(found.objectives)
    figure, axes = _blank(f"{found.target}: the front", _wished(found, across), _wished(found, up))
    front = sorted((found.of(number) for number in found.best), key=lambda t: t.values[across])
    others = [one for one in _complete(found) if one.number not in found.best]
    axes.plot(
        [t.values[across] for t in others], [t.values[up] for t in others], "o", color=GREY,
        markeredgecolor="#6b7280", label="beaten",
    )  # fmt: skip
    xs, ys = [t.values[across] for t in front], [t.values[up] for t in front]
    axes.plot(xs, ys, "o-", color=BLUE, drawstyle="steps-post", label="Pareto front")
    for one, x, y in zip(front, xs, ys, strict=True):
        axes.annotate(
            str(one.number),
            (x, y),
            xytext=(4, 4),
            textcoords="offset points",
            fontsize=8,
            color=BLUE,
        )
    axes.legend(frameon=False, fontsize=8)
    axes.margins(0.08)
    return figure


def _wished(found: "Result", name: str) -> str:
    return f"{name} ({'less' if found.objectives[name] == 'minimize' else 'more'} is better)"


def _complete(found: "Result") -> "list[Tried]":
    return [one for one in found.trials if one.state == "complete"]


def _blank(
    title: str, xlabel: str, ylabel: str, height: float = FLAT
) -> "tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES, WIDTH_INCHES * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, parse_math=False)
    axes.set_xlabel(xlabel, parse_math=False)
    axes.set_ylabel(ylabel, parse_math=False)
    return figure, axes


def _whole(axes: "matplotlib.axes.Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _stretched(axes: "matplotlib.axes.Axes", values: Sequence[float]) -> None:
    """A diverged trial must not press all others into one line."""
    if min(values, default=0.0) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")


def _place(one: Dimension) -> Any:
    """Value -> height 0..1 on the axis of its option."""
    if one.choices:
        known = [_text(choice) for choice in one.choices]
        return lambda value: known.index(_text(value)) / max(1, len(known) - 1)
    assert one.low is not None and one.high is not None
    scale = math.log if one.log else float
    low, high = scale(one.low), scale(one.high)
    return lambda value: (scale(value) - low) / (high - low) if high > low else 0.5


def _text(choice: Any) -> str:
    from papertrail.sweep.space import typed

    return typed(choice)


def _folded(name: str, longest: int) -> str:
    """A name over as many lines as it needs; one ends behind a dot or a slash."""
    lines = [""]
    for word in re.findall(r"[^./]+[./]?", name):
        if lines[-1] and len(lines[-1]) + len(word) > longest:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def _upright(axes: "matplotlib.axes.Axes", names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.15, len(names) - 0.6)
    axes.set_ylim(-0.06, 1.06)
    axes.grid(visible=False)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    for place in range(len(names)):
        axes.axvline(place, color="#8a9099", linewidth=0.8, zorder=0)


def _ticks(axes: "matplotlib.axes.Axes", place: int, one: Dimension, height: Any) -> None:
    values = [*one.choices] if one.choices else [one.low, one.high]
    for value in values:
        shown = (
            value
            if isinstance(value, str)
            else f"{value:.4g}"
            if isinstance(value, float)
            else value
        )
        _tick(axes, place, height(value), str(shown))


def _tick(axes: "matplotlib.axes.Axes", place: int, height: float, text: str) -> None:
    axes.annotate(
        text[:LONGEST], (place, height), xytext=(4, 0), textcoords="offset points", fontsize=8,
        va="center", color="#33383f", parse_math=False, zorder=1000,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
    )  # fmt: skip
