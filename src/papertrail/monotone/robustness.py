"""From one row per attacked text to the study's numbers: rates, rises, paired tests and gates.

Pure functions of a tidy frame; no torch, no MLflow. A row: arm, attack, flips, text, draw (random
flips have several), clean_nll and attacked_nll (sums over num_scored_tokens, nats), evaluations.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from papertrail.attacks import gates
from papertrail.attacks.gates import Gate
from papertrail.attacks.success import rise_per_token, successes
from papertrail.monotone.options import Attack
from papertrail.stats.intervals import paired_bootstrap, wilson
from papertrail.stats.paired import holm, mcnemar, sign_flip_p, wilcoxon_p

DEFINITIONS = ("perplexity", "relative", "absolute")
COMPARED = ("success_perplexity", "rise")
"""What of an attack people compare first: its success (PPL +15 %) and how far the loss rises."""
JSON_NAMES = {"baseline": "baseline_pythia", "monotone": "monotonic_pythia"}
"""What the original study's scripts call the two arms."""


def arms_of(rows: pd.DataFrame) -> tuple[str, str]:
    """The baseline and the arm beside it, as the rows have them."""
    baseline, other = rows["arm"].unique()
    assert baseline == "baseline", f"the first arm is {baseline}"
    return baseline, other


def judged(records: pd.DataFrame, options: Attack) -> pd.DataFrame:
    """`records` with `rise` (nats per scored token) and a success column per definition."""
    clean, attacked = records["clean_nll"].to_numpy(), records["attacked_nll"].to_numpy()
    tokens = records["num_scored_tokens"].to_numpy()
    verdicts = successes(
        clean, attacked, tokens, relative_rise=options.threshold,
        absolute_rise=options.threshold_nats,
    )  # fmt: skip
    return records.assign(rise=rise_per_token(clean, attacked, tokens), **verdicts)


def per_text(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per text: means over draws, so that every text counts once."""
    columns = ["rise", *DEFINITIONS]
    return rows.groupby("text", sort=True)[columns].mean(numeric_only=False).astype(float)


def at_full_budget(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the largest budget: one per text, draw, attack and arm."""
    full: pd.DataFrame = rows[rows["flips"] == rows["flips"].max()]
    return full


def budget_curves(rows: pd.DataFrame) -> Iterator[tuple[int, dict[str, float]]]:
    """(flips, metrics) for every budget: rates and rises of every attack on every arm."""
    for flips, at_budget in rows.groupby("flips", sort=True):
        metrics: dict[str, float] = {}
        for (arm, attack), some in at_budget.groupby(["arm", "attack"]):
            metrics |= summary(per_text(some), f"attack/{arm}/{attack}")
        yield int(str(flips)), metrics


def curve_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Success (PPL definition) with its interval by arm, attack and budget, for the figure."""
    found = []
    for (arm, attack, flips), some in rows.groupby(["arm", "attack", "flips"], sort=False):
        success, low, high = _rate(per_text(some)["perplexity"].to_numpy())
        found.append((arm, attack, flips, success, low, high))
    return pd.DataFrame(found, columns=["model", "attack", "num_flips", "success", "low", "high"])


def summary(texts: pd.DataFrame, prefix: str) -> dict[str, float]:
    """Success by each definition and the rise, with 95 % intervals over texts."""
    metrics: dict[str, float] = {}
    for name in DEFINITIONS:
        metrics |= _with_interval(f"{prefix}/success_{name}", _rate(texts[name].to_numpy()))
    rises = texts["rise"].to_numpy()
    metrics |= _with_interval(f"{prefix}/rise", paired_bootstrap(rises, np.zeros_like(rises)))
    return metrics | {f"{prefix}/median_rise": float(np.median(rises))}


def _rate(shares: Float[np.ndarray, " N"]) -> tuple[float, float, float]:
    """Wilson where each text succeeds or not; a bootstrap where it is a mean over draws."""
    if np.isin(shares, (0.0, 1.0)).all():
        return wilson(int(shares.sum()), len(shares))
    return paired_bootstrap(shares, np.zeros_like(shares))


def _with_interval(name: str, interval: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}/low", f"{name}/high"), interval, strict=True))


def paired_tests(rows: pd.DataFrame) -> dict[str, float]:
    """HotFlip at full budget, the arm minus the baseline on the same texts; p-values Holm-adjusted
    over the three definitions of success."""
    full = at_full_budget(rows).loc[lambda rows: rows["attack"] == "hotflip"]
    arms = arms_of(rows)
    baseline, monotone = (per_text(full[full["arm"] == arm]) for arm in arms)
    tests = [
        mcnemar(baseline[name].to_numpy() > 0, monotone[name].to_numpy() > 0)
        for name in DEFINITIONS
    ]
    adjusted = holm(np.array([test.p_value for test in tests]))
    metrics: dict[str, float] = {}
    for name, test, p in zip(DEFINITIONS, tests, adjusted, strict=True):
        metrics[f"paired/mcnemar_p_{name}"] = test.p_value
        metrics[f"paired/mcnemar_p_holm_{name}"] = float(p)
        metrics[f"paired/only_{arms[0]}_{name}"] = test.only_a
        metrics[f"paired/only_{arms[1]}_{name}"] = test.only_b
    ours, theirs = monotone["rise"].to_numpy(), baseline["rise"].to_numpy()
    metrics |= _with_interval("paired/rise_difference", paired_bootstrap(ours, theirs))
    metrics["paired/wilcoxon_p"] = wilcoxon_p(ours - theirs)
    return metrics | {"paired/sign_flip_p": sign_flip_p(ours - theirs)}


def controls(rows: pd.DataFrame, protocol: str) -> Iterator[tuple[str, Gate]]:
    """(arm, gate): what a working attack on that arm passes and a broken one does not."""
    full = at_full_budget(rows)
    for arm in arms_of(rows):
        mine = full[full["arm"] == arm]
        rise = {name: per_text(some)["rise"].to_numpy() for name, some in mine.groupby("attack")}
        yield arm, gates.white_box_beats_random(rise["hotflip"], rise["random"])
        yield arm, gates.white_box_not_below_query(rise["hotflip"], rise["query"])
        yield arm, gates.white_box_not_below_transfer(rise["hotflip"], rise["transfer"])
        yield arm, gates.same_budget(_evaluations(mine, "hotflip"), _evaluations(mine, "query"))
        if protocol == "fixed_targets":
            yield arm, gates.success_never_falls_with_budget(_rates(rows, arm))


def _evaluations(rows: pd.DataFrame, attack: str) -> Int[np.ndarray, " N"]:
    return rows[rows["attack"] == attack].sort_values("text")["evaluations"].to_numpy(dtype=int)


def _rates(rows: pd.DataFrame, arm: str) -> list[float]:
    """Success of HotFlip by budget."""
    some = rows[(rows["arm"] == arm) & (rows["attack"] == "hotflip")]
    return [float(rate) for rate in some.groupby("flips", sort=True)["perplexity"].mean()]


def costs(rows: pd.DataFrame) -> dict[str, float]:
    """`cost` of every attack on every arm, at full budget."""
    full = at_full_budget(rows)
    metrics: dict[str, float] = {}
    for (arm, attack), some in full.groupby(["arm", "attack"]):
        metrics |= cost(some, f"attack/{arm}/{attack}")
    return metrics


def cost(full: pd.DataFrame, prefix: str) -> dict[str, float]:
    """What an attack spent, and how many of its texts exist as text.

    `survive_as_text`: share of texts that decode to a string which encodes to the same ids;
    `oom_retries`: batches that ran out of memory and were done again in halves, none dropped.
    """
    return {
        f"{prefix}/evaluations": float(full["evaluations"].sum()),
        f"{prefix}/seconds": float(full["seconds"].sum()),
        f"{prefix}/oom_retries": float(full["num_oom_retries"].sum()),
        f"{prefix}/survive_as_text": float(full["round_trip"].astype(float).mean()),
    }


def results(rows: pd.DataFrame, options: Attack) -> Mapping[str, Any]:
    """hotflip_results.json, with the keys that the original study's scripts read."""
    full = at_full_budget(rows).loc[lambda rows: rows["attack"] == "hotflip"]
    models = {}
    for arm, some in full.groupby("arm"):
        relative = (some["attacked_nll"] - some["clean_nll"]) / some["clean_nll"]
        tokens = some["num_scored_tokens"]
        models[JSON_NAMES.get(str(arm), str(arm))] = {
            "avg_degradation": float(relative.mean()),
            "std_degradation": float(relative.std(ddof=1)),
            "success_rate": float(some["relative"].mean()),
            "success_rate_perplexity": float(some["perplexity"].mean()),
            "success_rate_absolute": float(some["absolute"].mean()),
            "avg_orig_loss": float((some["clean_nll"] / tokens).mean()),
            "avg_attack_loss": float((some["attacked_nll"] / tokens).mean()),
            "num_samples": len(some),
            "num_oom_skipped": 0,  # a batch that ran out of memory is halved, never dropped
        }
    config = {"protocol": options.protocol, "flips": options.flips, "top_k": options.top_k}
    return {
        "schema": 1,
        "attack_config": config | {"beam": options.beam, "threshold": options.threshold},
        "results": models,
        "statistical_tests": {"baseline_vs_monotonic": paired_tests(rows)},
    }
