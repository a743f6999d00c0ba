"""Several devices share a batch and give what one device gives: real processes over gloo."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT
from forked import Popen
from ranked import waits
from torch import distributed, nn

from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.experiment import narrow
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.storage.store import Store
from papertrail.core.training import ranks
from papertrail.core.training.keeper import checkpoints, step_of
from papertrail.core.training.ranks import Place, together
from papertrail.data.config import CORPUS, CorpusConfig
from papertrail.monotone.config import PRETRAIN, TRAIN
from papertrail.monotone.schemas import PretrainConfig, TrainConfig
from papertrail.nn.nonnegative import NonNegative

STEPS = 12
LONG = 40


@pytest.fixture
def config(smoke: list[str]) -> TrainConfig:
    argv = [*smoke, f"--train.steps={STEPS}", "--pretrain.steps=10", "--compute.accumulate=2"]
    found = cli.parse(TRAIN, argv)[0]
    assert isinstance(found, TrainConfig)
    return found


def on(config: TrainConfig, **compute: Any) -> TrainConfig:
    return replace(config, compute=replace(config.compute, accelerator="cpu", **compute))


def curve(run_id: str, store: Store, key: str = "train/loss") -> list[tuple[int, float]]:
    history = store.client.get_metric_history(run_id, key)
    return sorted((point.step, point.value) for point in history)


def weights(run_id: str) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(query.by_id(run_id).artifact("model/model.safetensors"))


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_devices_give_the_curve_and_the_weights_of_one(
    store: Store, config: TrainConfig, strategy: str
):
    alone = require(TRAIN, on(config))
    shared = require(TRAIN, on(config, devices=2, strategy=strategy), "force")
    assert shared.run_id != alone.run_id
    for key in ("train/loss", "val/loss", "train/lr"):
        ours, theirs = curve(shared.run_id, store, key), curve(alone.run_id, store, key)
        assert [step for step, _ in ours] == [step for step, _ in theirs]
        assert [value for _, value in ours] == pytest.approx([v for _, v in theirs], rel=1e-5)
    found = weights(shared.run_id)
    for name, tensor in weights(alone.run_id).items():
        if name.endswith("query_key_value.bias"):
            continue  # no loss depends on a bias of keys: its gradient is rounding alone
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)


def shared(config: TrainConfig, strategy: str) -> PretrainConfig:
    """Training from scratch on two devices, with a checkpoint after every step."""
    one = narrow(config, PretrainConfig, pretrain=replace(config.pretrain, steps=LONG))
    compute = replace(
        config.compute, accelerator="cpu", devices=2, strategy=strategy, checkpoint_seconds=1e-9
    )
    return replace(one, compute=compute)


@pytest.fixture
def begun(store: Store, config: TrainConfig, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A process that trains on two devices, somewhere in the middle, and its other rank."""
    wanted = shared(config, getattr(request, "param", "ddp"))
    require(CORPUS, CorpusConfig(data=config.data))
    words = [sys.executable, str(ROOT / "entrypoints" / "pretrain.py"), *cli.arguments(wanted)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    process = Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    folder = store.folder(identify(PRETRAIN, wanted).digest) / "checkpoints"
    try:
        while not any(step_of(path) >= 3 for path in checkpoints(folder)):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        (other,) = ranks_of(process.pid)
        yield wanted, process, other, folder
    finally:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def ranks_of(pid: int) -> list[psutil.Process]:
    """The other ranks of a process, which may have other children as well."""
    return [one for one in psutil.Process(pid).children() if "follow" in one.cmdline()[-1]]


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended, and been waited for, within some seconds."""
    try:
        process.wait(20)
    except psutil.TimeoutExpired:
        return False
    return not psutil.pid_exists(process.pid)


@pytest.mark.parametrize("begun", ["ddp", "fsdp"], indirect=True)
def test_a_training_on_two_devices_that_was_stopped_ends_as_if_it_had_not_been(
    store: Store, begun: Any
):
    wanted, process, other, folder = begun
    for each in (other, process):  # as a batch system or `timeout` does: all of them
        each.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 1
    assert gone(other)
    assert standing(PRETRAIN, wanted).why.endswith("it is KILLED (stopped by SIGTERM)")
    assert 3 <= step_of(checkpoints(folder)[0]) < LONG
    calm = on(wanted, checkpoint_seconds=60.0)  # only who is killed needs one after every step
    resumed = require(PRETRAIN, calm)
    whole = require(PRETRAIN, calm, "force")
    assert curve(resumed.run_id, store) == curve(whole.run_id, store)
    found = weights(whole.run_id)
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights(resumed.run_id).items())


def test_no_rank_outlives_the_process_that_holds_the_run():
    code = (
        "from papertrail.core.training.ranks import together; from ranked import waits\n"
        "with together(waits, 2, 'cpu'): print('both are there', flush=True); input()"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout and process.stdout.readline() == "both are there\n"
        (other,) = ranks_of(process.pid)
        process.kill()
    assert gone(other)


def test_a_rank_that_was_killed_is_told_with_what_ended_it():
    with (
        pytest.raises(RuntimeError, match="rank 1 of 2 was ended by SIGKILL"),
        together(waits, 2, "cpu") as place,
    ):
        (other,) = ranks_of(os.getpid())
        other.kill()
        waits(place)


def fails(place: Place) -> None:
    """Work at which rank 1 fails while rank 0 waits for it."""
    if place.rank == 1:
        raise ValueError("no room left")
    distributed.barrier()


def test_the_error_of_another_rank_is_told_and_nothing_stays_behind():
    before = psutil.Process().children()
    with (
        pytest.raises(RuntimeError, match="rank 1 of 2 failed: ValueError: no room left"),
        together(fails, 2, "cpu") as place,
    ):
        fails(place)
    assert psutil.Process().children() == before
    assert not distributed.is_initialized()


class Unreadable:
    """Arrives as an error."""

    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)


def test_a_rank_that_does_not_come_up_is_told():
    work = partial(print, Unreadable())
    with (
        pytest.raises(RuntimeError, match="rank 1 of 2 failed: ZeroDivisionError"),
        together(work, 2, "cpu"),
    ):
        raise AssertionError("rank 1 is not there")


def test_an_error_of_rank_0_is_its_own():
    with pytest.raises(KeyError, match="mine"), together(waits, 2, "cpu"):
        raise KeyError("mine")


def test_a_constrained_layer_arrives_with_the_same_bits_and_independent():
    layer = nn.Linear(7, 5)
    nn.utils.parametrize.register_parametrization(layer, "weight", NonNegative("abs"))
    twin = ranks.copied(layer)
    assert torch.equal(twin.weight, layer.weight)
    assert {name for name, _ in twin.named_parameters()} == {
        name for name, _ in layer.named_parameters()
    }
    nn.utils.parametrize.remove_parametrizations(twin, "weight")
    assert nn.utils.parametrize.is_parametrized(layer, "weight")
    with torch.no_grad():
        twin.weight.zero_()
    assert layer.weight.min() > 0
    assert layer(torch.ones(7)).isfinite().all()


def test_a_mapped_corpus_travels_by_name(tmp_path: Path):
    ids = np.memmap(tmp_path / "ids", dtype="<u2", mode="w+", shape=100_000)
    ids[:] = np.arange(100_000) % 60_000
    ids.flush()
    holder = nn.Module()
    holder.ids = np.memmap(tmp_path / "ids", dtype="<u2", mode="r")
    arrived = ranks.copied(holder).ids
    assert isinstance(arrived, np.memmap) and arrived.filename == holder.ids.filename
    assert np.array_equal(arrived, ids)


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"devices": 3}, "compute.devices: must divide the 4 rows of a micro-batch (3)"),
        ({"strategy": "fsdp"}, "compute.strategy: fsdp wants several devices (1)"),
    ],
)
def test_what_cannot_be_shared_is_refused(
    store: Store, config: TrainConfig, compute: dict[str, Any], said: str
):
    one = on(config, **compute)
    with pytest.raises(BadInput) as refused:
        require(PRETRAIN, narrow(one, PretrainConfig))
    assert str(refused.value).startswith(said)


def test_where_it_is_computed_is_no_part_of_the_question(config: TrainConfig):
    asked = identify(TRAIN, config)
    for compute in ({"devices": 2}, {"devices": 2, "strategy": "fsdp"}):
        assert identify(TRAIN, on(config, **compute)) == asked
