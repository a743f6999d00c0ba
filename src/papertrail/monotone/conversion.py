"""From statistics before and after a conversion to metrics, gates and the panels of a figure.

Pure functions of tidy frames and effective weights; no MLflow.
"""

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from papertrail.attacks.gates import Gate
from papertrail.monotone.options import Constraint
from papertrail.nn.damage import AFTER, BEFORE, RESTORED
from papertrail.nn.statistics import activation_totals, weight_totals

HELD = ("softplus", "projected")
"""Kinds whose weights are never negative."""


def weight_metrics(rows: pd.DataFrame) -> dict[str, int | float]:
    """`weights/layer00/MATRIX/...` for every matrix, `weights/total/...` for all together."""
    names = ("mean", "std", "least", "fraction_negative", "fraction_dead", "frobenius_norm")
    found = {
        f"weights/layer{row['depth']:02d}/{row['matrix']}/{name}": float(row[name])
        for row in rows.to_dict("records")
        for name in (*names, "spectral_norm", "effective_rank")
    }
    return found | {f"weights/total/{name}": value for name, value in weight_totals(rows).items()}


def activation_metrics(rows: pd.DataFrame) -> dict[str, int | float]:
    """`activations/layer00/...` for every layer and `activations/total/...`; NaN is left out."""
    found = {
        f"activations/{row['layer']}/{name}": float(row[name])
        for row in rows.to_dict("records")
        for name in ("mean", "std", *(key for key in row if str(key).startswith("fraction_")))
    }
    found |= {f"activations/total/{key}": one for key, one in activation_totals(rows).items()}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def damage_metrics(rows: pd.DataFrame) -> dict[str, int | float]:
    """`damage/before/loss`, `damage/layer00/kl`, ...: every state of `Damage.frame`."""
    found = {
        f"damage/{row['state']}/{name}": float(row[name])
        for row in rows.to_dict("records")
        for name in ("loss", "kl", "ffn_change")
    }
    loss = by_state(rows, "loss")
    found |= {f"damage/{state}/perplexity": math.exp(loss[state]) for state in (BEFORE, AFTER)}
    found["damage/rise"] = float(loss[AFTER] - loss[BEFORE])
    return {name: value for name, value in found.items() if not math.isnan(value)}


def non_negative(least: float, num_matrices: int) -> Gate:
    """Whether the weights that act are non-negative; NaN is not, and no matrix is no answer."""
    return Gate(
        "non_negative",
        num_matrices > 0 and least >= 0,
        f"the least effective weight of {num_matrices} matrices is {least:.3g}",
    )


def signs_kept(crossed: float) -> Gate:
    """Whether every weight is on the side of zero where it was."""
    return Gate("signs_kept", crossed == 0, f"{crossed:.3%} of the weights changed their sign")


def by_state(rows: pd.DataFrame, column: str) -> dict[str, int | float]:
    """One column of `Damage.frame`, by state."""
    return {str(key): float(one) for key, one in zip(rows["state"], rows[column], strict=True)}


def damage_gates(rows: pd.DataFrame, constraint: Constraint) -> Iterator[Gate]:
    """The controls of the measurement: they hold exactly, for nothing is computed otherwise."""
    loss, kl = by_state(rows, "loss"), by_state(rows, "kl")
    yield Gate(
        "restored",
        loss[RESTORED] == loss[BEFORE] and kl[RESTORED] == 0,
        f"with every block back in its place the loss is {loss[RESTORED]} (was {loss[BEFORE]})",
    )
    if constraint.kind == "none" and constraint.activation == "kept":
        changed = {state for state in loss if loss[state] != loss[BEFORE] or kl[state] != 0}
        changed |= {state for state, one in by_state(rows, "ffn_change").items() if one > 0}
        yield Gate(
            "ablating_nothing_changes_nothing",
            not changed,
            f"loss, predictions or outputs differ in {len(changed)} of {len(loss)} states",
        )


def panels(before: pd.DataFrame, damage: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Share of negative weights and the loss that converting one layer alone costs, by depth."""
    signs = pd.DataFrame(
        {"depth": before["depth"], "series": before["matrix"], "value": before["fraction_negative"]}
    )
    loss = by_state(damage, "loss")
    alone = [
        {"depth": int(state.removeprefix("layer")), "value": loss[state] - loss[BEFORE]}
        for state in loss
        if state.startswith("layer")
    ]
    cost = pd.DataFrame(alone).assign(series="this layer alone")
    return {"Negative weights before (share)": signs, "Loss rise, layer alone (nats)": cost}


def application(
    constraint: Constraint, before: pd.DataFrame, after: pd.DataFrame, damage: pd.DataFrame
) -> dict[str, Any]:
    """monotonicity_application.json: what was converted, checked on the weights that act."""
    loss, totals = by_state(damage, "loss"), (weight_totals(before), weight_totals(after))
    return {
        "schema": 1,
        "kind": constraint.kind,
        "scope": constraint.scope,
        "init": constraint.init,
        "activation": constraint.activation,
        "num_matrices": len(after),
        "num_weights": totals[1]["num_weights"],
        "all_weights_non_negative": totals[1]["least"] >= 0,
        "least_weight": _change(totals[0]["least"], totals[1]["least"]),
        "fraction_negative": _change(*(one["fraction_negative"] for one in totals)),
        "loss": _change(loss[BEFORE], loss[AFTER]),
        "kl": by_state(damage, "kl")[AFTER],
        "ffn_change": by_state(damage, "ffn_change")[AFTER],
    }


def _change(before: float, after: float) -> dict[str, int | float]:
    return {BEFORE: before, AFTER: after}
