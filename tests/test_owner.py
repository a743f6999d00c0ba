"""Whether the process behind a RUNNING run still lives: by evidence, on this machine and others."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
from mlflow.tracking import MlflowClient
from test_runs import finish, only, start, started
from toy import TOY, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.answering.settling import Second, refuse_second
from papertrail.core.answering.standing import standing
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import heartbeat
from papertrail.core.writing.heartbeat import BEAT
from papertrail.core.writing.owner import Owner

IDENTITY = identify(TOY, ToyConfig())
HOUR, DAY = 3600.0, 86_400.0


@pytest.fixture
def store(store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PAPERTRAIL_HEARTBEAT_SECONDS", "0.5")
    return connect()


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does nothing and is no child that anybody waits for, until the test ends."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def owner_of(process: "subprocess.Popen[bytes]") -> Owner:
    from papertrail.core.writing.owner import _start

    return replace(Owner.current(), pid=process.pid, started=_start(process.pid))


def test_a_living_process_is_alive_and_a_dead_one_is_not(sleeper: "subprocess.Popen[bytes]"):
    owner = owner_of(sleeper)
    assert owner.alive() is True
    sleeper.kill()
    sleeper.wait()
    assert owner.alive() is False


def test_a_process_that_died_unnoticed_by_its_parent_is_dead(sleeper: "subprocess.Popen[bytes]"):
    owner = owner_of(sleeper)
    sleeper.kill()
    while owner.alive():
        time.sleep(0.01)
    assert sleeper.returncode is None  # nobody asked for it: its entry is still there


def test_a_process_id_that_is_used_again_is_another_process(sleeper: "subprocess.Popen[bytes]"):
    owner = owner_of(sleeper)
    assert replace(owner, started=owner.started - 60).alive() is False


def test_before_a_reboot_no_process_of_now_was_alive():
    assert replace(Owner.current(), boot="before", machine="m").alive() is None
    if Owner.current().machine:
        assert replace(Owner.current(), boot="before").alive() is False


@pytest.mark.parametrize("change", [{"host": "elsewhere"}, {"machine": "a twin"}])
def test_of_another_machine_nothing_is_known(change: dict[str, str]):
    assert replace(Owner.current(), **change).alive() is None


def test_pid_1_of_a_container_is_not_pid_1_of_another():
    assert replace(Owner.current(), pid=1, namespace="pid:[1]").alive() is None


def test_an_owner_survives_its_tag_and_names_its_job(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    owner = Owner.current()
    assert Owner.parse(str(owner)) == owner
    assert owner.name.endswith("SLURM job 4711")


def test_an_owner_that_was_noted_before_these_fields_were_is_still_read():
    old = {"host": "h", "boot": "b", "pid": 1, "started": 1.0}
    assert Owner.parse(json.dumps(old)).alive() is None


def elsewhere(store: Store, run_id: str) -> None:
    """Have the run belong to a machine of which this one knows nothing."""
    owner = Owner.parse(store.client.get_run(run_id).data.tags["papertrail.owner"])
    store.client.set_tag(run_id, "papertrail.owner", str(replace(owner, host="elsewhere")))


def test_a_run_of_another_machine_is_waited_for_and_read(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    process = start("--do=slow", PAPERTRAIL_WORK=str(store.work.parent / "theirs"))
    run_id = started(process)
    elsewhere(store, run_id)
    assert standing(TOY, ToyConfig(do="slow")).state == "running"
    record = require(TOY, ToyConfig(do="slow"))
    assert record.run_id == run_id and record.metrics["size"] == 3
    assert f"run {run_id} is being computed by process" in capsys.readouterr().err
    assert finish(process)[0] == 0


def test_a_run_of_another_machine_that_falls_silent_is_buried_and_computed_again(
    store: Store, client: MlflowClient
):
    process = start("--do=wait", PAPERTRAIL_WORK=str(store.work.parent / "theirs"))
    run_id = started(process)
    elsewhere(store, run_id)
    process.send_signal(signal.SIGKILL)
    finish(process)
    found = standing(TOY, ToyConfig(do="wait"))
    assert found.state == "running"  # no evidence yet
    thread = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))  # it waits 60 s itself
    begin = time.monotonic()
    thread.start()
    with pytest.raises(BaseException, match="SIGINT"):
        require(TOY, ToyConfig(do="wait"))
    assert time.monotonic() - begin < 30
    dead = query.by_id(run_id)
    assert dead.status == "KILLED"
    assert "gave no sign of life any more" in dead.tags["papertrail.failure"]
    assert len(only(client)) == 2


def begun(store: Store, start: int) -> str:
    """Id of a run of a machine elsewhere, of the toy's question, begun at a millisecond."""
    owner = replace(Owner.current(), host="elsewhere")
    tags = {"papertrail.identity": IDENTITY.digest, "papertrail.owner": str(owner)}
    return str(store.client.create_run("0", start_time=start, tags=tags).info.run_id)


@pytest.mark.parametrize(
    ("ours", "theirs", "they_give_way", "second"),
    [(2, 1, False, True), (1, 2, True, False), (1, 2, False, True)],
    ids=["we began later", "they saw us", "they looked before we could be seen"],
)
def test_of_two_machines_that_both_began_exactly_one_goes_on(
    store: Store, ours: int, theirs: int, they_give_way: bool, second: bool
):
    active = SimpleNamespace(run_id=begun(store, ours), identity=IDENTITY, store=store)
    other = begun(store, theirs)
    if they_give_way:
        threading.Timer(0.3, store.client.set_terminated, (other, "KILLED")).start()
    with pytest.raises(Second, match=other) if second else nullcontext():
        refuse_second(active)


@contextmanager
def beats_with_a_clock_off_by(seconds: float, store: Store, run_id: str) -> Iterator[None]:
    """A machine whose clock is wrong keeps the run alive."""
    over = threading.Event()

    def keep() -> None:
        number = 0
        while not over.wait(0.1):
            number += 1
            store.client.set_tag(run_id, BEAT, f"{number} {time.time() + seconds:.0f} 0.2")

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("skew", [-HOUR, HOUR])
def test_a_clock_that_is_an_hour_off_neither_kills_nor_revives(store: Store, skew: float):
    run_id = store.client.create_run("0").info.run_id
    store.client.set_tag(run_id, BEAT, f"0 {time.time() + skew:.0f} 0.2")
    with beats_with_a_clock_off_by(skew, store, run_id):
        assert heartbeat.silent(store, run_id) is False
    assert heartbeat.silent(store, run_id) is True


@pytest.mark.parametrize("days", [2.001, 3.0, 30.0])
def test_a_heartbeat_of_days_ago_is_silence_at_once(store: Store, days: float):
    run_id = store.client.create_run("0").info.run_id
    store.client.set_tag(run_id, BEAT, f"7 {time.time() - days * DAY:.0f} 3600")
    begin = time.monotonic()
    assert heartbeat.silent(store, run_id) is True
    assert time.monotonic() - begin < 5


def test_a_late_heartbeat_counts(store: Store):
    run_id = store.client.create_run("0").info.run_id
    store.client.set_tag(run_id, BEAT, f"0 {time.time():.0f} 1")
    threading.Timer(2.0, store.client.set_tag, (run_id, BEAT, f"1 {time.time():.0f} 1")).start()
    assert heartbeat.silent(store, run_id) is False


def test_a_run_without_a_heartbeat_is_never_declared_dead_from_afar(store: Store):
    assert heartbeat.silent(store, store.client.create_run("0").info.run_id) is False
