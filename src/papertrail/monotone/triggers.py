"""From one row per text and trigger to the study's numbers on universal triggers. No torch.

A row: attack (trigger, query, random, neutral, transfer), draw (random triggers are several), split
(test; val is what was optimised on), text, clean_nll and attacked_nll (nats over
num_scored_tokens), round_trip. N texts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from papertrail.attacks import gates
from papertrail.attacks.gates import Gate
from papertrail.attacks.success import rise_per_token, successes
from papertrail.core.reading.record import Record
from papertrail.monotone import robustness
from papertrail.monotone.options import Trigger
from papertrail.monotone.robustness import DEFINITIONS, per_text
from papertrail.stats.intervals import paired_bootstrap
from papertrail.stats.paired import holm, mcnemar, sign_flip_p, wilcoxon_p

TITLES = {
    "trigger": "gradient search", "transfer": "the other arm's trigger",
    "query": "gradient-free search", "random": "random triggers", "neutral": "a common token",
}  # fmt: skip
"""What is put in front of the texts, strongest claim first."""


def judged(records: pd.DataFrame) -> pd.DataFrame:
    """`records` with `rise` (nats per scored token) and a success column per definition."""
    clean, attacked = records["clean_nll"].to_numpy(), records["attacked_nll"].to_numpy()
    tokens = records["num_scored_tokens"].to_numpy()
    rises = rise_per_token(clean, attacked, tokens)
    return records.assign(rise=rises, **successes(clean, attacked, tokens))


def unseen(rows: pd.DataFrame, attack: str) -> pd.DataFrame:
    """Rows of one attack on the texts that nothing was optimised on."""
    return rows[(rows["attack"] == attack) & (rows["split"] == "test")]


def name(attack: str, prefix: str = "uat") -> str:
    """Under which name an attack's metrics go: the trigger itself goes without one."""
    return prefix if attack == "trigger" else f"{prefix}/{attack}"


def metrics(rows: pd.DataFrame, prefix: str = "uat") -> dict[str, float]:
    """Rises, relative NLL, perplexity ratios and success of every attack, with intervals."""
    found: dict[str, float] = {}
    for attack in rows["attack"].unique():
        some, called = unseen(rows, attack), name(attack, prefix)
        found |= robustness.summary(per_text(some), called) | _levels(some, called)
        if len(optimised := rows[(rows["attack"] == attack) & (rows["split"] == "val")]):
            found[f"{called}/optimised_rise"] = float(optimised["rise"].mean())
    drawn = unseen(rows, "random").groupby("draw")["rise"].mean()
    if len(drawn) > 1:
        found[f"{prefix}/random/std"] = float(drawn.std(ddof=1))
    return found | {f"{prefix}/random/max": float(drawn.max())}


def _levels(some: pd.DataFrame, called: str) -> dict[str, float]:
    """What the losses are, over all scored tokens."""
    tokens = some["num_scored_tokens"].sum()
    clean, attacked = some["clean_nll"].sum() / tokens, some["attacked_nll"].sum() / tokens
    return {
        f"{called}/clean_nll": float(clean),
        f"{called}/attacked_nll": float(attacked),
        f"{called}/relative_nll": float(attacked / clean - 1),
        f"{called}/perplexity_ratio": float(np.exp(attacked - clean)),
        f"{called}/survive_as_text": float(some["round_trip"].mean()),
    }


def controls(rows: pd.DataFrame) -> Iterator[Gate]:
    """What a search that works passes and a broken one does not."""
    if "query" not in set(rows["attack"]):
        return  # the trigger was given, not searched
    white_box, random = (
        per_text(unseen(rows, attack))["rise"].to_numpy() for attack in ("trigger", "random")
    )
    gap = paired_bootstrap(white_box, random)
    yield Gate(
        "beats_random_triggers",
        gap.low > 0,
        f"the trigger adds {white_box.mean():.3f} nats per token, random triggers "
        f"{random.mean():.3f} (difference [{gap.low:+.3f}, {gap.high:+.3f}]) on texts that it was "
        "not optimised on",
    )
    optimised = rows[rows["split"] == "val"].sort_values("text")
    ours, theirs = (
        optimised[optimised["attack"] == attack]["rise"].to_numpy()
        for attack in ("trigger", "query")
    )
    yield gates.white_box_not_below_query(ours, theirs)


def own_not_below_transfer(rows: pd.DataFrame) -> Gate:
    """Whether a trigger made for this arm does at least what the other arm's does."""
    own, foreign = (
        per_text(unseen(rows, attack))["rise"].to_numpy() for attack in ("trigger", "transfer")
    )
    return gates.white_box_not_below_transfer(own, foreign)


def paired_tests(baseline: pd.DataFrame, other: pd.DataFrame) -> dict[str, float]:
    """The arm minus the baseline, each under its own trigger, on the same unseen texts.

    p-values of the three definitions of success are Holm-adjusted as well.
    """
    left, right = (per_text(unseen(rows, "trigger")) for rows in (baseline, other))
    assert left.index.equals(right.index), "the arms were evaluated on different texts"
    tests = [mcnemar(left[one].to_numpy() > 0, right[one].to_numpy() > 0) for one in DEFINITIONS]
    adjusted = holm(np.array([test.p_value for test in tests]))
    found: dict[str, float] = {}
    for one, test, p in zip(DEFINITIONS, tests, adjusted, strict=True):
        found[f"paired/mcnemar_p_{one}"] = test.p_value
        found[f"paired/mcnemar_p_holm_{one}"] = float(p)
    difference = (right["rise"] - left["rise"]).to_numpy()
    gap = paired_bootstrap(difference, np.zeros_like(difference))
    return found | {
        "paired/rise_difference": gap.estimate,
        "paired/rise_difference/low": gap.low,
        "paired/rise_difference/high": gap.high,
        "paired/sign_flip_p": sign_flip_p(difference),
        "paired/wilcoxon_p": wilcoxon_p(difference),
    }


def results(
    rows: Mapping[str, pd.DataFrame],
    found: Mapping[str, Mapping[str, Any]],
    tests: Mapping[str, float],
    options: Trigger,
) -> Mapping[str, Any]:
    """uat_results.json, with the keys that the original study's scripts read.

    As there, `nll_increase` is relative; `nll_increase_nats` is per scored token. `found` says of
    each arm what its triggers are.
    """
    models = {}
    for arm, mine in rows.items():
        levels = {attack: _levels(unseen(mine, attack), "x") for attack in mine["attack"].unique()}
        own = levels["trigger"]
        models[robustness.JSON_NAMES.get(arm, arm)] = {
            "trigger_text": found[arm]["trigger"]["text"],
            "trigger_ids": found[arm]["trigger"]["ids"],
            "clean_loss": own["x/clean_nll"],
            "attacked_loss": own["x/attacked_nll"],
            "nll_increase": own["x/relative_nll"],
            "nll_increase_percent": 100 * own["x/relative_nll"],
            "nll_increase_nats": own["x/attacked_nll"] - own["x/clean_nll"],
            "perplexity_ratio": own["x/perplexity_ratio"],
            "survive_as_text": own["x/survive_as_text"],
            "num_texts": int(unseen(mine, "trigger")["text"].nunique()),
            "controls_nll_increase_nats": {
                attack: level["x/attacked_nll"] - level["x/clean_nll"]
                for attack, level in levels.items()
                if attack != "trigger"
            },
        }
    searched = {key: getattr(options, key) for key in ("length", "top_k", "beam", "restarts")}
    return {
        "schema": 1,
        "attack_config": searched | {"text": options.text, "tokens": options.tokens},
        "results": models,
        "statistical_tests": {"baseline_vs_monotonic": dict(tests)},
    }


def bars(rows: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean rise with its interval by arm and attack, for the figure."""
    found = []
    for arm, mine in rows.items():
        for attack in mine["attack"].unique():
            rises = per_text(unseen(mine, attack))["rise"].to_numpy()
            interval = paired_bootstrap(rises, np.zeros_like(rises))
            found.append((arm, TITLES[attack], *interval))
    return pd.DataFrame(found, columns=["model", "attack", "rise", "low", "high"])


def show(record: Record, config: Any) -> None:
    """After `-e uat`: the rise of the NLL behind each kind of trigger, an arm per column."""
    found = record.metrics
    arms = [key.split("/")[1] for key in found if key.count("/") == 2 and key.endswith("/rise")]
    arms = sorted({arm for arm in arms if f"uat/{arm}/clean_nll" in found}, key=_baseline_first)
    print(f"{'nats per token':<26}" + "".join(f"{arm:>26}" for arm in arms))
    for attack, title in TITLES.items():
        keys = [name(attack, f"uat/{arm}") + "/rise" for arm in arms]
        if all(key in found for key in keys):
            cells = (
                f"{found[k]:+.3f} [{found[k + '/low']:+.3f}, {found[k + '/high']:+.3f}]"
                for k in keys
            )
            print(f"{title:<26}" + "".join(f"{cell:>26}" for cell in cells))
    for model, one in record.json("uat_results")["results"].items():
        print(f"{model}: {one['trigger_text']!r}, {one['nll_increase_percent']:+.1f} % NLL")


def _baseline_first(arm: str) -> tuple[bool, str]:
    return arm != "baseline", arm
