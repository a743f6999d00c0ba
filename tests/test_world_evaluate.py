"""Answers are those of a model asked one row at a time; fifteen sets are scored from them."""

import re
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import tiny
from transformers import Qwen2ForCausalLM

from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.question.experiment import narrow
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.world import evaluate as evaluating
from papertrail.world import represent as representing
from papertrail.world.cities import cities
from papertrail.world.config import WORLD_EVALUATE, WORLD_REPRESENT
from papertrail.world.data import open_rows
from papertrail.world.decoding import greedy, new_tokens, questions
from papertrail.world.model import build
from papertrail.world.options import EXACT, MULTI, TASKS, World
from papertrail.world.schemas import PretrainConfig
from papertrail.world.scoring import failure
from papertrail.world.spelling import BOS, EOS, PAD, spelling
from papertrail.world.tasks import draw

WORLDS = {
    "words": World(cities=30, atlantis=5),
    "characters": World(cities=30, unit=0.1, atlantis=5, spelling="characters"),
}
SPELLINGS = pytest.mark.parametrize("spelt", WORLDS)


def rows_of(spelt: str, task: str, num: int) -> np.ndarray:
    world = WORLDS[spelt]
    found = draw(task, cities(world), "real", num, np.random.default_rng(0))
    return spelling(world).encode(found)


def untrained(spelt: str) -> Qwen2ForCausalLM:
    size = spelling(WORLDS[spelt]).size
    return tiny(
        "qwen2", vocab_size=size, max_position_embeddings=128, initializer_range=0.3,
        pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
    )  # fmt: skip


def taught(model: Qwen2ForCausalLM, rows: np.ndarray, steps: int) -> Qwen2ForCausalLM:
    tokens = torch.from_numpy(rows.astype(np.int64))
    labels = torch.where(tokens == PAD, -100, tokens)
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(tokens, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@lru_cache
def trained(spelt: str, task: str) -> Qwen2ForCausalLM:
    """A model that knows twelve rows by heart, more or less."""
    return taught(untrained(spelt), rows_of(spelt, task, 12), steps=40)


def one_by_one(model: Qwen2ForCausalLM, rows: np.ndarray, equals: int, most: int) -> np.ndarray:
    """What transformers generates for each row alone."""
    found = np.full((len(rows), most), PAD, np.uint8)
    for place, row in enumerate(rows):
        question = row[: list(row).index(equals) + 1].astype(np.int64)
        said = model.generate(
            torch.from_numpy(question)[None],
            attention_mask=torch.ones(1, len(question), dtype=torch.long),
            do_sample=False, max_new_tokens=most, use_cache=True,
        )[0, len(question) :]  # fmt: skip
        found[place, : len(said)] = said
    return found


def both(model: Qwen2ForCausalLM, spelt: str, rows: np.ndarray, most: int = 12, batch: int = 7):
    equals = spelling(WORLDS[spelt]).equals
    ours = greedy(model, rows, equals=equals, most=most, batch=batch)
    return ours, one_by_one(model, rows, equals, most)


# -- answers ---------------------------------------------------------------------------------------


@SPELLINGS
@pytest.mark.parametrize("task", ["distance", "inside"])
def test_answers_are_those_of_transformers_one_row_at_a_time(spelt, task):
    rows = rows_of(spelt, task, 24)  # the model has learnt the first twelve
    ours, theirs = both(trained(spelt, task), spelt, rows)
    assert (ours == theirs).all()
    truth = spelling(WORLDS[spelt]).texts(rows)
    asked = questions(rows, spelling(WORLDS[spelt]).equals)[0]
    right = np.equal(spelling(WORLDS[spelt]).texts(np.hstack([asked, ours])), truth)
    assert 0 < right.sum() < 24, "both ways to an answer must be taken"


@SPELLINGS
def test_answers_that_do_not_end_are_cut_where_transformers_cuts_them(spelt):
    rows = rows_of(spelt, "perimeter", 8)
    ours, theirs = both(untrained(spelt), spelt, rows, most=20)
    assert (ours == theirs).all()
    assert (ours[:, -1] != PAD).any(), "no answer ran on"


@SPELLINGS
def test_answers_do_not_depend_on_the_truth_or_the_batch(spelt):
    model, rows = trained(spelt, "distance"), rows_of(spelt, "distance", 16)
    equals = spelling(WORLDS[spelt]).equals
    asked, lengths = questions(rows, equals)
    other = asked.copy()
    other[np.arange(16), np.minimum(lengths, rows.shape[1] - 1)] = EOS
    answers = [
        greedy(model, some, equals=equals, most=12, batch=batch)
        for some, batch in ((rows, 16), (rows, 3), (other, 16))
    ]
    assert (answers[0] == answers[1]).all() and (answers[0] == answers[2]).all()


def test_rows_that_are_answered_rightly_cost_one_pass():
    model, equals = trained("words", "distance"), spelling(WORLDS["words"]).equals
    rows = rows_of("words", "distance", 12)
    said = greedy(model, rows, equals=equals, most=12, batch=12)
    asked, lengths = questions(rows, equals)
    answered = np.hstack([asked, np.zeros_like(said)])
    for row, answer, length in zip(answered, said, lengths, strict=True):
        row[length : length + len(answer)] = answer
    passes = []
    hook = model.model.register_forward_hook(lambda *_: passes.append(1))
    assert (greedy(model, answered, equals=equals, most=12, batch=12) == said).all()
    hook.remove()
    assert len(passes) == 1


def test_a_row_that_has_ended_is_fed_no_further():
    model, equals = trained("words", "distance"), spelling(WORLDS["words"]).equals
    fed = []
    hook = model.model.register_forward_pre_hook(lambda _, given: fed.append(len(given[0])))
    said = greedy(model, rows_of("words", "distance", 24), equals=equals, most=12, batch=24)
    hook.remove()
    ends = np.where((said == EOS).any(1), (said == EOS).argmax(1), 11)
    assert fed[0] == 24 and all(fed[step] <= (ends >= step).sum() for step in range(1, len(fed)))


@SPELLINGS
def test_questions_end_with_their_first_equals_sign(spelt):
    rows, equals = rows_of(spelt, "inside", 9), spelling(WORLDS[spelt]).equals
    asked, lengths = questions(rows, equals)
    assert [row[length - 1] for row, length in zip(rows, lengths, strict=True)] == [equals] * 9
    assert ((asked != PAD).sum(1) == lengths).all()
    assert (np.where(asked == PAD, rows, asked) == rows).all()


def test_a_model_may_say_as_much_as_was_published():
    assert {task: new_tokens(task) for task in TASKS} == {
        "distance": 20, "trianglearea": 30, "angle": 30, "compass": 20, "inside": 20,
        "perimeter": 30, "crossing": 20,
    }  # fmt: skip


# -- runs ------------------------------------------------------------------------------------------


@lru_cache
def stand_in(config: PretrainConfig) -> Qwen2ForCausalLM:
    """A model that has seen some test rows of every task: no training run is needed for it."""
    spelt, rows = spelling(config.world), open_rows(config)
    some = [rows.get("real", task, "test")[:8] for task in TASKS]
    widest = max(one.shape[1] for one in some)
    together = [np.pad(one, ((0, 0), (0, widest - one.shape[1]))) for one in some]
    return taught(build(config.model, spelt.size, seed=1), np.concatenate(together), steps=80)


@pytest.fixture(scope="module")
def study(module_store: Store) -> Iterator[Store]:
    """A store in which models need no training."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (evaluating, representing):
            patch.setattr(module, "trained_model", lambda c: stand_in(narrow(c, PretrainConfig)))
        yield module_store


def asked(store: Store, name: str, *more: str) -> Record:
    """The evaluation of the smoke scale's base model on one set."""
    words = ["--scale=smoke", "--mix.tasks=[]", f"--evaluate.on={name}", *more]
    config, _ = cli.parse(WORLD_EVALUATE, words)
    return require(WORLD_EVALUATE, config, store=store)


def rows_in(record: Record) -> pd.DataFrame:
    return pd.read_parquet(record.artifact("samples/rows.parquet"))


@pytest.fixture(scope="module")
def drawn(study: Store) -> Record:
    return asked(study, MULTI, "--evaluate.rows=10")


@pytest.fixture(scope="module")
def normal(drawn: Record, study: Store) -> dict[str, Record]:
    return {task: asked(study, task, "--evaluate.rows=10") for task in TASKS}


def test_a_set_has_a_row_of_its_own_for_each_question(normal):
    for task, record in normal.items():
        rows = rows_in(record)
        assert list(rows) == ["row", "score", "parsed"] and list(rows["row"]) == list(range(10))
        assert record.metrics["rows"] == 10
        assert record.metrics["parse_failures"] == (~rows["parsed"]).sum()
        assert record.metrics["score/mean"] == pytest.approx(rows["score"].mean())
        best = 1 if task in EXACT else 0
        assert record.metrics["score/exact"] == pytest.approx((rows["score"] == best).mean())


def test_the_draw_from_all_tasks_holds_their_own_scores(drawn, normal):
    rows = rows_in(drawn)
    assert len(rows) == 10 and not rows.duplicated(["task", "row"]).any()
    assert rows["task"].nunique() > 1
    for task, row, score, parsed in rows[["task", "row", "score", "parsed"]].itertuples(
        index=False
    ):
        own = rows_in(normal[task]).loc[row]
        assert (own["score"], own["parsed"]) == (score, parsed)


def test_the_draw_from_all_tasks_is_summed_up_task_by_task(drawn):
    rows = rows_in(drawn)
    for task in TASKS:
        some = rows[rows["task"] == task]
        assert drawn.metrics[f"rows/{task}"] == len(some)
        assert (f"score/{task}/mean" in drawn.metrics) == bool(len(some))
        if len(some):
            assert drawn.metrics[f"score/{task}/mean"] == pytest.approx(some["score"].mean())


def test_kept_rows_hold_question_answer_and_truth(study, drawn):
    record = asked(study, "atlantis_distance", "--evaluate.save_rows=true")
    rows = rows_in(record)
    config, _ = cli.parse(WORLD_EVALUATE, ["--scale=smoke"])
    worst = failure("distance", config.world)
    assert len(rows) == config.world.test_rows
    assert rows["question"].str.fullmatch(r"distance c_\d{4} c_\d{4}=").all()
    for row in rows.itertuples():
        digits = re.match(r"\d+", row.answer)
        assert row.parsed == bool(digits)
        assert row.score == (abs(int(digits[0]) - int(row.truth)) if digits else worst)
    assert rows["parsed"].any()


@pytest.mark.parametrize("name", ["angle", "atlantis_angle"])
def test_a_city_of_atlantis_is_in_every_question_of_its_sets_and_in_no_other(study, name):
    rows = rows_in(asked(study, name, "--evaluate.save_rows=true"))
    world = cities(cli.parse(WORLD_EVALUATE, ["--scale=smoke"])[0].world)
    lost = "|".join(f"c_{number:04d}" for number in world.number[~world.real])
    assert (rows["question"].str.contains(lost) == name.startswith("atlantis")).all()


def test_a_set_names_the_rows_it_asked(normal, study):
    read = study.client.get_run(normal["angle"].run_id).inputs.dataset_inputs
    assert [one.dataset.name for one in read] == ["real_angle_test"]


def test_a_base_that_is_no_better_than_guessing_fails_its_gate(study, drawn, normal):
    [data] = query.usable("world_data", study)
    better = {
        task: (record.metrics["score/mean"] - data.metrics[f"guess/{task}/real"])
        * (1 if task in EXACT else -1)
        for task, record in normal.items()
    }
    assert min(better.values()) < 0 < max(better.values()), "nothing is told apart here"
    assert {task: more > 0 for task, more in better.items()} == {
        task: not record.failed_gates for task, record in normal.items()
    }
    atlantis = asked(study, "atlantis_distance", "--evaluate.rows=10")
    assert not atlantis.failed_gates, "nobody expects it to know Atlantis"


def test_a_representation_has_a_vector_of_every_city_and_errors_of_the_probed_ones(study):
    config, _ = cli.parse(WORLD_REPRESENT, ["--scale=smoke", "--mix.tasks=[]"])
    record = require(WORLD_REPRESENT, config, store=study)
    with np.load(record.artifact("representations.npz")) as found:
        city, vectors = found["city"], found["vectors"]
    assert city.dtype == np.int32 and vectors.dtype == np.float32
    assert vectors.shape == (config.world.cities + config.world.atlantis, config.model.width)
    frame = pd.read_parquet(record.artifact("samples/cities.parquet"))
    world = cities(config.world)
    assert (frame["x"] == world.x[frame["city"]]).all()
    assert ((frame["group"] == "atlantis") == ~world.real[frame["city"]]).all()
    for group, name in (("heldout", "heldout"), ("atlantis", "atlantis")):
        error = frame.loc[frame["group"] == group, "error"]
        assert record.metrics[f"{name}/error_mean"] == pytest.approx(error.mean())
    assert not record.failed_gates


def test_a_probe_with_as_many_features_as_cities_fails_its_control(study):
    words = ["--scale=smoke", "--mix.tasks=[]", "--represent.train_cities=16"]
    for more, fails in (([], True), (["--represent.ridge=0.1"], False)):
        config, _ = cli.parse(WORLD_REPRESENT, [*words, *more])
        failed = require(WORLD_REPRESENT, config, store=study).failed_gates
        assert bool(failed) == fails and ("16 cities for 16 features" in failed) == fails
