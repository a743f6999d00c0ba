"""What the whole study says of each arm, from the one run that put all seeds together."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.tables.sheet import Cell, Sheet

PREFIX = "versus/"


def comparisons(frame: pd.DataFrame) -> Sheet:
    """Each arm against the baseline: what it costs, what it buys, and how sure that is."""
    from papertrail.tables.cells import over_seeds
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    columns = (
        Column(key="arm", title="Model"),
        Column(key="gap", title="ΔPPL", latex=r"$\Delta$PPL", help="Against the baseline."),
        Column(key="perplexity", title="ΔSuccess", latex=r"$\Delta$Success", help="PPL +15 %."),
        Column(key="relative", title="NLL +15%", help="The published definition of success."),
        Column(key="absolute", title="Nats", help="Success by an absolute rise."),
        Column(key="rise", title="ΔRise", latex=r"$\Delta$Rise", help="Nats per scored token."),
        Column(key="wilcoxon_p_holm", title="p", help="Wilcoxon on texts, Holm over the arms."),
        Column(key="mcnemar_p_largest_holm", title="McNemar p", help="Largest over seeds, Holm."),
    )
    share, nats = Format(digits=1, percent=True, sign=True), Format(digits=3, sign=True)
    shown = {
        "gap": share, "perplexity": share, "relative": share, "absolute": share, "rise": nats,
        "wilcoxon_p_holm": Format(digits=3), "mcnemar_p_largest_holm": Format(digits=3),
    }  # fmt: skip
    rows: list[dict[str, Cell]] = [
        {"arm": Cell(value=arm)}
        | {key: over_seeds(frame, f"{PREFIX}{arm}/{key}", kind) for key, kind in shown.items()}
        for arm in _arms(frame)
    ]
    return Sheet(
        name="comparisons",
        title="Each arm against the baseline under HotFlip",
        caption="Differences from the baseline on the same texts and documents; intervals resample "
        "training seeds, then texts within each.",
        columns=columns,
        rows=tuple(rows),
        footnotes=_counted(frame),
    )


def _arms(frame: pd.DataFrame) -> list[str]:
    keys = [str(column) for column in frame if str(column).startswith(PREFIX)]
    found = dict.fromkeys(key.removeprefix(PREFIX).partition("/")[0] for key in keys)
    return list(found) or ["monotone"]


def _counted(frame: pd.DataFrame) -> tuple[str, ...]:
    """Seeds and texts behind the intervals."""
    key = f"{PREFIX}{_arms(frame)[0]}/"
    if f"{key}seeds" not in frame:
        return ()
    seeds, texts = (int(frame[f"{key}{name}"].iloc[0]) for name in ("seeds", "texts"))
    told = "" if seeds > 1 else "; with one seed the intervals say nothing about training"
    return (f"{seeds} training seeds x {texts} texts{told}.",)
