"""From rows of a tidy frame to one cell: the mean over training seeds, or why there is none."""

import pandas as pd

from papertrail.tables.sheet import Cell, Format, measured, missing, refused


def over_seeds(rows: pd.DataFrame, metric: str, format: Format) -> Cell:
    """`metric` of one run with its interval, or mean ± std over several.

    `rows` are the runs of the cell, one per training seed: the unit of replication. A run that
    failed one of its gates refuses the cell; a run that is not there is counted in the note. The
    interval is the run's own `METRIC/low` and `METRIC/high`, where it logged them.
    """
    runs = [run for run in rows["run_id"] if run]
    failed = [str(gate) for gate in rows["failed_gates"] if gate]
    if failed:
        return refused("; ".join(failed), runs)
    present = rows[rows["run_id"] != ""]
    values = present[metric].dropna() if metric in present else pd.Series(dtype=float)
    if values.empty:
        return missing("; ".join(dict.fromkeys(rows["why"])) or f"no metric {metric}")
    note = "" if len(values) == len(rows) else f"n = {len(values)} of {len(rows)} seeds"
    if len(values) > 1:
        return measured(
            values.mean(), spread=values.std(ddof=1), n=len(values), format=format, runs=runs,
            note=note,
        )  # fmt: skip
    interval = None
    if f"{metric}/low" in present:
        first = present.iloc[0]
        if pd.notna(first[f"{metric}/low"]):
            interval = (first[f"{metric}/low"], first[f"{metric}/high"])
    return measured(values.iloc[0], interval=interval, format=format, runs=runs, note=note)
