"""What a run has to send is on disk, whole and in order, whoever is killed when."""

import json
import math
import os
import signal
import threading
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import postgres
import pytest
from conftest import ROOT
from crowd import Crowd
from mlflow.tracking import MlflowClient
from toy import TOY, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.errors import Missing, in_a_line
from papertrail.core.question.cli import launch
from papertrail.core.question.identity import identify
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import sending, spool
from papertrail.core.writing.run import Run
from papertrail.core.writing.spool import Busy, Spool
from papertrail.records.commands import SYNC

NUMBERS = [1.0, 0.1 + 0.2, 1e-300, -0.0, math.nan, math.inf, 5e-324, 1.7e308]


def points(client: MlflowClient, run_id: str, key: str) -> list[tuple[int, float]]:
    return sorted((p.step, p.value) for p in client.get_metric_history(run_id, key))


def bodies(one: Spool) -> list[Any]:
    return [record.body for record in one.records()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return spool.folder_of(tmp_path, "0" * 20, "1" * 32)


def test_what_a_crash_cut_off_is_left_out_and_the_rest_is_read_as_it_was(folder: Path):
    one = Spool(folder)
    for step, number in enumerate(NUMBERS):
        one.append("metrics", [0, step, {"x": number}])
    one.close()
    whole = (folder / "log").read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(len(whole) - len(lines[-1]), len(whole)):
        (folder / "log").write_bytes(whole[:cut])
        one = Spool(folder)
        found = [body[2]["x"] for body in bodies(one)]
        assert json.dumps(found) == json.dumps(NUMBERS[:-1])
        one.append("tags", {"after": "it"})
        assert bodies(one)[-1] == {"after": "it"} and len(bodies(one)) == len(NUMBERS)
        one.close()


def test_a_log_that_is_spoiled_before_its_end_is_refused_with_the_byte(folder: Path):
    one = Spool(folder)
    for step in range(3):
        one.append("metrics", [0, step, {"x": 1.0}])
    one.close()
    log = folder / "log"
    first, second, third = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + second.replace(b"1.0", b"2.0") + third)
    with pytest.raises(Missing, match=f"spoiled at byte {len(first)};"):
        Spool(folder)


def test_what_was_confirmed_is_not_sent_again_after_a_crash(folder: Path):
    one = Spool(folder)
    for step in range(3):
        one.append("metrics", [0, step, {"x": 1.0}])
    one.acknowledge(list(one.records())[1])
    one.close()
    again = Spool(folder)
    assert [body[1] for body in bodies(again)] == [2]
    again.close()


def test_one_process_holds_a_spool_and_a_forked_child_does_not(folder: Path):
    one = Spool(folder)
    with pytest.raises(Busy):
        Spool(folder)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, b"here")
        signal.pause()
    os.read(reader, 4)
    one.close()
    try:
        Spool(folder).close()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def spooled(store: Store, run_id: str) -> Spool:
    """A spool as a killed process leaves it, of 1,500 steps with two points each, and tags."""
    one = Spool(spool.folder_of(store.work, "0" * 20, run_id))
    for step in range(1500):
        values = {"x": NUMBERS[step % len(NUMBERS)], "loss": step / 7}
        one.append("metrics", [1_000_000 + step, step, values])
    one.append("tags", {"a": "first"})
    one.append("tags", {"a": "second", "b": "other"})
    return one


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(
    request: pytest.FixtureRequest, store: Store, tmp_path: Path,
) -> "Any":  # fmt: skip
    if request.param == "sqlite":
        yield store
        return
    if reason := postgres.absent():
        pytest.skip(reason)
    with postgres.server() as uri:
        yield connect(uri, tmp_path / "work")


def test_a_batch_that_was_sent_but_not_acknowledged_doubles_no_point(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
):
    run_id = any_store.client.create_run("0").info.run_id
    one = spooled(any_store, run_id)
    send, tries = MlflowClient.log_batch, []

    def lost(self: MlflowClient, *words: Any, **named: Any) -> None:
        """Each batch arrives; of every other the answer is lost."""
        send(self, *words, **named)
        tries.append(len(named["metrics"]))
        if len(tries) % 2:
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowClient, "log_batch", lost)
    while one.waits:
        try:
            sending.Sender(one, run_id, any_store).empty()
        except ConnectionError:
            continue
    assert len(tries) == 8 and max(tries) > 900
    found = points(any_store.client, run_id, "loss")
    assert found == [(step, step / 7) for step in range(1500)]
    assert len(any_store.client.get_metric_history(run_id, "x")) == 1500
    run = any_store.client.get_run(run_id)
    assert run.data.tags["a"] == "second" and run.data.metrics["loss"] == 1499 / 7
    one.remove()
    one.close()


def test_a_killed_runs_metrics_are_in_the_store_before_the_next_one_computes(
    people: Crowd, client: MlflowClient
):
    member = people.starts("--do=log and die")
    assert member.ended() == -signal.SIGKILL
    dead = member.started_once()
    assert "last" not in client.get_run(dead).data.metrics
    assert people.starts("--do=log and die").ended() == -signal.SIGKILL
    assert client.get_run(dead).data.metrics["last"] == 99
    assert points(client, dead, "last") == [(step, float(step)) for step in range(100)]


def test_a_local_run_leaves_no_spool_and_starts_no_sender(store: Store, capsys: Any):
    before = {thread.name for thread in threading.enumerate()}
    require(TOY, ToyConfig())
    assert not spool.left(store.work) and "sender" not in before
    assert "sender" not in {thread.name for thread in threading.enumerate()}
    assert capsys.readouterr().err == ""


@dataclass(frozen=True)
class Told:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str


def sync(*words: str) -> Told:
    """Type it, in this process: one import of mlflow less."""
    out, err, code = StringIO(), StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            launch(SYNC, list(words))
        except SystemExit as end:
            code = int(end.code or 0)
    return Told(code, out.getvalue(), err.getvalue())


def test_sync_says_what_waits_sends_it_and_leaves_alone_who_lives(
    store: Store, people: Crowd, client: MlflowClient
):
    writer = people.starts("--do=log and wait")
    writer.until("logged")
    member = people.starts("--do=log and die")
    member.ended()
    dead = member.started_once()
    told = sync("--plan=true")
    assert told.returncode == 0 and told.stdout.count("\nrun ") == 2 and store.uri in told.stdout
    assert "last" not in client.get_run(dead).data.metrics
    sent = sync()
    assert sent.returncode == 1 and "1 of 2 spools still wait" in sent.stderr
    assert f"run {dead}: sent (its process died" in sent.stdout
    assert f"run {writer.started_once()}: waits: a process is at work on it" in sent.stdout
    assert client.get_run(dead).data.metrics["last"] == 99
    writer.kill(signal.SIGTERM)
    assert sync().stdout == "nothing waits\n"


def test_no_password_of_an_address_is_printed():
    error = ConnectionError("no route to postgresql://me:secret@host/x?password=secret&a=b")
    assert "secret" not in in_a_line(error) and "me:***@host" in in_a_line(error)
    assert Store("http://me:secret@host:5000", ROOT).shown == "http://me:***@host:5000"


def test_points_of_before_a_resume_are_not_repeated(store: Store):
    record = require(TOY, ToyConfig())
    run = Run(store, record.run_id, identify(TOY, ToyConfig()), {"loss": 4})
    for step in range(8):
        run.metrics({"loss": float(step)}, step)
    run.flush()
    assert [step for step, _ in points(store.client, record.run_id, "loss")] == [5, 6, 7]
    run.close()
