"""What the whole study says: arms against the baseline over training seeds. Pure functions.

Training seeds are the unit of replication: seeds are resampled, then texts or documents in each.
No torch and no MLflow here. Axes: N texts or documents of a seed, K seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from papertrail.monotone import robustness
from papertrail.stats.intervals import Interval, seed_bootstrap
from papertrail.stats.paired import holm, mcnemar, wilcoxon_p

Differences = Sequence[Float[np.ndarray, " _"]]
MEASURES = ("rise", *robustness.DEFINITIONS)


def versus_baseline(attacked: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, dict[str, float]]:
    """Arm -> what HotFlip does to it beyond the baseline, from the rows of its pair per seed.

    Differences of rises (nats per scored token) and of success rates with hierarchical intervals;
    Wilcoxon on each text's mean over seeds, Holm-adjusted over the arms; McNemar (PPL +15 %) per
    seed, the largest of them Holm-adjusted over arms and seeds.
    """
    found = {arm: _against(rows) for arm, rows in attacked.items()}
    for key in ("wilcoxon_p", "mcnemar_p_largest"):
        adjusted = holm(np.array([one[key] for one in found.values()]))
        for one, p in zip(found.values(), adjusted, strict=True):
            one[f"{key}_holm"] = float(p)
    return found


def _against(seeds: Sequence[pd.DataFrame]) -> dict[str, float]:
    texts = [_both(rows) for rows in seeds]
    found: dict[str, float] = {"seeds": float(len(seeds)), "texts": float(len(texts[0][0]))}
    for measure in MEASURES:
        differences = [(other[measure] - base[measure]).to_numpy() for base, other in texts]
        found |= named(measure, seed_bootstrap(differences))
    rises = pd.concat([other["rise"] - base["rise"] for base, other in texts], axis=1)
    found["wilcoxon_p"] = wilcoxon_p(rises.mean(axis=1).to_numpy())
    tests = [
        mcnemar(base["perplexity"].to_numpy() > 0, other["perplexity"].to_numpy() > 0).p_value
        for base, other in texts
    ]
    return found | {"mcnemar_p_smallest": min(tests), "mcnemar_p_largest": max(tests)}


def _both(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Baseline and arm at full budget, one row per text, the same texts in the same order."""
    full = robustness.at_full_budget(rows).loc[lambda rows: rows["attack"] == "hotflip"]
    base, other = (
        robustness.per_text(full[full["arm"] == arm]) for arm in robustness.arms_of(rows)
    )
    assert base.index.equals(other.index), "the arms were attacked on different texts"
    return base, other


def price(documents: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> Interval:
    """Perplexity of an arm over the baseline's - 1: (baseline, arm) documents of every seed.

    The mean over seeds of the log ratio, exponentiated; documents weigh by their tokens.
    """
    log_ratios = [
        (arm["nll"] - base["nll"]).to_numpy() * len(base) / base["num_tokens"].sum()
        for base, arm in documents
    ]
    return Interval(*(float(np.expm1(x)) for x in seed_bootstrap(log_ratios)))


def named(name: str, interval: Interval) -> dict[str, float]:
    """Estimate and ends of an interval under the names of metrics."""
    return dict(zip((name, f"{name}/low", f"{name}/high"), interval, strict=True))


def over_seeds(per_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Means of the numbers, standard deviations beside them where there are several seeds.

    What is not a number (a trigger's text) is that of the first seed.
    """
    first, *_ = per_seed.values()
    found: dict[str, Any] = dict(first)
    for key, value in first.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            values = np.array([one[key] for one in per_seed.values()], dtype=float)
            found[key] = float(values.mean())
            if len(values) > 1:
                found[f"{key}_std"] = float(values.std(ddof=1))
    return found | {"per_seed": {str(seed): dict(one) for seed, one in per_seed.items()}}


def budget_curves(attacked: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """Success of HotFlip and of random flips by budget, means over seeds, for the figure."""
    found: list[tuple[Any, ...]] = []
    for arm, seeds in attacked.items():
        baseline, side = robustness.arms_of(seeds[0])
        shown = {side: arm} if found else {baseline: baseline, side: arm}
        for name, title in shown.items():
            for attack in ("hotflip", "random"):
                found += _curve(seeds, name, title, attack)
    return pd.DataFrame(found, columns=["model", "attack", "num_flips", "success", "low", "high"])


def _curve(
    seeds: Sequence[pd.DataFrame], side: str, title: str, attack: str
) -> list[tuple[Any, ...]]:
    some = [rows[(rows["arm"] == side) & (rows["attack"] == attack)] for rows in seeds]
    points: list[tuple[Any, ...]] = []
    for flips in sorted(some[0]["flips"].unique()):
        rates = [
            robustness.per_text(one[one["flips"] == flips])["perplexity"].to_numpy() for one in some
        ]
        points.append((title, attack, int(flips), *seed_bootstrap(rates, resamples=1999)))
    return points


def indicators(gap: float, reduction: float | None, perplexity: float) -> list[dict[str, Any]]:
    """What the original checklist hoped for, beside what was measured: reported, never asserted.

    `gap` and `reduction` are fractions; no reduction exists where the baseline was never fooled.
    """
    hoped = (
        ("perplexity gap below 15 %", gap, gap < 0.15),
        (
            "attack success reduced by more than 40 %",
            reduction,
            None if reduction is None else reduction > 0.4,
        ),
        ("perplexity between 8 and 20", perplexity, 8 <= perplexity <= 20),
    )
    return [{"hoped": text, "measured": value, "met": met} for text, value, met in hoped]
