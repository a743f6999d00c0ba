"""What the models are like one by one: raw scores of the base, maps that probes read, likeness."""

from __future__ import annotations

from typing import TYPE_CHECKING

from papertrail.world.config import BASE
from papertrail.world.options import ATLANTIS, EXACT, GUESS, TASKS
from papertrail.world.sheets import cell, per_seed, seed_footnote

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.tables.sheet import Cell, Sheet

UNITS = {"angle": "degrees", "trianglearea": "squared units"}
PROBED = {
    "probe/r2_x_test": ("R² x", "Share of the variance of x that the probe explains, held out."),
    "probe/r2_y_test": ("R² y", "Share of the variance of y that the probe explains, held out."),
    "heldout/error_mean_degrees": ("Held out", "Real cities that the probe did not learn."),
    "atlantis/error_mean_degrees": ("Atlantis", "Cities that pretraining did not show."),
    "atlantis/location_bias_degrees": ("Bias", "Of the middle of Atlantis."),
    "control/heldout_error_mean_degrees": ("Control", "Held out, taught places of other cities."),
}
HIGHER = ("probe/r2_x_test", "probe/r2_y_test")
KINDS = ("base", "specialists", "pairs without distance", "pairs with distance")
CKA = "cka/"
DATA = "data"
"""Labels the run of `world_data` as the base model's are."""


def scores(frame: pd.DataFrame) -> Sheet:
    """The base model's raw scores: the two ends of every improvement."""
    from papertrail.tables.cells import over_seeds
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    base, data = (frame[frame["model"] == model] for model in (BASE, DATA))
    rows: list[dict[str, Cell]] = []
    for task in TASKS:
        format = Format(digits=1, percent=True) if task in EXACT else Format(digits=2)
        row = {"task": Cell(value=task), "unit": Cell(value=unit_of(task))}
        for kind, name in (("real", task), ("atlantis", ATLANTIS + task)):
            row[kind] = over_seeds(base[base["set"] == name], "score/mean", format)
            row[f"{kind}_guess"] = over_seeds(data, GUESS.format(task=task, kind=kind), format)
        rows.append(row)
    guess = "What the most frequent answer scores, or the median."
    return Sheet(
        name="world_scores",
        title="The base model on real cities and on Atlantis",
        caption="Mean absolute error, or share of right answers, before any fine-tuning: what "
        "counts as 1 and as 0 of an improvement; beside them what guessing scores.",
        columns=(
            Column(key="task", title="Task"),
            Column(key="unit", title="Score"),
            Column(key="real", title="Real", help="Questions without Atlantis."),
            Column(key="real_guess", title="Guess", help=guess),
            Column(key="atlantis", title="Atlantis", help="Questions with Atlantis."),
            Column(key="atlantis_guess", title="Guess", help=guess),
        ),
        rows=tuple(rows),
        footnotes=(
            "Guessing inside: the number of cities asked about tells more than the answers do.",
            *seed_footnote(frame),
        ),
    )


def unit_of(task: str) -> str:
    """What a raw score of the task is."""
    return "share right" if task in EXACT else f"error, {UNITS.get(task, 'units')}"


def probe(frame: pd.DataFrame) -> Sheet:
    """How well a linear probe finds cities, by kind of model: the mean over a seed's models."""
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    kinds = frame["model"].map(kind_of)
    rows: list[dict[str, Cell]] = []
    for kind in [kind for kind in KINDS if (kinds == kind).any()]:
        mine = frame[kinds == kind]
        count = mine["model"].nunique()
        row = {"models": Cell(value=kind), "count": Cell(value=count, format=Format(digits=0))}
        for metric in PROBED:
            digits = Format(digits=3 if metric in HIGHER else 1)
            row[metric] = cell(per_seed(mine, metric), metric, digits)
        rows.append(row)
    return Sheet(
        name="world_probe",
        title="Where a linear probe of real cities puts the others",
        caption="Probes are fitted on real cities of each model; R² on held-out ones, and mean "
        "distance from the true place in degrees. Means over the models of a kind.",
        columns=(
            Column(key="models", title="Models"),
            Column(key="count", title="n", help="Models of each seed."),
            *(Column(key=key, title=title, help=help) for key, (title, help) in PROBED.items()),
        ),
        rows=tuple(rows),
        footnotes=seed_footnote(frame),
    )


def kind_of(model: str) -> str:
    """The group of a model in figures and tables of probes; one of KINDS."""
    tasks = model.split("+")
    if len(tasks) < 2:
        return KINDS[0] if model == BASE else KINDS[1]
    return KINDS[3] if TASKS[0] in tasks else KINDS[2]


def alignment(frame: pd.DataFrame) -> Sheet:
    """How alike base and specialists represent the same cities, from the study's own run."""
    from papertrail.tables.sheet import Cell, Column, Sheet

    named = {name for key in frame if str(key).startswith(CKA) for name in str(key).split("/")[1:3]}
    models = [model for model in (BASE, *TASKS) if model in named] or [BASE]
    rows: list[dict[str, Cell]] = [
        {"model": Cell(value=one)} | {other: _alike(frame, one, other) for other in models}
        for one in models
    ]
    return Sheet(
        name="world_cka",
        title="How alike models represent the same real cities",
        caption="Linear CKA between models of different seeds, the mean over ordered pairs of "
        "seeds; with one seed, between its models, and the diagonal has no value.",
        columns=(
            Column(key="model", title="Model"),
            *(Column(key=model, title=model) for model in models),
        ),
        rows=tuple(rows),
    )


def _alike(frame: pd.DataFrame, one: str, other: str) -> Cell:
    from papertrail.tables.cells import over_seeds
    from papertrail.tables.sheet import Format, missing

    computed = any(str(key).startswith(CKA) for key in frame)
    if one == other and computed and cka_metric(one, one) not in frame:
        return missing("with one seed a model could only be compared with itself")
    return over_seeds(frame, cka_metric(one, other), Format(digits=2))


def cka_metric(one: str, other: str) -> str:
    """The metric under which the study logs the likeness of two models, whatever their order."""
    order = [BASE, *TASKS]
    first, second = sorted((one, other), key=order.index)
    return f"{CKA}{first}/{second}"
