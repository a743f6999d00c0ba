"""What the models are like when nobody attacks them, as sheets: benchmarks, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from papertrail.monotone.sheets import arms_in, cell, of, seed_footnote

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.tables.sheet import Sheet

SCORES = {
    "lambada/perplexity": "LAMBADA PPL",
    "lambada/acc": "LAMBADA",
    "hellaswag/acc_norm": "HellaSwag",
    "winogrande/acc": "Winogrande",
    "truthfulqa_mc1/acc": "TruthfulQA mc1",
    "truthfulqa_mc2/acc": "TruthfulQA mc2",
}
MEASURED = {
    "weights/total/least": ("Least W", "The smallest weight of the constrained matrices."),
    "weights/total/fraction_negative": ("Negative", "Share of weights below zero."),
    "weights/total/fraction_dead": ("Dead", "Share of weights within 1e-6 of zero."),
    "activations/total/fraction_inactive": ("Inactive", "Share of units whose input is <= 0."),
    "activations/total/fraction_falling": ("Act. falls", "Inputs where the activation falls."),
    "activations/total/fraction_of_outputs_falling": (
        "Branch falls",
        "Outputs of the branch that fall while no input does.",
    ),
    "activations/total/fraction_of_outputs_falling_behind_norm": (
        "Behind norm",
        "The same with LayerNorm in front.",
    ),
}


def benchmarks(frame: pd.DataFrame) -> Sheet:
    """Zero-shot scores of every arm, what guessing gives beside them; a set not had is missing."""
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    columns = (
        Column(key="arm", title="Model"),
        *(
            Column(key=key, title=title, better="lower" if "perplexity" in key else "higher")
            for key, title in SCORES.items()
        ),
    )
    share, number = Format(digits=1, percent=True), Format(digits=1)
    shown = {key: number if "perplexity" in key else share for key in SCORES}
    rows = [
        {"arm": Cell(value=arm)}
        | {key: cell(of(frame, arm), f"benchmark/{key}", kind) for key, kind in shown.items()}
        for arm in arms_in(frame)
    ]
    chance = of(frame, arms_in(frame)[0]).iloc[:1]
    guessed = {key: cell(chance, f"benchmark/{key}/chance", kind) for key, kind in shown.items()}
    return Sheet(
        name="benchmarks",
        title="Zero-shot benchmarks",
        caption="Scores of lm-evaluation-harness, with 95 % intervals over examples; the last row "
        "is what guessing gives.",
        columns=columns,
        rows=(*rows, {"arm": Cell(value="chance"), **guessed}),
        footnotes=seed_footnote(frame),
    )


def weights(frame: pd.DataFrame) -> Sheet:
    """What the constraint did to the weights that act, and what the activations look like."""
    from papertrail.tables.sheet import Cell, Column, Format, Sheet

    columns = (
        Column(key="arm", title="Model"),
        *(Column(key=key, title=title, help=help) for key, (title, help) in MEASURED.items()),
    )
    rows = [
        {"arm": Cell(value=arm)}
        | {
            key: cell(
                of(frame, arm),
                key,
                Format(digits=4) if "least" in key else Format(digits=2, percent=True),
            )
            for key in MEASURED
        }
        for arm in arms_in(frame)
    ]
    return Sheet(
        name="weights",
        title="Weights and activations after training",
        caption="Totals over the constrained matrices (of the baseline: all feed-forward ones) and "
        "over the feed-forward layers.",
        columns=columns,
        rows=tuple(rows),
        footnotes=seed_footnote(frame),
    )
