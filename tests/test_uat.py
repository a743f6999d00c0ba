"""Universal triggers as runs, at smoke scale on real text: one arm, two arms, killed and continued.

One module-wide store: everything after the first test reads what it computed.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from forked import Popen
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.identity import identify
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing import parts
from papertrail.data.config import CORPUS
from papertrail.data.windows import Corpus
from papertrail.monotone import triggers
from papertrail.monotone.arms import pair
from papertrail.monotone.config import TRAIN, TRIGGER, UAT, corpus_config
from papertrail.monotone.options import Trigger
from papertrail.monotone.schemas import TrainConfig, TriggerConfig, UatConfig
from papertrail.monotone.trigger_figure import trigger_bars
from papertrail.monotone.trigger_run import own_trigger

ARMS = ("baseline", "monotone")
SEARCHED = {"trigger", "query", "random", "neutral"}


@pytest.fixture(scope="module")
def store(module_store: Store) -> Store:
    return module_store


@pytest.fixture(scope="module")
def config(smoke: list[str]) -> UatConfig:
    found = cli.parse(UAT, smoke)[0]
    assert isinstance(found, UatConfig)
    return found


@pytest.fixture(scope="module")
def record(store: Store, config: UatConfig) -> Record:
    return require(UAT, config)


@pytest.fixture(scope="module")
def rows(record: Record) -> pd.DataFrame:
    return pd.read_parquet(record.artifact("samples/triggers.parquet"))


@pytest.fixture(scope="module")
def one(record: Record, config: UatConfig) -> Record:
    """The run of the baseline alone."""
    return require(TRIGGER, pair(config, TriggerConfig)["baseline"])


def mine(rows: pd.DataFrame, **wanted: Any) -> pd.DataFrame:
    for key, value in wanted.items():
        rows = rows[rows[key] == value]
    return rows


def plain(model: Any, ids: list[int], first: int) -> float:
    """Summed NLL of `ids` from position `first` on, from the full logits."""
    with torch.no_grad():
        logp = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(logp[t - 1, ids[t]]) for t in range(first, len(ids)))


def test_the_run_holds_both_arms_and_every_control_on_all_texts(
    rows: pd.DataFrame, record: Record, config: UatConfig
):
    options = config.trigger
    for arm in ARMS:
        test = mine(rows, arm=arm, split="test")
        assert set(test["attack"]) == SEARCHED | {"transfer"}
        draws = test.groupby("attack")["draw"].nunique()
        assert draws["random"] == options.random_triggers
        assert (draws.drop("random") == 1).all()
        assert (test.groupby(["attack", "draw"])["text"].nunique() == options.evaluated_on).all()
        assert set(mine(rows, arm=arm, split="val")["attack"]) == {"trigger", "query"}
        for attack in ("random", "neutral", "query", "transfer"):
            assert f"uat/{arm}/{attack}/rise/low" in record.metrics
        assert f"uat/{arm}/rise/high" in record.metrics


@pytest.fixture(scope="module")
def texts(config: UatConfig, record: Record) -> list[list[int]]:
    """The evaluated texts, cut from the corpus by hand."""
    corpus = Corpus.open(require(CORPUS, corpus_config(config)).artifact("corpus"))
    size, num = config.trigger.tokens, config.trigger.evaluated_on
    every = (corpus.split("test").document(i) for i in range(len(corpus.split("test").num_bytes)))
    enough = [ids[:size].tolist() for ids in every if len(ids) >= size]
    return [enough[i * len(enough) // num] for i in range(num)]


@pytest.fixture(scope="module")
def models(record: Record, config: UatConfig) -> dict[str, Any]:
    folders = {
        arm: require(TRAIN, one).artifact("model") for arm, one in pair(config, TrainConfig).items()
    }
    return {arm: AutoModelForCausalLM.from_pretrained(f).eval() for arm, f in folders.items()}


@pytest.fixture(scope="module")
def put(record: Record, config: UatConfig) -> dict[str, dict[str, Any]]:
    """Arm -> what its run says was put in front of the texts."""
    return {
        arm: require(TRIGGER, one).json("trigger")
        for arm, one in pair(config, TriggerConfig).items()
    }


def test_every_loss_is_that_of_the_whole_sequence_with_only_the_text_as_target(
    rows: pd.DataFrame,
    texts: list[list[int]],
    models: dict[str, Any],
    put: dict[str, dict[str, Any]],
):
    for arm, other in (ARMS, ARMS[::-1]):
        tried = {name: put[arm][name]["ids"] for name in ("trigger", "query", "neutral")}
        tried |= {"transfer": put[other]["trigger"]["ids"], "random": put[arm]["random"][1]}
        for attack, trigger in tried.items():
            draw = 1 if attack == "random" else 0
            some = mine(rows, arm=arm, split="test", attack=attack, draw=draw)
            for text in (0, 3):
                (row,) = some[some["text"] == text].to_dict("records")
                ids = texts[text]
                assert row["num_scored_tokens"] == len(ids) - 1
                assert row["clean_nll"] == pytest.approx(plain(models[arm], ids, 1), abs=2e-3)
                behind = plain(models[arm], [*trigger, *ids], len(trigger) + 1)
                assert row["attacked_nll"] == pytest.approx(behind, abs=2e-3)


def test_numbers_follow_from_rows_of_unseen_texts(rows: pd.DataFrame, record: Record, one: Record):
    for arm in ARMS:
        some = mine(rows, arm=arm, split="test", attack="trigger")
        rise = (some["attacked_nll"] - some["clean_nll"]) / some["num_scored_tokens"]
        assert record.metrics[f"uat/{arm}/rise"] == pytest.approx(rise.mean())
        ratio = np.exp(
            (some["attacked_nll"] - some["clean_nll"]).sum() / some["num_scored_tokens"].sum()
        )
        assert record.metrics[f"uat/{arm}/perplexity_ratio"] == pytest.approx(ratio)
        share = (rise > np.log(1.15)).mean()
        assert record.metrics[f"uat/{arm}/success_perplexity"] == pytest.approx(share)
        random = mine(rows, arm=arm, split="test", attack="random").groupby("draw")["rise"].mean()
        assert record.metrics[f"uat/{arm}/random/rise"] == pytest.approx(random.mean())
        assert record.metrics[f"uat/{arm}/random/max"] == pytest.approx(random.max())
        assert record.metrics[f"uat/{arm}/random/std"] == pytest.approx(random.std(ddof=1))
    assert one.metrics["uat/rise"] == record.metrics["uat/baseline/rise"]


def test_both_searches_spent_the_same_evaluations_and_their_curves_end_at_what_was_found(
    one: Record, rows: pd.DataFrame, config: UatConfig, store: Store
):
    assert one.metrics["uat/evaluations"] == one.metrics["uat/query/evaluations"] > 0
    assert one.metrics["uat/gradients"] > 0 == one.metrics["uat/query/gradients"]
    for attack in ("trigger", "query"):
        ends, prefix = [], triggers.name(attack)
        for restart in range(config.trigger.restarts):
            key = f"{prefix}/restart_{restart}/loss"
            points = sorted(
                (p.step, p.value) for p in store.client.get_metric_history(one.run_id, key)
            )
            assert len({step for step, _ in points}) == len(points)
            assert np.all(np.diff([loss for _, loss in points]) >= -1e-6)
            ends.append(points[-1][1])
        some = mine(rows, arm="baseline", split="val", attack=attack)
        found = some["attacked_nll"].sum() / some["num_scored_tokens"].sum()
        assert max(ends) == pytest.approx(found, abs=1e-6)


def test_optimised_and_evaluated_texts_are_different_documents(
    rows: pd.DataFrame, texts: list[list[int]]
):
    clean = {
        split: set(mine(rows, arm="baseline", split=split)["clean_nll"].round(3))
        for split in ("val", "test")
    }
    assert not clean["val"] & clean["test"]
    assert len({tuple(ids) for ids in texts}) == len(texts)


def test_a_round_trip_is_counted_per_text_in_context(
    rows: pd.DataFrame,
    texts: list[list[int]],
    put: dict[str, dict[str, Any]],
    config: UatConfig,
    record: Record,
):
    folder = require(TRAIN, pair(config, TrainConfig)["baseline"]).artifact("model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    some = mine(rows, arm="baseline", split="test", attack="trigger").sort_values("text")
    expected = []
    for ids in texts:
        whole = [*put["baseline"]["trigger"]["ids"], *ids]
        expected.append(tokenizer(tokenizer.decode(whole))["input_ids"] == whole)
    assert some["round_trip"].tolist() == expected
    assert record.metrics["uat/baseline/survive_as_text"] == np.mean(expected)


def test_the_result_file_has_the_keys_that_the_original_scripts_read(
    record: Record, rows: pd.DataFrame, put: dict[str, dict[str, Any]]
):
    found = record.json("uat_results")["results"]
    for arm, model in zip(ARMS, ("baseline_pythia", "monotonic_pythia"), strict=True):
        told, some = found[model], mine(rows, arm=arm, split="test", attack="trigger")
        assert told["trigger_ids"] == put[arm]["trigger"]["ids"]
        assert told["trigger_text"] == put[arm]["trigger"]["text"]
        tokens = some["num_scored_tokens"].sum()
        clean, attacked = some["clean_nll"].sum() / tokens, some["attacked_nll"].sum() / tokens
        assert told["clean_loss"] == pytest.approx(clean)
        assert told["attacked_loss"] == pytest.approx(attacked)
        assert told["nll_increase"] == pytest.approx((attacked - clean) / clean)
        assert told["nll_increase_percent"] == pytest.approx(100 * told["nll_increase"])
        assert set(told["controls_nll_increase_nats"]) == {"query", "random", "neutral", "transfer"}


def test_gates_of_each_arm_stand_and_the_pair_repeats_what_failed(
    one: Record, record: Record, config: UatConfig
):
    for gate in ("within_length", "fixed_targets"):
        assert one.metrics[f"gate/{gate}"] == 1
    assert {"gate/beats_random_triggers", "gate/white_box_not_below_query"} <= set(one.metrics)
    for arm, asked in pair(config, TriggerConfig).items():
        failed = require(TRIGGER, asked).failed_gates
        assert (f"gate/{arm}/trigger" in record.metrics) == bool(failed)
        assert f"gate/{arm}/white_box_not_below_transfer" in record.metrics


def judged(**columns: Any) -> pd.DataFrame:
    return triggers.judged(pd.DataFrame({"num_scored_tokens": 10, **columns}))


def test_the_gates_refuse_a_search_that_random_triggers_or_a_blind_search_beat():
    rng = np.random.default_rng(0)
    clean = rng.uniform(20, 30, 40)

    def rows(ours: float, random: float, query: float) -> pd.DataFrame:
        rises = {"trigger": ours, "random": random, "query": query}
        return pd.concat(
            judged(
                attack=attack, split=split, draw=0, text=np.arange(40), clean_nll=clean,
                attacked_nll=clean + rise + rng.normal(0, 0.1, 40), round_trip=True,
            )
            for attack, rise in rises.items()
            for split in (("test",) if attack == "random" else ("test", "val"))
        )  # fmt: skip

    def verdicts(*rises: float) -> dict[str, bool]:
        return {gate.name: gate.passed for gate in triggers.controls(rows(*rises))}

    good, blind = "beats_random_triggers", "white_box_not_below_query"
    assert verdicts(2.0, 0.5, 1.0) == {good: True, blind: True}
    assert verdicts(0.5, 0.5, 0.4) == {good: False, blind: True}
    assert verdicts(2.0, 0.5, 3.0) == {good: True, blind: False}


def test_paired_tests_compare_the_arms_on_the_same_texts(record: Record, rows: pd.DataFrame):
    arms = [mine(rows, arm=arm, split="test", attack="trigger") for arm in ARMS]
    base, other = (one.set_index("text")["rise"] for one in arms)
    assert record.metrics["paired/rise_difference"] == pytest.approx((other - base).mean())
    low, high = (record.metrics[f"paired/rise_difference/{end}"] for end in ("low", "high"))
    assert low <= record.metrics["paired/rise_difference"] <= high
    assert 0 < record.metrics["paired/sign_flip_p"] <= 1
    shuffled = arms[0].assign(text=arms[0]["text"] + 1)
    with pytest.raises(AssertionError, match="different texts"):
        triggers.paired_tests(shuffled, arms[1])


def test_the_figure_shows_every_rise_with_its_interval(record: Record, rows: pd.DataFrame):
    frame = triggers.bars({arm: mine(rows, arm=arm) for arm in ARMS})
    assert len(frame) == 10
    (axes,) = trigger_bars(frame).axes
    assert len(axes.containers) == 2
    drawn = {round(float(x), 9) for c in axes.containers for x in c.lines[0].get_xdata()}
    assert drawn == {round(x, 9) for x in frame["rise"]}
    assert len(axes.get_yticklabels()) == 5
    assert record.artifact("figures/triggers.png").stat().st_size > 10_000
    with pytest.raises(BadInput, match="2 rows for"):
        trigger_bars(pd.concat([frame, frame.iloc[:1]]))


def test_a_person_is_shown_both_arms_and_every_control(
    record: Record, config: UatConfig, capsys: pytest.CaptureFixture[str]
):
    triggers.show(record, config)
    said = capsys.readouterr().out
    assert said.index("baseline") < said.index("monotone")
    assert all(title in said for title in triggers.TITLES.values())
    assert f"{record.metrics['uat/monotone/random/rise']:+.3f}" in said
    assert "monotonic_pythia: " in said


# -- a trigger of one's own ------------------------------------------------------------------------


def test_a_trigger_of_ones_own_is_measured_and_nothing_is_searched(
    record: Record, smoke: list[str], texts: list[list[int]], models: dict[str, Any]
):
    said = " the end of the class"
    config = cli.parse(UAT, [*smoke, f"--trigger.text={said}"])[0]
    both = require(UAT, config)
    rows = pd.read_parquet(both.artifact("samples/triggers.parquet"))
    assert set(rows["attack"]) == {"trigger", "random", "neutral"}
    own = require(TRIGGER, pair(config, TriggerConfig)["monotone"])
    ids = own.json("trigger")["trigger"]["ids"]
    assert own.json("trigger")["trigger"]["text"] == said
    assert own.metrics["uat/length"] == len(ids) == len(own.json("trigger")["random"][0])
    assert "uat/evaluations" not in own.metrics and not own.failed_gates
    some = mine(rows, arm="monotone", attack="trigger").sort_values("text")
    expected = [plain(models["monotone"], [*ids, *text], len(ids) + 1) for text in texts]
    assert np.allclose(some["attacked_nll"], expected, atol=2e-3)
    assert both.json("uat_results")["results"]["baseline_pythia"]["trigger_text"] == said


def wordy() -> PreTrainedTokenizerFast:
    """A tokenizer that knows one word."""
    words = Tokenizer(WordLevel({"[UNK]": 0, "known": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("known other", "has no tokens"), ("  ", "has no tokens"), ("\ud800", "not a text")],
)
def test_a_trigger_that_the_tokenizer_cannot_write_is_refused(text: str, wrong: str):
    with pytest.raises(BadInput, match=rf"trigger.text: .*{wrong}.*; give"):
        own_trigger(wordy(), Trigger(text=text))
    assert own_trigger(wordy(), Trigger(text="known known")) == (1, 1)
    assert own_trigger(wordy(), Trigger()) is None


def test_too_long_a_trigger_and_too_many_texts_are_refused_with_what_to_do(
    record: Record, smoke: list[str]
):
    for argv, wrong in (
        (["--trigger.text=" + " the" * 100], "trigger.text: its 1.. tokens .* context of 128"),
        (["--trigger.length=97"], "trigger.length: its 97 tokens .* shorten"),
        (["--trigger.evaluated_on=999"], "trigger.evaluated_on: only 8 test documents hold"),
        (["--trigger.optimised_on=999"], "trigger.optimised_on: only .* val documents hold"),
    ):
        config = cli.parse(TRIGGER, [*smoke, *argv])[0]
        with pytest.raises(BadInput, match=wrong):
            require(TRIGGER, config)
    with pytest.raises(BadInput, match="evaluated_on"):
        cli.parse(TRIGGER, [*smoke, "--trigger.evaluated_on=1"])


# -- killed and continued --------------------------------------------------------------------------


def killed_at(config: TriggerConfig, folder: Path, name: str) -> set[str]:
    """Parts that a process left which got SIGKILL once it had finished the part `name`."""
    words = [sys.executable, str(ROOT / "entrypoints" / "trigger.py"), *cli.arguments(config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    while not (folder / f"{name}.npz").exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, "it was over before it was stopped"
    return {path.stem for path in folder.glob("*.npz")}


@pytest.mark.timeout(900)  # four processes start and three runs are computed
def test_a_search_killed_again_and_again_ends_as_if_it_had_not_been_and_repeats_nothing(
    record: Record, smoke: list[str], store: Store, monkeypatch: pytest.MonkeyPatch
):
    argv = ["--trigger.seed=7", "--trigger.top_k=48", "--constraint.kind=none"]
    config = cli.parse(TRIGGER, [*smoke, *argv])[0]
    folder = store.folder(identify(TRIGGER, config).digest) / parts.FOLDER
    left: set[str] = set()
    for name in ("gradient-0-step-0002", "gradient-1-step-0001", "random-0-step-0002"):
        before = {one: (folder / f"{one}.npz").stat().st_mtime_ns for one in left}
        left = killed_at(config, folder, name)
        after = {one: (folder / f"{one}.npz").stat().st_mtime_ns for one in before}
        assert after == before, "a finished part was written again"
    written: list[str] = []
    write = parts._write
    monkeypatch.setattr(
        parts, "_write", lambda path, a: (written.append(path.stem), write(path, a))
    )
    resumed = require(TRIGGER, config)
    assert written and not left & set(written), "a finished part was computed again"
    rest, written[:] = set(written), []
    whole = require(TRIGGER, config, "force")
    assert whole.run_id != resumed.run_id
    assert set(written) == left | rest and len(written) == len(set(written))
    timed = ("seconds", "progress", "system/")
    same = {key for key in whole.metrics if not any(word in key for word in timed)}
    assert same == {key for key in resumed.metrics if not any(word in key for word in timed)}
    assert {k: whole.metrics[k] for k in same} == {k: resumed.metrics[k] for k in same}
    assert whole.json("trigger") == resumed.json("trigger")
    tables = [pd.read_parquet(one.artifact("samples/triggers.parquet")) for one in (whole, resumed)]
    pd.testing.assert_frame_equal(*tables)
    for restart in range(2):
        curves = [
            [
                (p.step, p.value)
                for p in store.client.get_metric_history(run.run_id, f"uat/restart_{restart}/loss")
            ]
            for run in (whole, resumed)
        ]
        assert curves[0] == curves[1]
    assert not list(folder.glob("*"))
