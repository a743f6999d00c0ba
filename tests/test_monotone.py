"""The whole study at smoke scale: one command, two seeds, every stage, files that scripts read.

It is killed on its way and finished by the same command. One module-wide store: everything after
the first test reads what it computed.
"""

import json
import math
from collections import Counter, defaultdict
from statistics import fmean
from typing import Any

import pytest
from benchmark_sets import write
from conftest import executed
from killed import finished, killed

from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.monotone import study
from papertrail.monotone.config import HOTFLIP, MONOTONE, study_runs
from papertrail.monotone.robustness import JSON_NAMES
from papertrail.monotone.schemas import HotFlipConfig, StudyConfig
from papertrail.monotone.tables import TABLES
from papertrail.tables import order
from papertrail.tables.catalog import Table, rendering

KILLED_AT = 14  # runs that had been begun: in the midst of the attacks
SEEDS, NAMES = (42, 7), ("baseline", "monotone", "sign_frozen")
FLAGS = (
    "0_setup", "1_apply_monotonicity", "2_train_baseline", "3_train_monotonic", "4_evaluate",
    "5_uat", "6_hotflip", "7_aggregate",
)  # fmt: skip


@pytest.fixture(scope="module")
def store(module_store: Store) -> Store:
    return module_store


@pytest.fixture(scope="module")
def words(smoke: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    sets = write(
        tmp_path_factory.mktemp("sets"), "lambada", "hellaswag", "winogrande", "truthfulqa"
    )
    asked = (f"--seeds={list(SEEDS)}", f"--arms=[{','.join(NAMES)}]")
    return [*smoke, *asked, f"--benchmarks.folder={sets}"]


@pytest.fixture(scope="module")
def config(words: list[str]) -> StudyConfig:
    found = cli.parse(MONOTONE, words)[0]
    assert isinstance(found, StudyConfig)
    return found


@pytest.fixture(scope="module")
def before(store: Store, words: list[str]) -> Counter[str]:
    """What was finished when the study's process died."""
    return killed("monotone", words, store, KILLED_AT)


@pytest.fixture(scope="module")
def record(store: Store, before: Counter[str], config: StudyConfig) -> Record:
    return require(MONOTONE, config)


def test_a_killed_study_goes_on_and_finishes_no_run_twice(
    store: Store, before: Counter[str], record: Record
):
    assert len(before) >= KILLED_AT - 4
    now = finished(store)
    assert before.keys() <= now.keys() and set(now.values()) == {1}


def test_one_command_leaves_every_run_of_the_study(record: Record, config: StudyConfig):
    from papertrail.core.answering.standing import standings

    asked = [question for _, question in study_runs(config)]
    assert {one.state for one in standings(asked, record.store)} == {"finished"}
    assert record.unusable() == ""


def test_the_eight_completion_flags_are_tags(record: Record):
    flags = {key for key in record.tags if key.startswith("stage_")}
    assert flags == {f"stage_{flag}_complete" for flag in FLAGS}


def test_the_study_repeats_what_people_compare_as_means_over_seeds(
    record: Record, config: StudyConfig
):
    of_seed: dict[Any, list[float]] = defaultdict(list)
    for labels, question in study_runs(config):
        if question.experiment is HOTFLIP:
            pair, arm, side = require(HOTFLIP, question.config), labels["arm"], labels["side"]
            of_seed[arm].append(pair.metrics[f"attack/{side}/hotflip/rise"])
            assert pair.metrics["attack/rise"] == of_seed[arm][-1]
    for arm, rises in of_seed.items():
        assert record.metrics[f"attack/rise/{arm}"] == pytest.approx(fmean(rises))
    for arm in NAMES:
        tree = record.json("evaluation_results")["pile_test"][JSON_NAMES.get(arm, arm)]
        assert record.metrics[f"test/perplexity/{arm}"] == pytest.approx(tree["perplexity"])


def leaf(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = tree[name]
    return tree


@pytest.mark.parametrize(
    ("file", "path"),
    [
        ("evaluation_results", "pile_test.baseline_pythia.perplexity"),
        ("evaluation_results", "pile_test.monotonic_pythia.perplexity"),
        ("evaluation_results", "pile_test.monotonic_pythia.loss"),
        ("evaluation_results", "pile_test.baseline_pythia.total_tokens"),
        ("hotflip_results", "results.baseline_pythia.success_rate"),
        ("hotflip_results", "results.monotonic_pythia.success_rate"),
        ("hotflip_results", "results.monotonic_pythia.avg_degradation"),
        ("hotflip_results", "statistical_tests.baseline_vs_monotonic.paired/mcnemar_p_perplexity"),
        ("uat_results", "results.baseline_pythia.nll_increase_percent"),
        ("uat_results", "results.monotonic_pythia.attacked_loss"),
        ("final_results", "evaluation_summary.sign_frozen.perplexity"),
    ],
)
def test_the_lines_of_the_original_scripts_find_finite_numbers(
    record: Record, file: str, path: str
):
    tree = json.loads(record.artifact(f"results/{file}.json").read_text())
    assert math.isfinite(leaf(tree, path))
    folder, _, name = path.rpartition(".")
    seeds = leaf(tree, f"{folder}.per_seed")
    assert leaf(tree, path) == pytest.approx(sum(one[name] for one in seeds.values()) / 2)


def test_final_results_has_the_sections_of_the_original(record: Record):
    found = record.json("final_results")
    assert set(found) - {"schema"} == {
        "experiment_info", "training_summary", "evaluation_summary", "attack_summary",
        "key_findings",
    }  # fmt: skip
    assert set(found["attack_summary"]) == {"hotflip", "uat", "gcg", "pgd"}
    assert set(found["key_findings"]["versus_baseline"]) == {"monotone", "sign_frozen"}


def test_the_numbers_of_an_arm_are_those_of_its_own_runs(record: Record, config: StudyConfig):
    runs = record.json("final_results")["experiment_info"]["runs"]
    results = record.json("hotflip_results")["results"]
    for arm, title in (("monotone", "monotonic_pythia"), ("sign_frozen", "sign_frozen")):
        side = "monotone" if arm == "monotone" else "sign_frozen"
        for seed in SEEDS:
            pair = query.by_id(runs[f"hotflip {arm} seed {seed}"])
            mine = pair.metrics[f"attack/{side}/hotflip/success_perplexity"]
            assert results[title]["per_seed"][str(seed)]["success_rate_perplexity"] == mine


def test_another_attack_that_fails_its_controls_does_not_void_what_hotflip_says(record: Record):
    told = record.json("final_results")["experiment_info"]["failed_gates"]
    compared = {name for name in told if name.split()[0] in study.COMPARED}
    assert bool(record.failed_gates) == bool(compared)
    assert all(told[name] in record.failed_gates for name in compared)


def test_baseline_runs_are_shared_by_all_arms(record: Record, config: StudyConfig):
    assert len(query.usable("train")) == len(SEEDS) * len(NAMES)
    attacked = query.usable("attack", where={"constraint.kind": "none", "method": "hotflip"})
    assert len(attacked) == len(SEEDS)


def test_the_summary_shows_tables_intervals_and_hopes(
    record: Record, config: StudyConfig, capsys: pytest.CaptureFixture[str]
):
    study.show(record, config)
    said = capsys.readouterr().out
    assert "sign_frozen against the baseline, 2 seeds x 6 texts" in said
    assert "perplexity gap below 15 %:" in said and "Every attack on every arm" in said


@pytest.mark.parametrize("table", TABLES, ids=lambda one: one.name)
def test_every_table_of_the_study_is_drawn_from_its_runs_without_a_hole(
    record: Record, words: list[str], table: Table
):
    asked = cli.parse(rendering(table), [*words, f"--name={table.name}"])[0]
    drawn = order.ordered(table, asked)
    text = drawn.artifact("tables/table.csv").read_text()
    assert "missing" not in text, text
    assert r"\toprule" in drawn.artifact("tables/table.tex").read_text()


def test_the_row_format_of_the_paper_is_one_table(record: Record, words: list[str]):
    summary = next(table for table in TABLES if table.name == "summary")
    drawn = order.ordered(summary, cli.parse(rendering(summary), [*words, "--name=summary"])[0])
    _, head = drawn.artifact("tables/table.tex").read_text().split(r"\toprule")
    places = [head.index(name) for name in ("Model", "Params", "PPL", r"$\Delta$PPL", "success")]
    assert places == sorted(places)


def test_the_notebook_tells_the_story_from_runs_alone(record: Record):
    names = executed("monotone")
    assert list(names["versus"].index) == ["monotone", "sign_frozen"]
    assert set(names["curves"]["model"]) == set(NAMES)


def test_a_second_call_computes_nothing(record: Record, config: StudyConfig):
    assert require(MONOTONE, config, "read_only").run_id == record.run_id
    one = HotFlipConfig(**{k: v for k, v in vars(config).items() if k not in ("arms", "seeds")
                           and k in HotFlipConfig.__dataclass_fields__}, seed=7)  # fmt: skip
    assert require(HOTFLIP, one, "read_only").status == "FINISHED"
