"""`make server`: one command, real PostgreSQL and S3, and nothing acknowledged is ever lost."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import servers
from mlflow.tracking import MlflowClient
from servers import Started, until
from toy import TOY

from papertrail.core.errors import BadInput, Missing
from papertrail.core.question.cli import launch, parse
from papertrail.core.reading import query
from papertrail.core.storage.store import connect
from papertrail.server import parts, postgres, secrets, tracking
from papertrail.server.config import SERVER, Database, Server
from papertrail.server.parts import Part
from papertrail.server.supervise import Supervisor, supervised

real = pytest.mark.skipif(bool(servers.absent()), reason=servers.absent())


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    with servers.server() as found:
        yield found


@pytest.fixture
def client(started: Started, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.address)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return MlflowClient(started.address)


def post(started: Started, **options: object) -> requests.Response:
    address = f"{started.address}/api/2.0/mlflow/experiments/search"
    return requests.post(address, json={"max_results": 1}, timeout=60, **options)  # type: ignore[arg-type]


# -- as people use it ------------------------------------------------------------------------------


@real
def test_it_says_how_to_become_its_client(started: Started):
    assert f"export MLFLOW_TRACKING_URI={started.address}\n" in started.said
    sourced = f". {started.folder}/server/client.sh; echo $MLFLOW_TRACKING_URI"
    told = subprocess.run(["sh", "-c", sourced], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == started.address


@real
def test_a_run_goes_through_it_and_its_artifacts_lie_in_s3(
    started: Started,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    """Nobody asks for a password yet, and yet none that stands in the address is shown."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.address.replace("://", "://me:a-Password@"))
    monkeypatch.setenv("PAPERTRAIL_WORK", str(tmp_path))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    launch(TOY, ["--seed=1"])
    said = capfd.readouterr()
    run_id = re.findall(r"^run (\w+)  http://127", said.out, re.M)[0]
    launch(TOY, ["--seed=1"])
    assert f"run {run_id}" in capfd.readouterr().out
    record = query.by_id(run_id, connect())
    assert record.metrics["size"] == 3 and record.json("toy") == {"text": ""}
    kept = f"{said} {record.tags} {record.config} {record.artifact('config.yaml').read_text()}"
    assert "a-Password" not in kept
    names = {name.partition(f"/{run_id}/artifacts/")[2] for name in started.objects("artifacts/")}
    assert {"results/toy.json", "manifest.json"} <= names


@real
def test_a_request_by_another_name_or_from_a_foreign_page_is_refused(started: Started):
    assert post(started).status_code == 200
    assert post(started, headers={"Host": "evil.example"}).status_code == 403
    assert post(started, headers={"Origin": "http://evil.example"}).status_code == 403


@real
def test_no_secret_stands_on_a_command_line_or_in_a_log(started: Started):
    words = [" ".join(one.info["cmdline"] or ()) for one in psutil.process_iter(["cmdline"])]
    logs = [path.read_text() for path in (started.folder / "server/logs").iterdir()]
    assert any("--artifacts-destination" in line for line in words) and len(logs) == 3
    hidden = {key: text for key, text in started.secrets.items() if key != secrets.KEY}
    for text in hidden.values():  # the name of a key is no secret
        assert not [line for line in (*words, *logs, started.said) if text in line]
    for name in ("secrets.json", "client.sh"):
        assert stat.S_IMODE((started.folder / "server" / name).stat().st_mode) == 0o600


@real
@pytest.mark.parametrize("part", ["postgres", "storage"])
def test_what_was_acknowledged_survives_the_death_of(
    part: str, started: Started, client: MlflowClient
):
    run_id = client.create_run("0").info.run_id
    client.log_metric(run_id, "loss", 0.25)
    client.log_text(run_id, "kept", "a/b.txt")
    started.kill(part)
    assert client.get_run(run_id).data.metrics == {"loss": 0.25}
    assert client.download_artifacts(run_id, "a/b.txt") and started.objects()
    assert f"{part} was killed (SIGKILL); starting it again in 0.5 s" in started.said


@real
def test_one_folder_has_one_server(started: Started, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as left:
        launch(SERVER, started.words)
    assert left.value.code == 2
    assert "folder: a server works in it" in capsys.readouterr().err


@real
def test_after_the_supervisor_was_killed_the_next_one_clears_up_and_nothing_is_lost(
    started: Started, client: MlflowClient
):
    """The next one also asks for passwords."""
    run_id = client.create_run("0").info.run_id
    client.log_metric(run_id, "loss", 0.5)
    client.log_text(run_id, "kept", "c.txt")
    assert started.process
    left = [started.pid(name) for name in ("postgres", "storage")]
    started.process.kill()  # and MLflow's own supervisor: its worker keeps the port
    started.process.wait()
    os.kill(started.pid("mlflow"), signal.SIGKILL)
    assert all(psutil.pid_exists(pid) for pid in left)
    started.start("--auth=true")
    assert "stopped what a killed server had left: mlflow, storage, postgres" in started.said
    assert not any(psutil.pid_exists(pid) for pid in left)
    assert post(started).status_code == 401
    admin = ("admin", started.secrets[secrets.ADMIN])
    assert post(started, auth=("admin", "guessed")).status_code == 401
    assert post(started, auth=admin).status_code == 200
    found = requests.get(
        f"{started.address}/api/2.0/mlflow/runs/get", {"run_id": run_id}, auth=admin, timeout=60
    ).json()["run"]["data"]["metrics"]
    assert [(one["key"], one["value"]) for one in found] == [("loss", 0.5)]
    assert [name for name in started.objects() if name.endswith(f"{run_id}/artifacts/c.txt")]


@real
def test_being_asked_to_stop_it_leaves_no_process_and_no_port(started: Started):
    mark = str(started.folder)
    inside = [started.pid(name) for name in ("postgres", "storage", "mlflow")]
    inside += [one.pid for pid in inside for one in psutil.Process(pid).children(recursive=True)]
    assert started.stop(signal.SIGINT) == 0, started.said
    assert not any(psutil.pid_exists(pid) for pid in inside)
    running = (one.info["cmdline"] or () for one in psutil.process_iter(["cmdline"]))
    assert not [words for words in running if any(mark in word for word in words)]
    assert not (started.folder / "server/running.json").exists()


# -- what is refused before anything starts --------------------------------------------------------


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        launch(SERVER, words)
    assert left.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "number"), [("port", 5), ("database.port", 6), ("storage.port", 2)]
)
def test_a_port_in_use_is_named_at_once(
    option: str, number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = Started(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", found.ports[2] + number))
        other.listen()
        said = refusal(capsys, *found.words)
    assert said.startswith(f"server: {option}") and said.count("\n") == 1
    assert f"({found.ports[2] + number}: Address already in use)" in said


def test_a_server_for_others_asks_for_passwords(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    said = refusal(capsys, f"--folder={tmp_path}", "--host=0.0.0.0")
    assert "host: reachable from elsewhere (0.0.0.0); add auth=true" in said


def test_clients_elsewhere_are_not_sent_to_a_store_that_they_do_not_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [f"--folder={tmp_path}", "--host=0.0.0.0", "--auth=true"]
    assert "artifacts: clients of other machines" in refusal(capsys, *words, "--artifacts=direct")
    config = parse(SERVER, words)[0]
    told = tracking.variables(config, dict.fromkeys(secrets.NAMES, "s"))
    assert told["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] == "false"


def test_an_s3_store_that_is_given_needs_its_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    words = [*Started(tmp_path).words, "--storage.endpoint=http://127.0.0.1:1"]
    assert "AWS_SECRET_ACCESS_KEY not in the environment" in refusal(capsys, *words)


def test_a_database_of_another_version_is_left_alone(tmp_path: Path):
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres/PG_VERSION").write_text("9\n")
    with pytest.raises(BadInput, match="its database is of PostgreSQL 9, here is"):
        postgres.part(Server(folder=str(tmp_path)), dict.fromkeys(secrets.NAMES, "s"))


def test_programs_that_are_named_and_not_there_are_named(tmp_path: Path):
    config = Server(folder=str(tmp_path), database=Database(programs=str(tmp_path)))
    with pytest.raises(BadInput, match=r"database\.programs: no PostgreSQL that"):
        postgres.part(config, dict.fromkeys(secrets.NAMES, "s"))


def test_a_secret_is_made_once_unless_the_environment_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in secrets.NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(secrets.ADMIN, "chosen by a person")
    first = secrets.gathered(tmp_path)
    assert secrets.gathered(tmp_path) == first and first[secrets.ADMIN] == "chosen by a person"
    assert len(set(first.values())) == len(secrets.NAMES)
    assert "chosen" not in (tmp_path / secrets.FILE).read_text()


def test_the_conf_file_means_the_defaults():
    assert parse(SERVER, [])[0] == Server()


# -- the supervisor, with parts that take no time -------------------------------------------------

LISTENS = """
import os, socket, sys, time
if os.fork():
    while True: time.sleep(60)
line = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listening", flush=True)
while True: line.accept()
"""
"""Like MLflow's: a parent that waits, and a child that keeps the port."""


def toy_part(port: int, code: str = LISTENS) -> Part:
    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    words = (sys.executable, "-c", code, str(port))
    return Part(name="toy", words=words, environment={"PATH": os.defpath}, ready=answers)


def test_a_part_whose_child_keeps_the_port_is_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("papertrail.server.supervise.FIRST_WAIT", 0.01)
    with supervised(tmp_path, [toy_part(servers.free_ports()[0])]) as running:
        [one] = running.running
        old = [one.process.pid, *(c.pid for c in psutil.Process(one.process.pid).children())]
        one.process.kill()
        one.process.wait()
        running._restart(one)
        assert len(old) == 2 and not any(psutil.pid_exists(pid) for pid in old)
        assert one.part.ready() and one.deaths == 1
    assert not one.part.ready()


class SeenDead(subprocess.Popen[bytes]):
    """A process that has ended before its caller looks at it the first time."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)


@pytest.mark.parametrize("started", [subprocess.Popen, SeenDead])
def test_a_part_that_cannot_start_is_told_with_its_last_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: type[subprocess.Popen[bytes]],
):
    monkeypatch.setattr(subprocess, "Popen", started)
    code = "print('no room in here', flush=True); raise SystemExit(3)"
    with (
        pytest.raises(Missing, match=r"toy ended \(3\); its log: .*toy\.log"),
        supervised(tmp_path, [toy_part(servers.free_ports()[0], code)]),
    ):
        pass
    assert "toy: no room in here" in capsys.readouterr().err


def test_a_part_that_dies_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in (("FIRST_WAIT", 0.001), ("LONGEST_WAIT", 0.002), ("TRIES", 2)):
        monkeypatch.setattr(f"papertrail.server.supervise.{name}", value)
    once = f"import os; os.open({str(tmp_path / 'once')!r}, os.O_CREAT | os.O_EXCL)\n{LISTENS}"
    with (
        pytest.raises(Missing, match=r"toy ended \(1\), 2 times in a row"),
        supervised(tmp_path, [toy_part(servers.free_ports()[0], once)]) as running,
    ):
        os.kill(running.running[0].process.pid, signal.SIGKILL)
        running.watch()


def test_only_what_this_folder_started_counts_as_left(tmp_path: Path):
    """The id of a process that ended long ago may be another's."""
    mine, others = tmp_path / "mine", tmp_path / "others"
    for folder in (mine, others):
        folder.mkdir()
    ports = servers.free_ports()
    first, second = Supervisor(mine), Supervisor(others)
    first.start(toy_part(ports[0]))
    second.start(toy_part(ports[1]))
    try:
        noted = json.loads((mine / parts.LEDGER).read_text())
        stranger = json.loads((others / parts.LEDGER).read_text())["toy"]
        older = json.loads(stranger["owner"])
        older["started"] -= 60
        (mine / parts.LEDGER).write_text(
            json.dumps(noted | {"old": stranger | {"owner": json.dumps(older)}})
        )
        assert parts.stop_leftovers(mine) == ["toy"]
        until(lambda: "it lives", lambda: first.running[0].process.poll() is not None)
        assert second.running[0].process.poll() is None and second.running[0].part.ready()
    finally:
        second.stop()
