"""The study's result files, with the keys that the original study's scripts read.

Every leaf is a mean over training seeds with its standard deviation beside it; `per_seed` has each.
Pure functions of what the runs hold; what no run holds is absent, never 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from papertrail.core.reading.record import Record
from papertrail.monotone.findings import over_seeds
from papertrail.monotone.robustness import COMPARED, JSON_NAMES
from papertrail.monotone.schemas import StudyConfig

Tree = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A run of the study and where it belongs."""

    arm: str
    side: str
    """What a run of a pair calls that arm."""
    seed: int
    experiment: str
    record: Record


def of(found: Sequence[Found], experiment: str, arm: str | None = None) -> list[Found]:
    """The runs of an experiment, of one arm or of all, by seed in the order given."""
    return [one for one in found if one.experiment == experiment and arm in (None, one.arm)]


def key(one: Found) -> str:
    """What final_results.json calls a run."""
    return f"{one.experiment} {one.arm} seed {one.seed}"


def failed(found: Sequence[Found]) -> dict[str, str]:
    """The runs that failed a control of their own, and which."""
    return {key(one): one.record.failed_gates for one in found if one.record.failed_gates}


def title(arm: str) -> str:
    """What the original scripts call an arm, or its own name."""
    return JSON_NAMES.get(arm, arm)


def compared(found: Sequence[Found], split: str) -> dict[str, dict[str, float]]:
    """What people compare, as runs about one model call it -> arm -> mean over seeds.

    The baseline's attacks are the same beside every arm: those beside the first count.
    """
    asked = [("perplexity", f"{split}/perplexity", f"{split}/perplexity")]
    asked += [("hotflip", f"attack/{key}", f"attack/{{}}/hotflip/{key}") for key in COMPARED]
    asked += [("uat", f"uat/{key}", f"uat/{{}}/{key}") for key in COMPARED]
    base, first, *_ = arms = _arms(of(found, "perplexity"))

    def mean(arm: str, experiment: str, metric: str) -> float:
        runs = of(found, experiment, arm) or of(found, experiment, first)
        sides = [base if arm == base else one.side for one in runs]
        pairs = zip(runs, sides, strict=True)
        return fmean(one.record.metrics[metric.format(side)] for one, side in pairs)

    return {
        name: {arm: mean(arm, experiment, metric) for arm in arms}
        for experiment, name, metric in asked
    }


def evaluation(found: Sequence[Found], config: StudyConfig) -> Tree:
    """evaluation_results.json: `.pile_test.baseline_pythia.perplexity` and the benchmarks."""
    split = config.perplexity.split

    def perplexity(one: Record) -> Tree:
        wanted = {
            "perplexity": "perplexity", "loss": "loss", "total_tokens": "tokens",
            "bits_per_byte": "bits_per_byte",
        }  # fmt: skip
        return {key: one.metrics[f"{split}/{metric}"] for key, metric in wanted.items()}

    def benchmarks(one: Record) -> Tree:
        kept = {k: v for k, v in one.metrics.items() if k.startswith("benchmark/")}
        return {k.removeprefix("benchmark/"): v for k, v in sorted(kept.items())}

    return {
        "schema": 1,
        "split": split,
        "pile_test": _per_arm(of(found, "perplexity"), perplexity),
        "benchmarks": _per_arm(of(found, "benchmarks"), benchmarks),
    }


def hotflip(found: Sequence[Found]) -> Tree:
    """hotflip_results.json: `.results.baseline_pythia.success_rate`, tests of every arm."""
    pairs = of(found, "hotflip")
    trees = {(one.arm, one.seed): one.record.json("hotflip_results") for one in pairs}
    first = pairs[0]
    return {
        "schema": 1,
        "attack_config": trees[first.arm, first.seed]["attack_config"],
        "results": _sides(pairs, lambda one: trees[one.arm, one.seed]["results"]),
        "statistical_tests": {
            f"baseline_vs_{title(arm).removesuffix('_pythia')}": over_seeds(
                {
                    one.seed: trees[arm, one.seed]["statistical_tests"]["baseline_vs_monotonic"]
                    for one in of(pairs, "hotflip", arm)
                }
            )
            for arm in _arms(pairs)
        },
    }


def uat(found: Sequence[Found]) -> Tree:
    """uat_results.json: `.results.baseline_pythia.nll_increase`; triggers are the first seed's."""
    pairs = of(found, "uat")
    return {
        "schema": 1,
        "results": _sides(pairs, lambda one: one.record.json("uat_results")["results"]),
    }


def training(found: Sequence[Found]) -> Tree:
    """What each arm's training took and came to."""

    def one(record: Record) -> Tree:
        wanted = ("val/loss", "val/perplexity", "train/tokens", "train/seconds", "model/parameters")
        return {key: record.metrics[key] for key in wanted if key in record.metrics}

    return _per_arm(of(found, "train"), one)


def attacks(found: Sequence[Found]) -> Tree:
    """Mean rise (nats per scored token) and success of the attacks that stand alone."""

    def one(record: Record) -> Tree:
        wanted = ("rise", "success_perplexity", "success_relative", "success_absolute")
        return {key: record.metrics[f"attack/{key}"] for key in wanted}

    return {name: _per_arm(of(found, name), one) for name in ("gcg", "pgd")}


def final(
    found: Sequence[Found], config: StudyConfig, versus: Tree, hoped: Mapping[str, Any]
) -> Tree:
    """final_results.json; what the original hard-coded is computed here, or absent."""
    evaluated, flipped, triggered = evaluation(found, config), hotflip(found), uat(found)
    return {
        "schema": 1,
        "experiment_info": {
            "model": config.model.name,
            "arms": list(config.arms),
            "seeds": list(config.seeds),
            "runs": {key(one): one.record.run_id for one in found},
            "failed_gates": failed(found),
        },
        "training_summary": training(found),
        "evaluation_summary": evaluated["pile_test"],
        "attack_summary": {
            "hotflip": flipped["results"], "uat": triggered["results"], **attacks(found),
        },
        "key_findings": {"versus_baseline": versus, "hoped_for": hoped},
    }  # fmt: skip


def _arms(found: Sequence[Found]) -> list[str]:
    return list(dict.fromkeys(one.arm for one in found))


def _per_arm(found: Sequence[Found], read: Callable[[Record], Tree]) -> Tree:
    return {
        title(arm): over_seeds({one.seed: read(one.record) for one in found if one.arm == arm})
        for arm in _arms(found)
    }


def _sides(pairs: Sequence[Found], read: Callable[[Found], Mapping[str, Tree]]) -> Tree:
    """Both sides of every pair; the baseline's are the same in each, those of the first count."""
    first, *_ = _arms(pairs)
    mine = [one for one in pairs if one.arm == first]
    baseline = {
        "baseline_pythia": over_seeds({one.seed: read(one)["baseline_pythia"] for one in mine})
    }
    return baseline | {
        title(arm): over_seeds(
            {one.seed: read(one)[title(one.side)] for one in pairs if one.arm == arm}
        )
        for arm in _arms(pairs)
    }
