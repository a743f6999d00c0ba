"""An attack that was stopped goes on as if it had never been: same records, no batch done twice.

Real processes: each is forked from a server that has torch already, and killed at a real moment.
"""

import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from crowd import NEEDED

from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.question import cli
from papertrail.core.question.experiment import Experiment, narrow
from papertrail.core.question.identity import identify
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.monotone.attack import MADE
from papertrail.monotone.config import ATTACK, GCG, PGD, TRAIN
from papertrail.monotone.schemas import TrainConfig

EXPERIMENTS = {one.name: one for one in (ATTACK, GCG, PGD)}
NUM_BATCHES = 6
# Each batch takes long enough to be hit in the middle.
WORDS = {
    "attack": ("--attack.flips=8", "--attack.top_k=200"),
    "gcg": ("--gcg.steps=40", "--gcg.width=16"),
    "pgd": ("--pgd.steps=30",),
}
TIMES = ["seconds"]
"""Columns that measure this machine: equal only where a batch was not computed again."""


@pytest.fixture(scope="module")
def store(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("resume")
    shutil.copy(migrated, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests'}")
        context = multiprocessing.get_context("forkserver")
        ours = ["papertrail.monotone.stronger", "test_attack_resume"]
        context.set_forkserver_preload([*ours, *NEEDED])
        yield connect()


@dataclass
class Attack:
    """One attack of six batches, as people start it."""

    experiment: Experiment
    words: Sequence[str]
    store: Store

    @property
    def config(self) -> Any:
        return cli.parse(self.experiment, self.words)[0]

    @property
    def folder(self) -> Path:
        return self.store.folder(identify(self.experiment, self.config).digest) / "parts"

    def parts(self) -> Mapping[str, bytes]:
        """Finished batches; the time that each took is in its bytes, so no two are alike."""
        return {path.name: path.read_bytes() for path in sorted(self.folder.glob("*.npz"))}

    def stopped(self, at_parts: int, number: signal.Signals) -> int:
        """The exit code of a process that got `number` when so many batches were finished."""
        hit = (self.folder, at_parts, number)
        process = multiprocessing.get_context("forkserver").Process(
            target=_type, args=(self.experiment.name, list(self.words), dict(os.environ), hit)
        )
        process.start()
        process.join(60)
        assert process.exitcode is not None and len(self.parts()) < NUM_BATCHES
        return process.exitcode


Hit = tuple[Path, int, signal.Signals]
"""Folder of the parts, how many of them, and the signal that then comes."""


def _type(name: str, words: list[str], environment: dict[str, str], hit: Hit) -> None:
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_strike, args=hit, daemon=True).start()
    cli.launch(EXPERIMENTS[name], words)


def _strike(folder: Path, at_parts: int, number: signal.Signals) -> None:
    """From within, for a busy machine may leave a process that watches from outside no turn."""
    while len(list(folder.glob("*.npz"))) < at_parts:
        time.sleep(0.001)
    time.sleep(0.05)  # into the midst of the next batch
    os.kill(os.getpid(), number)


@pytest.fixture
def attack(store: Store, smoke: list[str], request: pytest.FixtureRequest) -> Attack:
    """Its model is trained already; every test begins with no run of it."""
    words = [*smoke, *WORDS[request.param], "--attack.batch=1", "--constraint.kind=none"]
    seed = zlib.crc32(request.node.name.encode())  # another question in every test
    found = Attack(EXPERIMENTS[request.param], [*words, f"--attack.seed={seed}"], store)
    require(TRAIN, narrow(found.config, TrainConfig))
    return found


def rows(record: Record) -> pd.DataFrame:
    return pd.read_parquet(record.artifact("samples/attacks.parquet"))


def made(record: Record) -> np.ndarray:
    with np.load(record.artifact(MADE), allow_pickle=False) as found:
        return np.asarray(found["ids"])


def is_as_uninterrupted(resumed: Record, attack: Attack) -> None:
    whole = require(attack.experiment, attack.config, "force")
    assert whole.run_id != resumed.run_id
    pd.testing.assert_frame_equal(
        rows(resumed).drop(columns=TIMES), rows(whole).drop(columns=TIMES), check_exact=True
    )
    if attack.experiment is not PGD:
        assert (made(resumed) == made(whole)).all()
    times = {"attack/seconds"}
    ours, theirs = (
        {k: v for k, v in one.metrics.items() if k.startswith("attack/")}
        for one in (resumed, whole)
    )
    assert ours.keys() == theirs.keys()
    assert all(ours[name] == theirs[name] for name in ours.keys() - times)


def seconds_of(parts: Mapping[str, bytes], folder: Path) -> set[float]:
    found = set()
    for name, content in parts.items():
        (folder / name).write_bytes(content)
        with np.load(folder / name, allow_pickle=False) as arrays:
            found.add(float(arrays["seconds"]))
    return found


@pytest.mark.parametrize("attack", list(EXPERIMENTS), indirect=True)
def test_killed_again_and_again_it_repeats_no_finished_batch(
    attack: Attack, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    finished: Mapping[str, bytes] = {}
    for moment in (1, 3):
        assert attack.stopped(moment, signal.SIGKILL) == -signal.SIGKILL
        now = attack.parts()
        assert len(now) >= moment and finished.items() <= now.items(), "a batch was done again"
        finished = now
    resumed = require(attack.experiment, attack.config)
    assert f"resuming run {resumed.run_id}" in capsys.readouterr().err
    assert seconds_of(finished, tmp_path) <= set(rows(resumed)["seconds"])
    assert rows(resumed)["seconds"].nunique() == NUM_BATCHES
    assert not attack.parts(), "a finished run needs its parts no more"
    is_as_uninterrupted(resumed, attack)


@pytest.mark.parametrize("attack", ["gcg"], indirect=True)
def test_asked_to_stop_it_finishes_its_batch_reads_killed_and_goes_on_in_the_same_run(
    attack: Attack, capsys: pytest.CaptureFixture[str]
):
    assert attack.stopped(2, signal.SIGTERM) == 1
    stands = standing(attack.experiment, attack.config)
    assert stands.why.endswith("it is KILLED (stopped by SIGTERM)")
    assert stands.interrupted is not None
    assert len(attack.parts()) >= 3, "the batch in progress was thrown away"
    resumed = require(attack.experiment, attack.config)
    assert resumed.run_id == stands.interrupted.run_id
    is_as_uninterrupted(resumed, attack)


@pytest.mark.parametrize("attack", ["gcg"], indirect=True)
def test_a_batch_that_the_disk_spoiled_is_done_again(
    attack: Attack, capsys: pytest.CaptureFixture[str]
):
    attack.stopped(3, signal.SIGKILL)
    spoiled = min(attack.folder.glob("*.npz"))
    spoiled.write_bytes(spoiled.read_bytes()[:-40])
    (attack.folder / "unfinished.part").write_bytes(b"half of it")
    resumed = require(attack.experiment, attack.config)
    assert f"{spoiled.name} cannot be read" in capsys.readouterr().err
    is_as_uninterrupted(resumed, attack)
