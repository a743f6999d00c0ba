"""The arms of `train` as real runs at smoke scale: what each logs, exports, does when killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from forked import Popen
from safetensors.torch import load_file
from tiny import tiny

from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.monotone.arms import arm
from papertrail.monotone.config import PRETRAIN, TRAIN
from papertrail.monotone.schemas import PretrainConfig, TrainConfig
from papertrail.nn import loading
from papertrail.nn.activations import CLIPPED, GeluClipped
from papertrail.nn.families import blocks
from papertrail.nn.nonnegative import fraction_crossed, least_effective_weight, signs

NAMES = ("sign_frozen", "abs_init_free", "projected", "gelu_clipped", "baseline_relu")


@pytest.fixture(scope="module")
def store(module_store: Store) -> Store:
    return module_store


@pytest.fixture(scope="module")
def config(smoke: list[str]) -> TrainConfig:
    found = cli.parse(TRAIN, [*smoke, "--train.steps=12", "--pretrain.steps=30"])[0]
    assert isinstance(found, TrainConfig)
    return found


@pytest.fixture(scope="module")
def pretrained(store: Store, config: TrainConfig) -> Any:
    sections = ("data", "model", "pretrain", "seed", "compute")
    narrowed = PretrainConfig(**{name: getattr(config, name) for name in sections})
    return loading.load(require(PRETRAIN, narrowed).artifact("model"))[0]


@pytest.fixture(scope="module")
def records(store: Store, config: TrainConfig) -> dict[str, Record]:
    asked = {name: replace(config, constraint=arm(name, config.constraint)) for name in NAMES}
    return {name: require(TRAIN, one) for name, one in asked.items()}


def loaded(record: Record) -> Any:
    return loading.load(record.artifact("model"))[0]


def test_sign_frozen_exports_every_weight_with_the_sign_that_pretraining_gave_it(
    records: dict[str, Record], pretrained: Any
):
    record = records["sign_frozen"]
    before = signs(pretrained, "mlp_both")
    assert fraction_crossed(loaded(record), "mlp_both", before) == 0
    assert record.metrics["train/fraction_crossed"] == 0
    assert record.metrics["train/least_effective_weight"] < 0
    assert record.metrics["conversion/relative_change"] < 1e-6
    assert gates(record) == {"signs_kept": 1.0}


def test_projected_exports_no_negative_weight_and_free_many(
    records: dict[str, Record], pretrained: Any
):
    held, free = records["projected"], records["abs_init_free"]
    assert least_effective_weight(loaded(held), "mlp_both") == 0
    assert gates(held) == {"non_negative": 1.0}
    assert least_effective_weight(loaded(free), "mlp_both") < 0
    assert gates(free) == {}
    before = signs(pretrained, "mlp_both")
    crossed = fraction_crossed(loaded(free), "mlp_both", before)
    assert free.metrics["train/fraction_crossed"] == pytest.approx(crossed)
    same = ("conversion/relative_change", "conversion/fraction_negative")
    assert all(held.metrics[key] == free.metrics[key] > 0.4 for key in same)


def test_an_exported_activation_is_the_one_that_was_trained_with(records: dict[str, Record]):
    clipped = loaded(records["gelu_clipped"])
    assert clipped.config.hidden_act == CLIPPED
    assert all(isinstance(block.mlp.act, GeluClipped) for block in blocks(clipped))
    assert least_effective_weight(clipped, "mlp_both") > 0
    assert loaded(records["baseline_relu"]).config.hidden_act == "relu"
    assert not any(key.startswith("conversion/") for key in records["baseline_relu"].metrics)


def test_each_arm_says_what_it_is(records: dict[str, Record]):
    notes = {name: record.tags["mlflow.note.content"] for name, record in records.items()}
    assert len(set(notes.values())) == len(NAMES)
    assert "keeps the sign it had" in notes["sign_frozen"]
    assert "held by nothing, started from abs" in notes["abs_init_free"]
    assert "max(W, 0) after every step" in notes["projected"]
    assert "layers: gelu_clipped.\n" in notes["gelu_clipped"]
    assert notes["baseline_relu"].startswith("The baseline: nano continued for 12 steps.")


def test_projected_training_that_was_killed_ends_as_if_it_had_not_been(
    store: Store, config: TrainConfig, records: dict[str, Record]
):
    longer = replace(
        config,
        constraint=arm("projected", config.constraint),
        train=replace(config.train, steps=50),
        compute=replace(config.compute, checkpoint_seconds=1e-9),
    )
    words = [sys.executable, str(ROOT / "entrypoints" / "train.py"), *cli.arguments(longer)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    there = store.folder(identify(TRAIN, longer).digest) / "checkpoints"
    while not any(int(path.stem[5:]) >= 5 for path in there.glob("step-*.ckpt")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert max(int(path.stem[5:]) for path in there.glob("step-*.ckpt")) < 50
    resumed = require(TRAIN, longer)
    whole = require(TRAIN, longer, "force")
    assert resumed.run_id != whole.run_id
    theirs = weights(whole)
    for name, tensor in weights(resumed).items():
        assert torch.equal(tensor, theirs[name]), name


def weights(record: Record) -> dict[str, torch.Tensor]:
    return load_file(query.by_id(record.run_id).artifact("model/model.safetensors"))


def gates(record: Record) -> dict[str, float]:
    found = record.metrics.items()
    return {key.removeprefix("gate/"): value for key, value in found if key.startswith("gate/")}


@pytest.mark.parametrize(("name", "scope"), [("gpt2", "mlp_both"), ("llama", "gated_all")])
def test_another_architecture_from_a_local_folder_is_trained_with_its_matrices_held(
    store: Store, config: TrainConfig, records: dict[str, Record], tmp_path: Path, name, scope
):
    tokenizer = loading.load(records["projected"].artifact("model"))[1]
    model = tiny(name, vocab_size=len(tokenizer), **LONGER[name])
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    asked = replace(
        config,
        model=replace(config.model, name=str(tmp_path / "model")),
        constraint=replace(config.constraint, scope=scope, activation="gelu_clipped"),
    )
    record = require(TRAIN, asked)
    trained = loaded(record)
    assert trained.config.model_type == name
    assert least_effective_weight(trained, scope) > 0
    assert gates(record) == {"non_negative": 1.0}
    assert record.metrics["val/loss"] < 0.99 * first_loss(record, store)


LONGER = {"gpt2": {"n_positions": 128}, "llama": {"max_position_embeddings": 128}}


def first_loss(record: Record, store: Store) -> float:
    history = store.client.get_metric_history(record.run_id, "val/loss")
    return min(history, key=lambda point: point.step).value
