"""A training that was stopped continues as if it had never been: the loss curves are equal."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from forked import Popen

from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.question import cli
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.storage.store import Store
from papertrail.core.training import keeper
from papertrail.data.config import CORPUS, CorpusConfig
from papertrail.monotone.config import PRETRAIN
from papertrail.monotone.schemas import PretrainConfig

STEPS = 200


@pytest.fixture
def config(smoke: list[str], request: pytest.FixtureRequest) -> PretrainConfig:
    argv = [*smoke, f"--pretrain.steps={STEPS}", "--compute.checkpoint_seconds=1e-9"]
    argv.append(f"--compute.accumulate={getattr(request, 'param', 1)}")
    found = cli.parse(PRETRAIN, argv)[0]
    assert isinstance(found, PretrainConfig)
    return found


def calm(config: PretrainConfig) -> PretrainConfig:
    """The same question without a checkpoint, and a wait for the disk, after every step: only who
    is to be killed needs them."""
    return replace(config, compute=replace(config.compute, checkpoint_seconds=60.0))


def start(config: PretrainConfig) -> "subprocess.Popen[str]":
    words = [sys.executable, str(ROOT / "entrypoints" / "pretrain.py"), *cli.arguments(config)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return Popen(words, env=environment, stderr=subprocess.PIPE, text=True)


def folder(config: PretrainConfig, store: Store) -> Path:
    return store.folder(identify(PRETRAIN, config).digest) / "checkpoints"


def stopped_midway(
    config: PretrainConfig, store: Store, number: signal.Signals
) -> "subprocess.Popen[str]":
    """A training process that got `number` after some, but not all, of its steps."""
    process, there = start(config), folder(config, store)
    while not any(int(path.stem[5:]) >= 20 for path in there.glob("step-*.ckpt")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=60)
    reached = max(int(path.stem[5:]) for path in there.glob("step-*.ckpt"))
    assert 20 <= reached < STEPS, "the training was over before it was stopped: raise STEPS"
    return process


def curve(run_id: str, store: Store) -> list[tuple[int, float]]:
    history = store.client.get_metric_history(run_id, "train/loss")
    return sorted((point.step, point.value) for point in history)


def weights(run_id: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(query.by_id(run_id).artifact("model/model.safetensors"))


def spoil(config: PretrainConfig, store: Store) -> None:
    """Cut the newest checkpoint in half, as a full disk or a power cut does."""
    newest = keeper.checkpoints(folder(config, store))[0]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])


def leave(config: PretrainConfig, store: Store) -> None:
    pass


@pytest.mark.parametrize(
    ("config", "number", "before"),
    [
        (1, signal.SIGKILL, leave),
        (1, signal.SIGTERM, leave),
        (1, signal.SIGKILL, spoil),
        (2, signal.SIGKILL, spoil),  # what accumulates is resumed alike, however it was stopped
    ],
    ids=["kill -9", "SIGTERM", "kill -9 and a spoiled checkpoint", "the same, accumulated batches"],
    indirect=["config"],
)
def test_the_resumed_loss_curve_equals_the_uninterrupted_one(
    store: Store,
    config: PretrainConfig,
    number: signal.Signals,
    before: Callable[[PretrainConfig, Store], None],
    capsys: pytest.CaptureFixture[str],
):
    require(CORPUS, CorpusConfig(data=config.data))
    process = stopped_midway(config, store, number)
    assert process.returncode == (-number if number == signal.SIGKILL else 1)
    if number == signal.SIGTERM:
        assert standing(PRETRAIN, config).why.endswith("it is KILLED (stopped by SIGTERM)")
    before(config, store)
    resumed = require(PRETRAIN, calm(config))
    said = capsys.readouterr().err
    assert f"resuming run {resumed.run_id}" in said
    assert ("cannot be read" in said) == (before is spoil)
    uninterrupted = require(PRETRAIN, calm(config), "force")
    assert uninterrupted.run_id != resumed.run_id
    assert curve(resumed.run_id, store) == curve(uninterrupted.run_id, store)
    assert len(curve(resumed.run_id, store)) == len({s for s, _ in curve(resumed.run_id, store)})
    theirs = weights(uninterrupted.run_id)
    for name, tensor in weights(resumed.run_id).items():
        assert torch.equal(tensor, theirs[name]), name


def open_ended(config: PretrainConfig, steps: int) -> PretrainConfig:
    """A constant learning rate from the first step: no step depends on how many follow."""
    schedule = replace(config.pretrain, steps=steps, decay="none", warmup=0.0)
    return replace(calm(config), pretrain=schedule)


@pytest.mark.parametrize("config", [1, 2], indirect=True, ids=["whole batches", "accumulated"])
def test_a_longer_run_goes_on_from_a_shorter_one_and_ends_where_it_would_have_ended(
    store: Store, config: PretrainConfig, capsys: pytest.CaptureFixture[str]
):
    short = require(PRETRAIN, open_ended(config, 100))
    longer = require(PRETRAIN, open_ended(config, STEPS))
    assert f"going on from step 100 of run {short.run_id}" in capsys.readouterr().err
    assert longer.run_id != short.run_id and longer.tags["papertrail.continues"] == short.run_id
    whole = require(PRETRAIN, open_ended(config, STEPS), "force")
    assert "papertrail.continues" not in whole.tags
    theirs = weights(whole.run_id)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(longer.run_id).items())
    assert curve(longer.run_id, store) == curve(whole.run_id, store)
    assert short.metrics["train/loss"] != longer.metrics["train/loss"]
    assert not query.by_id(short.run_id).unusable()


def test_a_schedule_that_knows_its_end_is_never_continued(store: Store, config: PretrainConfig):
    for steps in (50, 60):
        schedule = replace(config.pretrain, steps=steps)
        record = require(PRETRAIN, replace(config, pretrain=schedule))
        assert "papertrail.continues" not in record.tags


def test_a_finished_training_keeps_its_last_checkpoint_in_the_store_only(
    store: Store, config: PretrainConfig
):
    record = require(PRETRAIN, config)
    state = torch.load(record.artifact("checkpoints/last.ckpt"), weights_only=True)
    assert state["global_step"] == STEPS
    assert {"optimizer_states", "lr_schedulers", "state_dict"} <= set(state)
    assert not list(folder(config, store).glob("*"))
