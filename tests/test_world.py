"""The world study at smoke scale: killed on its way, finished by the same command, then read.

One module-wide store: everything after the first test reads what it computed.
"""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import executed
from killed import finished, killed, runs
from safetensors.torch import load_file

from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.question.experiment import Question
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.tables import order
from papertrail.tables.catalog import rendering
from papertrail.world import plan, study, together
from papertrail.world.config import (
    WORLD,
    study_evaluations,
    study_representations,
    study_trainings,
)
from papertrail.world.generalisation import normalised_improvement
from papertrail.world.options import SETS
from papertrail.world.schemas import StudyConfig
from papertrail.world.tables import TABLES

WORDS = ["--scale=smoke", "--specialists=[distance,angle]", "--pairs=[[angle,distance]]"]
NUM_MODELS = 4
KILLED_AT = 20  # runs that had been started


@pytest.fixture(scope="module")
def store(module_store: Store) -> Store:
    return module_store


@pytest.fixture(scope="module")
def config() -> StudyConfig:
    found = cli.parse(WORLD, WORDS)[0]
    assert isinstance(found, StudyConfig)
    return found


@pytest.fixture(scope="module")
def before(store: Store) -> Counter[str]:
    """What was finished when the study's process died."""
    return killed("world", WORDS, store, KILLED_AT)


@pytest.fixture(scope="module")
def record(store: Store, before: Counter[str], config: StudyConfig) -> Record:
    return require(WORLD, config)


def test_a_killed_study_goes_on_and_finishes_no_run_twice(
    store: Store, before: Counter[str], record: Record
):
    assert len(before) >= KILLED_AT - 3
    now = finished(store)
    assert before.keys() <= now.keys() and set(now.values()) == {1}
    assert len(now) == 1 + NUM_MODELS + NUM_MODELS * len(SETS) + NUM_MODELS + 1


def test_the_study_repeats_where_its_models_put_cities(record: Record, config: StudyConfig):
    of_one = {
        labels["model"]: require(question.experiment, question.config).metrics
        for labels, question in study_representations(config)
    }
    for model in ("base", "distance", "angle"):
        for name in ("heldout/error_mean", "atlantis/error_mean"):
            assert record.metrics[f"{name}/{model}"] == of_one[model][name]


def test_its_plan_then_has_nothing_left_to_compute(
    store: Store, record: Record, config: StudyConfig
):
    stages = plan.stages(config, store)
    assert all(set(stage.states) == {"finished"} for stage in stages)
    assert [stage.states.total() for stage in stages] == [1, 1, 2, 1, 60, 4, 1]


def test_another_pair_adds_its_own_runs_alone(store: Store, record: Record, config: StudyConfig):
    more = replace(config, pairs=(*config.pairs, ("distance", "perimeter")))
    added = [stage for stage in plan.stages(more, store) if stage.states["missing"]]
    counts = {stage.name: stage.states["missing"] for stage in added}
    assert counts == {"pairs": 1, "evaluations": 15, "representations": 1, "tables": 1}
    assert all(stage.num_unknown == 0 and stage.seconds > 0 for stage in added)


def score(config: StudyConfig, model: str, name: str) -> float:
    for labels, question in study_evaluations(config):
        if labels == {"model": model, "seed": 1, "set": name}:
            return require(question.experiment, question.config).metrics["score/mean"]
    raise AssertionError((model, name))


@pytest.mark.parametrize("task", ["distance", "compass"])
def test_deviation_is_the_pair_minus_the_better_specialist_by_the_runs_themselves(
    record: Record, config: StudyConfig, task: str
):
    results = record.json("world_results")
    base = [score(config, "base", name) for name in (f"atlantis_{task}", task)]
    reached = {
        model: float(normalised_improvement(score(config, model, f"atlantis_{task}"), *base, task))
        for model in ("distance", "angle", "angle+distance")
    }
    found = results["deviation"]["1"]["angle+distance"][task]
    better = max(reached["distance"], reached["angle"])
    assert found == pytest.approx(reached["angle+distance"] - better)
    assert results["improvement"]["pairs"]["mean"]["angle+distance"][task] == pytest.approx(
        reached["angle+distance"]
    )


def test_the_frame_of_evaluations_names_the_run_behind_every_number(
    record: Record, config: StudyConfig
):
    frame = pd.read_parquet(record.artifact("samples/evaluations.parquet"))
    assert len(frame) == NUM_MODELS * len(SETS)
    drawn = frame[frame["set"] == "multi_task"].iloc[0]
    counted = drawn[[f"rows/{task}" for task in SETS[7:14]]].sum()
    assert drawn["rows"] == counted == 7 * 16


def test_fine_tuned_models_start_from_the_base_of_their_seed(config: StudyConfig, record: Record):
    trained = {labels["model"]: q for labels, q in study_trainings(config)}
    base = require(trained["base"].experiment, trained["base"].config)
    tuned = require(trained["angle"].experiment, trained["angle"].config)
    assert base.run_id in tuned.tags["papertrail.parents"]
    assert tuned.metrics["train/rows"] == 32 + 64 + 7 * 4


def test_representations_are_of_the_same_cities_under_every_model(
    config: StudyConfig, record: Record
):
    seen = []
    for _, question in study_representations(config):
        run = require(question.experiment, question.config)
        with np.load(run.artifact("representations.npz")) as kept:
            seen.append(kept["city"].tolist())
    assert len(seen) == NUM_MODELS and all(one == seen[0] for one in seen)


def test_the_summary_and_the_figures_are_there_to_look_at(
    record: Record, config: StudyConfig, capsys: pytest.CaptureFixture[str]
):
    study.show(record, config)
    said = capsys.readouterr().out
    for heading in ("What a pair adds", "What one task gives", "The base model", "linear probe"):
        assert heading in said
    drawn = {path.name for path in record.artifact("figures").iterdir()}
    assert {"map_base.png", "map_base.pdf", "probe_errors.png", "cka.png"} <= drawn
    assert {path.split(".")[1] for path in drawn} == {"png", "pdf"}


def test_with_several_seeds_each_has_its_own_figures_besides_those_of_their_mean():
    frame = pd.DataFrame({"seed": [1, 1, 7]})
    parts = {folder: len(part) for folder, part in study._by_seed(frame)}
    assert parts == {"figures": 3, "figures/seed_1": 2, "figures/seed_7": 1}
    assert len(list(study._by_seed(frame[:2]))) == 1


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_is_a_query_over_these_runs(table, record: Record, config: StudyConfig):
    before = finished(record.store)
    drawn = order.ordered(table, config)
    assert not any(
        run
        for run in finished(record.store) - before
        if run != drawn.tags.get("papertrail.identity")
    ), "a table computed something"
    assert "missing: never" not in (drawn.artifact("tables") / "table.txt").read_text()
    assert rendering(table).study == "world"


def test_the_notebook_tells_the_story_from_runs_alone(record: Record):
    names = executed("world")
    assert names["study"].run_id == record.run_id
    assert len(names["graded"]) == 3 * 7


def test_a_plan_is_printed_and_nothing_is_computed(
    store: Store, record: Record, capsys: pytest.CaptureFixture[str]
):
    before = len(runs(store))
    cli.launch(WORLD, [*WORDS, "--seeds=[1,2]", "--plan=true"])
    said = capsys.readouterr().out
    assert "60 of 120 finished" in said and "on one worker: " in said
    assert len(runs(store)) == before


def test_what_no_run_foretells_is_unknown_and_not_0_seconds():
    assert plan.price(0.0, 3) == "3 runs of unknown cost"
    assert plan.price(61.0, 1) == "61 s + 1 run of unknown cost"
    assert plan.price(61.0, 0) == "61 s"


def test_the_study_asks_for_each_of_its_runs_once(config: StudyConfig):
    questions = [q for _, q in (*study_evaluations(config), *study_representations(config))]
    assert len(WORLD.upstream(config)) == len(questions) == 64
    assert all(isinstance(one, Question) for one in questions)


def test_a_stack_leaves_the_runs_that_training_one_by_one_leaves(
    store: Store, record: Record, config: StudyConfig
):
    trained = [q for labels, q in study_trainings(config) if labels["model"] != "base"]
    alone = [require(one.experiment, one.config) for one in trained]
    for run in alone:
        store.client.set_tag(run.run_id, "papertrail.invalidated", "to be trained anew")
    together.answer(trained, 2, store)
    for question, plain, others in zip(trained, alone, (1, 1, 0), strict=True):
        ours = require(question.experiment, question.config, "read_only")
        assert f"{others} others" in ours.tags["papertrail.trained_with"]
        assert ours.metrics["train/loss"] == pytest.approx(plain.metrics["train/loss"], rel=1e-3)
        a, b = (load_file(run.artifact("model/model.safetensors")) for run in (ours, plain))
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
