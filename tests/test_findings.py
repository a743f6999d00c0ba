"""What the study says over seeds: hierarchical intervals, corrections, means, hopes reported."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from papertrail.core.errors import BadInput
from papertrail.monotone import findings, robustness
from papertrail.monotone.arms import ARMS, arm, name_of, pair
from papertrail.monotone.config import study_runs
from papertrail.monotone.options import BASELINE, Attack, Constraint
from papertrail.monotone.schemas import AttackConfig, StudyConfig
from papertrail.stats.intervals import seed_bootstrap


def rows(base: list[float], other: list[float], name: str = "monotone") -> pd.DataFrame:
    """HotFlip's rows at budgets 0 and 1: what it adds to the NLL of each text, nats per token."""
    found = []
    for who, rises in (("baseline", base), (name, other)):
        for text, rise in enumerate(rises):
            for flips in (0, 1):
                for attack in ("hotflip", "random"):
                    added = rise * flips * (1 if attack == "hotflip" else 0.1)
                    found.append(
                        {
                            "arm": who, "attack": attack, "flips": flips, "text": text, "draw": 0,
                            "clean_nll": 10.0, "attacked_nll": 10.0 + 10 * added,
                            "num_scored_tokens": 10,
                        }
                    )  # fmt: skip
    return robustness.judged(pd.DataFrame(found), Attack())


def test_a_difference_is_that_of_the_same_texts_averaged_over_seeds():
    seeds = [rows([0.2, 0.4, 0.3], [0.1, 0.1, 0.1]), rows([0.2, 0.2, 0.2], [0.4, 0.4, 0.4])]
    found = findings.versus_baseline({"monotone": seeds})["monotone"]
    assert found["rise"] == pytest.approx(np.mean([-0.2, 0.2]))
    assert found["seeds"] == 2 and found["texts"] == 3
    # PPL +15 % is 0.14 nats: the first seed's arm is never fooled, its baseline always.
    assert found["perplexity"] == pytest.approx(np.mean([-1.0, 0.0]))


def test_the_interval_resamples_seeds_and_not_only_texts():
    steady = [rows([0.2] * 20, [0.1] * 20)] * 4
    noisy = [rows([0.2] * 20, [0.2 + shift] * 20) for shift in (-0.3, 0.1, -0.2, 0.0)]
    calm, wide = (findings.versus_baseline({"a": one})["a"] for one in (steady, noisy))
    assert calm["rise"] == pytest.approx(wide["rise"])
    assert calm["rise/high"] - calm["rise/low"] == pytest.approx(0)
    assert wide["rise/high"] - wide["rise/low"] > 0.1
    expected = seed_bootstrap([np.full(20, shift) for shift in (-0.3, 0.1, -0.2, 0.0)])
    assert [wide[f"rise{end}"] for end in ("", "/low", "/high")] == pytest.approx(list(expected))


def test_p_values_are_corrected_for_the_number_of_arms():
    rng = np.random.default_rng(0)
    base, other = rng.uniform(0.1, 0.5, 30), rng.uniform(0.2, 0.6, 30)
    one = findings.versus_baseline({"a": [rows([*base], [*other])]})["a"]
    three = findings.versus_baseline({k: [rows([*base], [*other])] for k in "abc"})["a"]
    assert one["wilcoxon_p_holm"] == one["wilcoxon_p"] == three["wilcoxon_p"]
    assert three["wilcoxon_p_holm"] == pytest.approx(min(1, 3 * one["wilcoxon_p"]))


def test_the_price_weighs_documents_by_their_tokens():
    base = pd.DataFrame({"nll": [100.0, 10.0], "num_tokens": [90, 10]})
    arm = pd.DataFrame({"nll": [110.0, 10.0], "num_tokens": [90, 10]})
    assert findings.price([(base, arm)]).estimate == pytest.approx(np.exp(10 / 100) - 1)


def test_leaves_are_means_with_their_standard_deviation_and_every_seed():
    found = findings.over_seeds(
        {42: {"loss": 1.0, "text": "a", "ids": [1]}, 7: {"loss": 3.0, "text": "b", "ids": [2]}}
    )
    assert found["loss"] == 2.0 and found["loss_std"] == pytest.approx(np.sqrt(2))
    assert found["text"] == "a" and found["per_seed"]["7"]["text"] == "b"
    assert "loss_std" not in findings.over_seeds({42: {"loss": 1.0}})


def test_hopes_are_reported_and_never_asserted():
    said = findings.indicators(gap=4.21, reduction=None, perplexity=36.0)
    assert [line["met"] for line in said] == [False, None, False]
    assert [line["measured"] for line in said] == [4.21, None, 36.0]


def test_the_baseline_is_drawn_once_however_many_arms_stand_beside_it():
    seeds = [rows([0.2, 0.0], [0.1, 0.1])]
    other = [rows([0.2, 0.0], [0.3, 0.3], "sign_frozen")]
    frame = findings.budget_curves({"monotone": seeds, "sign_frozen": other})
    assert list(frame["model"].unique()) == ["baseline", "monotone", "sign_frozen"]
    assert not frame.duplicated(["model", "attack", "num_flips"]).any()
    at = frame.set_index(["model", "attack", "num_flips"])["success"]
    assert at["baseline", "hotflip", 1] == 0.5 and at["sign_frozen", "hotflip", 1] == 1.0


# -- the plan --------------------------------------------------------------------------------------


def test_every_arm_departs_from_the_studied_one_in_one_way():
    studied = Constraint()
    for name in ARMS:
        if name not in ("baseline", "baseline_relu"):
            held = arm(name, studied)
            changed = [key for key, value in vars(held).items() if value != getattr(studied, key)]
            assert len(changed) == (0 if name == "monotone" else 1) or name == "relu_init_free"
    assert arm("baseline", studied) == BASELINE


def test_an_arm_keeps_its_name_when_another_seed_or_rate_is_studied():
    assert name_of(arm("abs_init_free", Constraint(lr=0.1))) == "abs_init_free"
    assert name_of(Constraint(init="relu")) == "monotone"
    with pytest.raises(BadInput, match="none is the baseline itself"):
        pair(AttackConfig(constraint=BASELINE), AttackConfig)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arms": ("monotone", "baseline")}, "must begin with baseline"),
        ({"arms": ("baseline", "monoton")}, "none is called 'monoton'; there are baseline"),
        ({"seeds": (42, 42)}, "seeds: 42 is the same as 42"),
        (
            {"arms": ("baseline", "monotone", "mlp_in"), "constraint": Constraint(scope="mlp_in")},
            "mlp_in is the same as monotone",
        ),
    ],
)
def test_a_study_that_would_count_something_twice_is_refused(changes: dict[str, Any], said: str):
    with pytest.raises(BadInput, match=said):
        list(study_runs(StudyConfig(**changes)))


def test_a_study_asks_each_run_once():
    config = StudyConfig(seeds=(42, 1337), arms=("baseline", "monotone", "sign_frozen"))
    asked = [question for _, question in study_runs(config)]
    keys = [(question.experiment.name, question.config) for question in asked]
    assert all(keys.count(key) == 1 for key in keys)
    assert sum(name == "hotflip" for name, _ in keys) == 4  # two arms beside the baseline
