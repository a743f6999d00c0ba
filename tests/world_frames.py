"""Evaluations whose improvements are the published ones, as the tidy frame of a grid."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from papertrail.world import generalisation
from papertrail.world.options import EXACT, PAIRS, TASKS

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden_world.json").read_text())
SEEDS = (42, 1)
MODELS = {"specialists": list(TASKS), "pairs": ["+".join(pair) for pair in PAIRS]}
ENDS = {"distance": (400.0, 4.0), "trianglearea": (8e4, 2e3), "angle": (50.0, 2.0),
        "compass": (0.4, 0.98), "inside": (0.6, 0.97), "perimeter": (900.0, 30.0),
        "crossing": (0.5, 0.96)}  # fmt: skip
"""Base model on Atlantis, and on real cities."""


def graded(*seeds: int) -> pd.DataFrame:
    """The published matrices as a graded frame."""
    return pd.concat(
        [
            generalisation.from_matrix(np.array(GOLDEN[kind][str(seed)]), models, seed)
            for seed in seeds or SEEDS
            for kind, models in MODELS.items()
        ],
        ignore_index=True,
    )


def raw(task: str, improvement: float) -> float:
    """The score that has this improvement."""
    before, real = ENDS[task]
    if task in EXACT:
        return before + improvement * (real - before)
    return before * (real / before) ** improvement


def row(model: str, seed: int, name: str, score: float, **changed: Any) -> dict[str, Any]:
    """A finished run of `world_evaluate`, as `tables.grid.tidy` has it."""
    run = f"{model}/{seed}/{name}"
    known = {
        "model": model, "seed": seed, "set": name, "experiment": "world_evaluate",
        "identity": run, "run_id": run, "failed_gates": "", "why": "", "doubled": "",
        "not_finite": {}, "score/mean": score, "score/exact": 0.5,
    }  # fmt: skip
    return known | changed


def evaluations(*seeds: int) -> pd.DataFrame:
    """What the published models and their bases would have scored, given ENDS."""
    rows = []
    for seed in seeds or SEEDS:
        for task in TASKS:
            before, real = ENDS[task]
            rows.append(row("base", seed, f"atlantis_{task}", before))
            rows.append(row("base", seed, task, real))
        for _, one in graded(seed).iterrows():
            task, score = one["task"], raw(one["task"], one["improvement"])
            rows.append(row(one["model"], seed, f"atlantis_{task}", score))
    return pd.DataFrame(rows)


def without(frame: pd.DataFrame, model: str, seed: int, name: str, why: str) -> pd.DataFrame:
    """The frame in which one run was never finished."""
    found = frame.copy()
    there = (found["model"] == model) & (found["seed"] == seed) & (found["set"] == name)
    assert there.sum() == 1
    found.loc[there, ["run_id", "why"]] = ["", why]
    found.loc[there, ["score/mean", "score/exact"]] = np.nan
    return found
