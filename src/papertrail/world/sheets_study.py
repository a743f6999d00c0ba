"""The study in one table: what specialists, pairs and deviations come to under every seed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from papertrail.world.sheets import cell, evidence, joined, per_seed

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.tables.sheet import Cell, Sheet

TITLES = {
    ("specialists", "trained"): ("One: trained", "Specialists on their own task."),
    ("specialists", "transfer"): ("One: others", "Specialists on the six other tasks."),
    ("pairs", "trained"): ("Two: trained", "Pairs on their own two tasks."),
    ("pairs", "transfer"): ("Two: others", "Pairs on the five other tasks."),
    ("deviation", "trained"): ("Dev.: trained", "Deviation of pairs on their own tasks."),
    ("deviation", "transfer"): ("Dev.: others", "Deviation of pairs on the other tasks."),
    ("deviation", "with_distance"): ("Dev.: with D", "Deviation of pairs with distance."),
    ("deviation", "without_distance"): ("Dev.: without", "Deviation of pairs without distance."),
}
COST = "cost"


def summary(frame: pd.DataFrame) -> Sheet:
    """A row per seed and one over all seeds: the summary statistics, and what distance costs."""
    from papertrail.tables.sheet import Cell, Column, Sheet

    known = {
        "improvement": evidence(frame, "improvement"), "deviation": evidence(frame, "deviation")
    }  # fmt: skip
    seeds = list(dict.fromkeys(int(seed) for seed in frame["seed"]))
    rows: list[dict[str, Cell]] = [
        {"seed": Cell(value=f"seed {seed}")}
        | _statistics({key: rows[rows["seed"] == seed] for key, rows in known.items()}, within=True)
        | {COST: _cost(known["deviation"], [seed])}
        for seed in seeds
    ]
    if len(seeds) > 1:
        rows.append(
            {"seed": Cell(value="all seeds")}
            | _statistics(known, within=False)
            | {COST: _cost(known["deviation"], seeds)}
        )
    columns = (
        Column(key="seed", title=""),
        *(
            Column(key="/".join(key), title=title, help=help)
            for key, (title, help) in TITLES.items()
        ),
        Column(key=COST, title="With − without", latex="With $-$ without", help="Of the pairs."),
    )
    return Sheet(
        name="world_summary",
        title="Specialists, pairs, and what distance does to them",
        caption="Normalised improvement on Atlantis, and the deviation of pairs from the better of "
        "their specialists: mean ± standard deviation over the cells of a seed, and over seeds.",
        columns=columns,
        rows=tuple(rows),
        footnotes=(
            "With − without: mean deviation of the pairs with distance minus that of the others, "
            "95 % bootstrap interval over pairs; pairs share specialists, so it is rather too "
            "narrow than too wide.",
        ),
    )


def _statistics(known: dict[str, pd.DataFrame], within: bool) -> dict[str, Cell]:
    """One cell per statistic; its spread is over the cells `within` a seed, else over seeds."""
    from papertrail.tables.sheet import Format
    from papertrail.world.generalisation import GROUPS, pairs, specialists

    found = {}
    for what, group in TITLES:
        column = "deviation" if what == "deviation" else "improvement"
        rows = known[column]
        rows = specialists(rows) if what == "specialists" else pairs(rows)
        rows = rows[GROUPS[group](rows)]
        shown = cell(per_seed(rows, column), column, Format(digits=3, sign=what == "deviation"))
        if within and shown.number is not None:
            shown = replace(shown, spread=float(rows[column].std(ddof=0)), n=len(rows))
        found[f"{what}/{group}"] = shown
    return found


def _cost(deviations: pd.DataFrame, seeds: list[int]) -> Cell:
    """`distance_cost` of these seeds, with its interval; missing where one of its cells is."""
    import pandas as pd

    from papertrail.tables.sheet import Format, missing
    from papertrail.world.generalisation import distance_cost

    rows = deviations[deviations["seed"].isin(seeds)] if len(deviations) else deviations
    groups = [set(rows["model"][rows["with_distance"] == side]) for side in (True, False)]
    if min(map(len, groups)) < 2:
        return missing("needs two pairs with distance and two without")
    whole = rows["deviation"].notna().all()
    interval = distance_cost(rows) if whole else None
    row = joined(
        rows.to_dict("records"), COST, interval.estimate if interval else None, "deviation"
    )
    if interval:
        row |= {f"{COST}/low": interval.low, f"{COST}/high": interval.high}
    return cell(pd.DataFrame([row]), COST, Format(digits=3, sign=True))
