"""The rise of the NLL behind each kind of trigger, with its interval, an arm per colour."""

from typing import TYPE_CHECKING

from papertrail.tables.figures import MARKERS, PALETTE, WIDTH_INCHES, checked, house_style, unique

if TYPE_CHECKING:
    import matplotlib.figure
    import pandas

ROW_INCHES = 0.42


def trigger_bars(frame: "pandas.DataFrame", title: str = "") -> "matplotlib.figure.Figure":
    """Columns: `model`, `attack`, `rise` (nats per token) and its interval `low`, `high`.

    A row per attack in the order of the frame, a colour and a marker per model. BadInput for a
    missing column, no rows, or two rows of one model and attack.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    checked("trigger_bars", frame, ["model", "attack", "rise", "low", "high"])
    unique("trigger_bars", frame, ["model", "attack"])
    attacks, models = [*frame["attack"].unique()], [*frame["model"].unique()]
    with house_style():
        size = (WIDTH_INCHES, ROW_INCHES * len(attacks) + 1.1)
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        for number, model in enumerate(models):
            mine = frame[frame["model"] == model]
            shift = 0.26 * (number - (len(models) - 1) / 2)
            rows = [attacks.index(attack) + shift for attack in mine["attack"]]
            colour, hollow = PALETTE[number % len(PALETTE)], number % 2
            axes.errorbar(
                mine["rise"], rows, xerr=[mine["rise"] - mine["low"], mine["high"] - mine["rise"]],
                fmt=MARKERS[number % len(MARKERS)], color=colour, label=model, markersize=5,
                markerfacecolor="white" if hollow else colour, elinewidth=1.4,
            )  # fmt: skip
        axes.axvline(0, color="#8a9099", linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.set_yticks(range(len(attacks)), attacks)
        axes.set_ylim(len(attacks) - 0.5, -0.5)
        axes.set(title=title, xlabel="Rise of the NLL of the text (nats per token)")
        figure.legend(loc="outside upper left", ncols=len(models), frameon=False, fontsize=8)
    return figure
