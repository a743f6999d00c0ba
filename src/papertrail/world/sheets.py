"""Improvements and deviations, model by task, as sheets. Pure functions of tidy frames.

A frame has one row per evaluation: `model`, `seed`, `set`, its experiment and its metrics. What a
cell shows is computed from several runs (the model's, its base model's, its specialists'), so
their rows are joined to the rows that `over_seeds` reads: one per model, seed and task.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from papertrail.world.config import BASE
from papertrail.world.options import ATLANTIS, TASKS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

    from papertrail.tables.sheet import Cell, Format, Sheet

SHORT = {
    "distance": "Dist.", "trianglearea": "Area", "angle": "Angle", "compass": "Comp.",
    "inside": "Inside", "perimeter": "Perim.", "crossing": "Cross.",
}  # fmt: skip
TRAINED = "fine-tuned on this task"
LABELS = ("model", "seed", "task", "trained", "with_distance")
MEANING = "0 is the base model on Atlantis, 1 the base model on real cities"


def generalisation(frame: pd.DataFrame) -> Sheet:
    """What each specialist makes of every task about Atlantis."""
    return _matrix(
        frame, "improvement", "world_generalisation", "What one task gives the others",
        f"Normalised improvement on Atlantis; {MEANING}. Rows: the task fine-tuned.", single=True,
    )  # fmt: skip


def pairs(frame: pd.DataFrame) -> Sheet:
    """What each model that is fine-tuned on two tasks makes of every task about Atlantis."""
    return _matrix(
        frame, "improvement", "world_pairs", "What two tasks give the others",
        f"Normalised improvement on Atlantis; {MEANING}. Rows: the tasks fine-tuned.",
    )  # fmt: skip


def deviation(frame: pd.DataFrame) -> Sheet:
    """The headline: what a pair reaches beyond the better of its two specialists."""
    return _matrix(
        frame, "deviation", "world_deviation", "What a pair adds to the better of its specialists",
        "Normalised improvement of the pair minus that of the better of its two specialists on the "
        "task evaluated, of the same seed; below zero, the second task stood in the way.",
    )  # fmt: skip


def _matrix(
    frame: pd.DataFrame, column: str, name: str, title: str, caption: str, single: bool = False
) -> Sheet:
    """Models by tasks, and the mean of each row; for a `single` task, over the others."""
    from papertrail.tables.sheet import Cell, Column, Format, Sheet
    from papertrail.world.generalisation import pairs as of_pairs
    from papertrail.world.generalisation import specialists

    cells = (specialists if single else of_pairs)(evidence(frame, column))
    format = Format(digits=3, sign=column == "deviation")
    rows: list[dict[str, Cell]] = []
    for model in cells["model"].unique():
        mine = cells[cells["model"] == model]
        row = {"model": Cell(value=str(model))}
        for task in TASKS:
            shown = cell(mine[mine["task"] == task], column, format)
            row[task] = _marked(shown) if task in model.split("+") else shown
        counted = mine[~mine["trained"]] if single else mine
        rows.append(row | {"mean": cell(per_seed(counted, column), column, format)})
    over = "the six other tasks" if single else "all seven tasks"
    return Sheet(
        name=name, title=title, caption=caption, rows=tuple(rows),
        columns=(
            Column(key="model", title="Fine-tuned on"),
            *(Column(key=key, title=SHORT[key], help=f"On {key} with Atlantis.") for key in TASKS),
            Column(key="mean", title="Others" if single else "Mean", help=f"Mean over {over}."),
        ),
        footnotes=seed_footnote(frame),
    )  # fmt: skip


def _marked(shown: Cell) -> Cell:
    """With the remark that the model was fine-tuned on this task."""
    if shown.number is None:
        return shown
    return replace(shown, note="; ".join(filter(None, (shown.note, TRAINED))))


# -- several runs behind one number ---------------------------------------------------------------


def evidence(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per fine-tuned model, seed and task: its `improvement` or `deviation`, and its runs.

    Columns beside those of `joined`: `model`, `seed`, `task`, `trained`, `with_distance`, and
    `column`, NaN where a run is missing.
    """
    import pandas as pd

    from papertrail.world.generalisation import DISTANCE, SCORE

    values = _values(frame, column)
    labels = zip(frame["model"], frame["seed"], frame["set"], strict=True)
    runs = dict(zip(labels, frame.to_dict("records"), strict=True))
    rows = []
    for model, seed in dict.fromkeys((model, seed) for model, seed, _ in runs if model != BASE):
        tasks = model.split("+")
        if column == "deviation" and len(tasks) == 1:
            continue
        asked = [model, BASE, *(tasks if column == "deviation" else ())]
        for task in TASKS:
            places = [*((who, seed, ATLANTIS + task) for who in asked), (BASE, seed, task)]
            behind = [runs.get(place) or _absent(*place) for place in places]
            rows.append(
                {"model": model, "seed": seed, "task": task}
                | {"trained": task in tasks, "with_distance": DISTANCE in tasks}
                | joined(behind, column, values.get((model, seed, task)), read=SCORE)
            )
    columns = [*LABELS, *joined([_absent("", 0, "")], column, None)]
    types = {"model": str, "trained": bool, "with_distance": bool}  # also where there is no row
    return pd.DataFrame(rows, columns=columns).astype(types)


def _values(frame: pd.DataFrame, column: str) -> dict[Any, float]:
    """Improvement or deviation by model, seed and task, of the runs that are there."""
    import numpy as np

    from papertrail.world.generalisation import SCORE, deviations, improvements

    if SCORE not in frame or frame[SCORE].isna().all():
        return {}
    graded = improvements(frame[np.isfinite(frame[SCORE])])
    found = deviations(graded) if column == "deviation" else graded
    labels = zip(found["model"], found["seed"], found["task"], strict=True)
    return dict(zip(labels, found[column], strict=True))


def _absent(model: str, seed: int, name: str) -> dict[str, Any]:
    """The row of a run that the grid does not even have, such as a specialist left out."""
    why = f"the grid has no {model} on {name}"
    return {"run_id": "", "failed_gates": "", "why": why, "doubled": "", "not_finite": {}}


def joined(
    rows: list[dict[Any, Any]], column: str, value: float | None, read: str = ""
) -> dict[str, Any]:
    """The runs behind one number as one row for `over_seeds`: it fails where one of them does.

    `read` is the metric that `column` was computed from, by default that of the same name. `runs`
    holds the ids of all; `run_id` is that of the first, empty where any is missing.
    """
    runs = [run for row in rows for run in row.get("runs", (row["run_id"],)) if run]
    read = read or column
    odd = [row["not_finite"][read] for row in rows if read in row["not_finite"]]
    first = rows[0]
    return {
        "experiment": first.get("experiment", ""), "identity": first.get("identity", ""),
        "run_id": first["run_id"] if all(row["run_id"] for row in rows) else "",
        "failed_gates": _each(row["failed_gates"] for row in rows),
        "why": _each(row["why"] for row in rows if not row["run_id"]),
        "doubled": _each(row["doubled"] for row in rows),
        "not_finite": {column: odd[0]} if odd else {},
        "runs": tuple(dict.fromkeys(runs)),
        column: math.nan if value is None else float(value),
    }  # fmt: skip


def _each(reasons: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(str(reason) for reason in reasons if reason))


def per_seed(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """One row per seed: the mean of `column` over all of its rows, NaN where one has none."""
    import pandas as pd

    return pd.DataFrame(
        {"seed": seed} | joined(mine.to_dict("records"), column, _whole_mean(mine, column))
        for seed, mine in rows.groupby("seed", sort=False)
    )


def _whole_mean(rows: pd.DataFrame, column: str) -> float | None:
    return rows[column].mean(skipna=False) if column in rows else None


def cell(rows: pd.DataFrame, column: str, format: Format) -> Cell:
    """`over_seeds`, with all the runs behind the number instead of the first of each."""
    from papertrail.tables.cells import over_seeds
    from papertrail.tables.sheet import missing

    if rows.empty:
        return missing("the grid has no run for this cell")
    found = over_seeds(rows, column, format)
    used = rows[rows["run_id"].isin(found.runs)]
    runs = dict.fromkeys(run for some in used["runs"] for run in some)
    return replace(found, runs=tuple(runs)) if found.runs else found


def seed_footnote(frame: pd.DataFrame) -> tuple[str, ...]:
    """What the numbers are means over, and which seeds lack runs."""
    from papertrail.tables.cells import which_seeds

    return which_seeds(frame, "nothing here says how trainings differ")
