"""A tracking server that is down, restarts, hangs, is slow or spoils its answers: nothing is lost,
nothing is doubled, and nobody who computes waits for it. A real server, stopped and started.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import postgres
import pytest
import requests
from conftest import ROOT
from crowd import Crowd, Member, crowd
from mlflow.tracking import MlflowClient
from proxy import Proxy, proxy
from test_spool import sync
from toy import TOY, ToyConfig

from papertrail.core import digests
from papertrail.core.answering import standing
from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.question.experiment import Command
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import spool
from papertrail.records.commands import ACCEPT, INVALIDATE, WHY
from papertrail.tables.catalog import find, rendering

DO = "--do=log for a while"
SEEDS = count()
STEPS = 30
"""What such a toy logs, one step each 0.05 s; a metric, and at step 10 a tag, a file, a dataset."""


@dataclass
class Server:
    """`mlflow server` on SQLite, which can be stopped and started where it was."""

    folder: Path
    port: int = field(default_factory=postgres.free_port)
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, wait: bool = True) -> None:
        words = [
            str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1",
            "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            words, env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            start_new_session=True, stdout=quiet, stderr=quiet, cwd=self.folder,
        )  # fmt: skip
        while wait and not self.healthy():
            assert self.process.poll() is None, "the server has ended"
            time.sleep(0.1)

    def stop(self) -> None:
        """At once, as a crash does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def healthy(self) -> bool:
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/health", timeout=1).ok
        except requests.RequestException:
            return False


@pytest.fixture(scope="module")
def server(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(migrated, folder / "mlflow.db")
    found = Server(folder)
    found.start()
    try:
        yield found
    finally:
        found.stop()


@contextmanager
def through(server: Server, monkeypatch: pytest.MonkeyPatch, work: Path) -> Iterator[Proxy]:
    with proxy(server.port) as found:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", found.address)
        monkeypatch.setenv("PAPERTRAIL_WORK", str(work))
        monkeypatch.setenv("PAPERTRAIL_PATIENCE_SECONDS", "30")
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
        yield found


@pytest.fixture
def line(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Proxy]:  # fmt: skip
    """The way to the server, as the environment of everybody names it."""
    if server.process is None:  # a test that stopped it failed
        server.start()
    with through(server, monkeypatch, tmp_path / "work") as found:
        yield found


@pytest.fixture
def folk(line: Proxy) -> Iterator[Crowd]:
    """People who use it."""
    with crowd() as found:
        yield found


@pytest.fixture
def client(server: Server) -> MlflowClient:
    """MLflow's own view, past the proxy."""
    return MlflowClient(f"http://127.0.0.1:{server.port}")


def toy(folk: Crowd, patience: str = "30") -> tuple[str, Member]:
    """Run id of a toy that asks what nobody asked before, and its process."""
    environment = {"PAPERTRAIL_PATIENCE_SECONDS": patience}
    member = folk.starts(DO, f"--seed={next(SEEDS)}", environment=environment)
    return member.started(), member


def arrived(client: MlflowClient, run_id: str) -> None:
    """Whether all that the toy logged is there, once, and whole."""
    history = client.get_metric_history(run_id, "loss")
    assert [(p.step, p.value) for p in history] == [(n, n / 7) for n in range(STEPS)]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED" and run.data.tags["half"] == "way"
    assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["numbers"]
    with TemporaryDirectory() as copies:
        record = Record(Store(client.tracking_uri, Path(copies)), run)
        assert not record.unusable()
        for name in ("results/toy.json", "samples/middle.bin", "identity.json"):
            fact = record.manifest[name]
            assert digests.sha256(record.artifact(name)) == fact["sha256"]


def asked(client: MlflowClient, run_id: str) -> ToyConfig:
    """What the toy was asked."""
    params = client.get_run(run_id).data.params
    return ToyConfig(do=params["cfg.do"], seed=int(params["cfg.seed"]))


def longest_call(member: Member) -> float:
    """Seconds that the slowest `track.metrics` of the toy took."""
    return float(member.until("longest").split()[1])


# -- at the start ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["down", "refusing", "hanging", "unavailable", "postgresql"])
def test_a_server_that_is_away_at_the_start_is_one_line_within_seconds(
    folk: Crowd, line: Proxy, how: str
):
    gone = f"127.0.0.1:{postgres.free_port()}"
    uri = {"down": f"http://me:secret@{gone}", "postgresql": f"postgresql://me:secret@{gone}/x"}
    if how not in uri:
        setattr(line, how, True)
    begin = time.monotonic()
    member = folk.starts(environment={"MLFLOW_TRACKING_URI": uri.get(how, line.address)})
    assert member.ended() == 1
    assert time.monotonic() - begin < 30  # of which most is Python's, on a busy machine
    [said] = member.stderr.splitlines()
    assert said.startswith("toy: tracking store ") and "secret" not in said
    assert "-P tracking=local" in said and "start it" in said


ABSENT = "--run=" + "0" * 32
COMMANDS: Mapping[str, tuple[Command, list[str]]] = {
    "why": (WHY, [ABSENT]),
    "invalidate": (INVALIDATE, [ABSENT, "--reason=wrong"]),
    "accept": (ACCEPT, [ABSENT, "--reason=the same"]),
    "tables": (rendering(find("perplexity_gap")), ["--name=perplexity_gap", "--scale=smoke"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_server_that_goes_away_while_a_command_reads_is_one_line(
    line: Proxy, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PAPERTRAIL_PATIENCE_SECONDS", "0.1")
    connect()
    line.refusing = True
    with pytest.raises(SystemExit) as ended:
        cli.launch(*COMMANDS[name])
    assert ended.value.code == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == f"{COMMANDS[name][0].name}: no connection (store {line.address})"


# -- in the middle ---------------------------------------------------------------------------------


def test_a_server_that_is_killed_and_started_again_loses_and_doubles_nothing(
    folk: Crowd, server: Server, client: MlflowClient
):
    run_id, member = toy(folk)
    member.until("step 5")
    server.stop()
    member.until("step 15")
    server.start(wait=False)
    assert member.ended() == 0, member.stderr
    assert longest_call(member) < 0.5
    arrived(client, run_id)
    waiting = [text for text in member.stderr.splitlines() if "waits on disk" in text]
    assert waiting == [f"run {run_id}: what it logs waits on disk for the store (no connection)"]
    assert "Traceback" not in member.stderr


@pytest.mark.parametrize("how", ["hanging", "unavailable"])
def test_a_server_that_does_not_answer_for_seconds_loses_and_doubles_nothing(
    folk: Crowd, line: Proxy, client: MlflowClient, how: str
):
    run_id, member = toy(folk)
    member.until("step 5")
    setattr(line, how, True)
    member.until("step 25")
    setattr(line, how, False)
    assert member.ended() == 0, member.stderr
    assert longest_call(member) < 0.5
    arrived(client, run_id)


def test_answers_that_are_lost_cut_or_changed_lose_and_double_nothing(
    folk: Crowd, line: Proxy, client: MlflowClient
):
    run_id, member = toy(folk)
    line.spoiling = 0.3
    member.until("longest")
    line.spoiling = 0.0
    assert member.ended() == 0, member.stderr
    assert line.spoiled > 0
    arrived(client, run_id)


def test_a_slow_server_does_not_slow_who_computes(folk: Crowd, line: Proxy, client: MlflowClient):
    line.delay = 0.2
    run_id, member = toy(folk)
    assert longest_call(member) < 0.1
    line.delay = 0.0
    assert member.ended() == 0
    arrived(client, run_id)


# -- at the end ------------------------------------------------------------------------------------


def left_complete(folk: Crowd, line: Proxy) -> tuple[str, Member]:
    """A run whose server did not come back before its patience was over."""
    run_id, member = toy(folk, patience="0.5")
    member.until("step 20")
    line.refusing = True
    assert member.ended() == 1
    line.refusing = False
    return run_id, member


def test_a_run_whose_server_stays_away_is_complete_on_disk_and_sync_delivers_it(
    folk: Crowd, line: Proxy, client: MlflowClient, tmp_path: Path
):
    run_id, member = left_complete(folk, line)
    last = member.stderr.splitlines()[-1]
    assert f"run {run_id} is complete on disk" in last and "-e sync" in last
    assert client.get_run(run_id).info.status == "RUNNING"
    command = [sys.executable, str(ROOT / "entrypoints" / "sync.py")]
    line.delay = 0.05  # time to be killed in
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    [folder] = spool.left(tmp_path / "work")
    before = (folder / "sent").read_bytes()
    while (folder / "sent").read_bytes() == before:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert folder.exists()
    line.delay = 0.0
    done = sync()
    assert done.returncode == 0 and f"run {run_id}: sent (FINISHED)" in done.stdout, done.stderr
    arrived(client, run_id)
    assert not spool.left(tmp_path / "work")


def test_who_asks_again_gets_the_run_that_waited_on_disk(
    folk: Crowd, line: Proxy, client: MlflowClient, capsys: pytest.CaptureFixture[str]
):
    run_id, _ = left_complete(folk, line)
    config = asked(client, run_id)
    assert require(TOY, config, "read_only").run_id == run_id
    assert f"run {run_id} is complete on disk: sending it" in capsys.readouterr().err
    arrived(client, run_id)


def test_a_run_stopped_while_its_server_is_away_is_killed_when_it_is_told(
    folk: Crowd, line: Proxy, client: MlflowClient
):
    run_id, member = toy(folk)
    member.until("step 5")
    line.refusing = True
    begin = time.monotonic()
    assert member.kill(signal.SIGTERM) == 1
    assert time.monotonic() - begin < 10
    assert "sync delivers it" in member.stderr and "Traceback" not in member.stderr
    line.refusing = False
    found = standing.standing(TOY, asked(client, run_id), connect())
    assert found.last and found.last.run_id == run_id and found.usable is None
    assert sync().returncode == 0
    run = client.get_run(run_id)
    assert run.info.status == "KILLED" and "SIGTERM" in run.data.tags["papertrail.failure"]
    assert run.data.metrics["loss"] == pytest.approx(len(client.get_metric_history(
        run_id, "loss")) / 7 - 1 / 7)  # fmt: skip


def limit_files(num_bytes: int) -> None:
    """Have the system refuse to let files grow beyond that, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def test_a_disk_too_full_for_the_spool_fails_the_run_in_one_line(folk: Crowd, client: MlflowClient):
    member = folk.starts("--do=log very much", before=partial(limit_files, 1 << 18))
    assert member.ended() == 1
    print(member.stderr)
    [said] = [line for line in member.stderr.splitlines() if "nothing stands" not in line]
    assert said.startswith("toy: ") and "spool" in said
    assert "No space left" in said or "File too large" in said
    assert client.get_run(member.started_once()).info.status == "FAILED"
