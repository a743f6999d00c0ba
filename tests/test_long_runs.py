"""Training is killed anywhere and gives the same bits; options of the trainer do what they say."""

import os
import random
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

from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.question.experiment import narrow
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.storage.store import Store
from papertrail.core.training.keeper import checkpoints, step_of
from papertrail.monotone.config import PRETRAIN, TRAIN
from papertrail.monotone.models import starting_point
from papertrail.monotone.schemas import PretrainConfig, TrainConfig
from papertrail.nn import loading, nonnegative
from papertrail.nn.scoring import token_nll

STEPS = 60
COUNTING = """
import runpy, sys
from pathlib import Path
from papertrail.nn.language_model import LanguageModel
step, diary, entry = LanguageModel.training_step, Path(sys.argv.pop(1)), sys.argv[1]
def counted(self, *args):
    with diary.open("a") as file:
        file.write(f"{self.trainer.global_step}\\n")
    return step(self, *args)
LanguageModel.training_step = counted
sys.argv.pop(0)
runpy.run_path(entry, run_name="__main__")
"""
"""The entry point of an experiment, with a diary of the optimizer steps that were begun."""


@pytest.fixture
def config(smoke: list[str]) -> TrainConfig:
    argv = [*smoke, f"--train.steps={STEPS}", "--pretrain.steps=10"]
    found = cli.parse(TRAIN, [*argv, "--compute.checkpoint_seconds=0.05"])[0]
    assert isinstance(found, TrainConfig)
    return found


def curve(run_id: str, store: Store, key: str = "train/loss") -> list[tuple[int, float]]:
    history = store.client.get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


def weights(run_id: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(query.by_id(run_id).artifact("model/model.safetensors"))


def begun(diary: Path) -> list[int]:
    return [int(line) for line in diary.read_text().split()] if diary.exists() else []


def start(config: TrainConfig, diary: Path) -> "subprocess.Popen[bytes]":
    entry = str(ROOT / "entrypoints" / "train.py")
    words = [sys.executable, "-c", COUNTING, str(diary), entry, *cli.arguments(config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment)


def killed(config: TrainConfig, diary: Path, folder: Path, moment: str) -> list[int]:
    """The steps that a process began before it was killed, at some point or amid a checkpoint."""
    process = start(config, diary)
    wanted = random.Random(moment).randrange(3, 12)
    while True:
        steps = begun(diary)
        amid = moment == "amid a checkpoint" and len(steps) > 3 and any(folder.glob("*.part"))
        if amid or (moment != "amid a checkpoint" and len(steps) >= wanted):
            break
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.0005 if len(steps) else 0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return begun(diary)


def test_a_training_killed_again_and_again_gives_the_same_bits_and_repeats_nothing_it_kept(
    store: Store, config: TrainConfig, tmp_path: Path
):
    require(PRETRAIN, narrow(config, PretrainConfig))
    folder = store.folder(identify(TRAIN, config).digest) / "checkpoints"
    for moment in ("at random", "amid a checkpoint", "at random again"):
        kept = max((step_of(path) for path in checkpoints(folder)), default=0)
        steps = killed(config, tmp_path / moment, folder, moment)
        assert steps == list(range(kept, kept + len(steps)))
    kept = max(step_of(path) for path in checkpoints(folder))
    last = start(config, tmp_path / "last")
    assert last.wait() == 0
    assert begun(tmp_path / "last") == list(range(kept, STEPS)) and kept > 0
    resumed = require(TRAIN, config, "read_only")
    whole = require(TRAIN, config, "force")
    assert whole.run_id != resumed.run_id
    for key in ("train/loss", "val/loss"):
        assert curve(resumed.run_id, store, key) == curve(whole.run_id, store, key)
    found = weights(whole.run_id)
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(resumed.run_id).items())


def with_(config: TrainConfig, **compute: Any) -> TrainConfig:
    schedule = replace(config.train, steps=10)
    return replace(config, train=schedule, compute=replace(config.compute, **compute))


def test_recomputed_activations_give_the_same_losses(store: Store, config: TrainConfig):
    kept = require(TRAIN, with_(config))
    recomputed = require(TRAIN, with_(config, gradient_checkpointing=True), "force")
    assert recomputed.run_id != kept.run_id
    assert curve(recomputed.run_id, store) == curve(kept.run_id, store)
    assert curve(recomputed.run_id, store, "val/loss") == curve(kept.run_id, store, "val/loss")


def test_under_bfloat16_autocast_the_master_weights_are_float32_and_v_moves(
    store: Store, config: TrainConfig
):
    one = with_(config, precision="bf16-mixed")
    record = require(TRAIN, one)
    state = torch.load(record.artifact("checkpoints/last.ckpt"), weights_only=True)
    weights = state["state_dict"]
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {
        torch.float32
    }
    model = starting_point(one)
    nonnegative.constrain(model, one.constraint.scope, one.constraint.init)
    for name, before in nonnegative.free_parameters(model).items():
        assert (weights[f"model.{name}"] != before).float().mean() > 0.99, name
    full = require(TRAIN, with_(config))
    losses, others = curve(record.run_id, store), curve(full.run_id, store)
    assert losses != others  # autocast was at work
    assert [v for _, v in losses] == pytest.approx([v for _, v in others], rel=0.02)


def test_the_best_weights_are_those_of_the_lowest_validation_loss(
    store: Store, config: TrainConfig
):
    # Far too large a step: the loss rises again after the first validations.
    wild = replace(config.train, lr=0.3, warmup=0.0)
    one = with_(replace(config, train=wild), weights="best")
    one = replace(one, train=replace(wild, steps=40))
    record = require(TRAIN, one)
    losses = curve(record.run_id, store, "val/loss")
    least = min(value for _, value in losses)
    assert least < losses[-1][1]
    assert record.metrics["train/best_loss"] == least
    model, _ = loading.load(record.artifact("model"))
    windows = open_corpus_windows(one)
    scored = torch.ones_like(windows, dtype=torch.bool)
    scored[:, 0] = False
    with torch.no_grad():
        found = float(token_nll(model, windows, scored).double().mean())
    assert found == pytest.approx(least, rel=1e-5)
    assert identify(TRAIN, one) != identify(TRAIN, with_(one, weights="last"))


def open_corpus_windows(config: TrainConfig) -> torch.Tensor:
    from papertrail.data.config import CORPUS
    from papertrail.data.windows import Corpus
    from papertrail.monotone.config import corpus_config

    corpus = Corpus.open(require(CORPUS, corpus_config(config)).artifact("corpus"))
    return corpus.validation_windows("val", config.train.window, config.train.validation_windows)
