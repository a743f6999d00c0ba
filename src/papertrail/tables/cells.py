"""From rows of a tidy frame to one cell: the mean over training seeds, or why there is none."""

import math

import pandas as pd

from papertrail.core.errors import BadInput
from papertrail.tables.catalog import NEVER
from papertrail.tables.sheet import Cell, Format, measured, missing, refused


def over_seeds(rows: pd.DataFrame, metric: str, format: Format) -> Cell:
    """`metric` of one run with its interval, or mean ± std over several.

    `rows` are the runs of the cell, one per training seed: the unit of replication. A run that
    failed one of its gates, or whose metric is NaN or infinite, refuses the cell; a run that is
    not there is counted in the note. The interval is the run's own `METRIC/low` and `METRIC/high`,
    where it logged them. BadInput if one run stands for two seeds.
    """
    _refuse_twins(rows)
    runs = [run for run in rows["run_id"] if run]
    failed = [str(gate) for gate in rows["failed_gates"] if gate]
    if failed:
        return refused("; ".join(failed), runs)
    if odd := _not_finite(rows, metric):
        return refused("; ".join(odd), runs)
    values = rows[metric].dropna() if metric in rows else pd.Series(dtype=float)
    if values.empty:
        return missing("; ".join(_reasons(rows, metric)) or "the grid has no run for this cell")
    behind = rows.loc[values.index]
    note = "; ".join([*_coverage(rows, metric, len(values)), *filter(None, behind["doubled"])])
    if len(values) > 1:
        return measured(
            values.mean(), spread=values.std(ddof=1), n=len(values), format=format,
            runs=list(behind["run_id"]), note=note,
        )  # fmt: skip
    interval = _interval(behind, metric)
    n = 1 if interval is None and len(rows) > 1 else None  # beside an interval, n counts examples
    return measured(
        values.iloc[0], interval=interval, n=n, format=format, runs=list(behind["run_id"]),
        note=note,
    )  # fmt: skip


def which_seeds(frame: pd.DataFrame, alone: str) -> tuple[str, ...]:
    """The footnote on what numbers are means over, and which seeds lack runs.

    `alone` says what one seed cannot tell.
    """
    seeds = sorted({int(seed) for seed in frame["seed"]})
    gaps = sorted({int(seed) for seed in frame["seed"][frame["run_id"] == ""]})
    lacking = f" Runs of seed {', '.join(map(str, gaps))} are missing." if gaps else ""
    if len(seeds) > 1:
        named = ", ".join(map(str, seeds))
        return (f"Mean ± standard deviation over training seeds {named}.{lacking}",)
    return (f"One training seed ({seeds[0]}): {alone}.",)


def _refuse_twins(rows: pd.DataFrame) -> None:
    """A run that is counted twice makes the noise look smaller than it is."""
    twice = rows[rows["identity"].duplicated()]
    if len(twice):
        name, digest = twice[["experiment", "identity"]].iloc[0]
        raise BadInput(
            f"{name} {digest}: stands {1 + (twice['identity'] == digest).sum()} times in one cell; "
            "give each need of the cell a question of its own"
        )


def _not_finite(rows: pd.DataFrame, metric: str) -> list[str]:
    """A seed that diverged is a result: leaving it out of the mean would hide it."""
    said = [
        f"{name} is {odd[name]} in run {run_id}"
        for run_id, odd in zip(rows["run_id"], rows["not_finite"], strict=True)
        for name in (metric, f"{metric}/low", f"{metric}/high")
        if name in odd
    ]
    if said or metric not in rows:
        return said
    derived = zip(rows["run_id"], rows[metric], strict=True)
    return [f"{metric} is {x} in run {run_id}" for run_id, x in derived if math.isinf(x)]


def _coverage(rows: pd.DataFrame, metric: str, num_values: int) -> list[str]:
    """How many of the seeds are in the mean, and why the others are not."""
    if num_values == len(rows):
        return []
    told = [reason for reason in _reasons(rows, metric) if reason != NEVER]
    return [f"n = {num_values} of {len(rows)} seeds", *told]


def _reasons(rows: pd.DataFrame, metric: str) -> list[str]:
    """Why rows have no value, each reason once."""
    without = rows[rows[metric].isna()] if metric in rows else rows
    reasons = (
        f"no {metric} in run {run_id}" if run_id else str(why)
        for run_id, why in zip(without["run_id"], without["why"], strict=True)
    )
    return list(dict.fromkeys(reasons))


def _interval(row: pd.DataFrame, metric: str) -> tuple[float, float] | None:
    low, high = f"{metric}/low", f"{metric}/high"
    if low not in row or pd.isna(row[low].iloc[0]):
        return None
    return row[low].iloc[0], row[high].iloc[0]
