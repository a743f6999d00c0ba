"""What a run leaves behind, however it ends, and when its result is used again.

Ends are real: processes that raise, exit, are terminated or killed, on a real SQLite store.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import toy
from conftest import ROOT
from forked import Popen
from mlflow.tracking import MlflowClient
from toy import DOUBLE, TOY, Part, ToyConfig

from papertrail.core.answering.launch import pool, require_all
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import Interrupted, Missing
from papertrail.core.question import cli
from papertrail.core.question.experiment import Question
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import track
from papertrail.core.writing.run import COMPLETE, Run

ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


def start(*argv: str, **environment: str) -> "subprocess.Popen[str]":
    """The toy as a person starts it."""
    return Popen(
        [sys.executable, str(ROOT / "tests" / "toy.py"), *argv],
        env=os.environ | ENVIRONMENT | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def started(process: "subprocess.Popen[str]") -> str:
    """Run id, once the toy says that it is working."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith("working"):
            return line.split()[2]
    raise AssertionError(process.communicate()[1])


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and stderr, when the process has ended."""
    _, stderr = process.communicate(timeout=120)
    return process.returncode, stderr


def only(client: MlflowClient) -> list[str]:
    """Ids of all runs."""
    ids = [e.experiment_id for e in client.search_experiments()]
    return [run.info.run_id for run in client.search_runs(ids)]


def test_a_finished_run_carries_what_the_design_promises(store: Store):
    record = require(TOY, ToyConfig(part=Part(size=4), text="hello"))
    assert record.status == "FINISHED"
    assert record.config["part.size"] == "4" and record.config["text"] == "hello"
    assert record.metrics["size"] == 4 and record.metrics["progress"] == 1
    for tag in ("experiment", "study", "identity", "seed", "git", "data", "owner", "complete"):
        assert f"papertrail.{tag}" in record.tags
    assert record.json("toy") == {"text": "hello"}
    assert "size: 4" in record.artifact("config.yaml").read_text()
    manifest = json.loads(record.artifact("manifest.json").read_text())
    assert {"config.yaml", "identity.json", "results/toy.json"} <= set(manifest)


def test_the_same_question_is_answered_by_the_run_that_stands(store: Store, client: MlflowClient):
    first, again = require(TOY, ToyConfig()), require(TOY, ToyConfig(device="elsewhere"))
    assert again.run_id == first.run_id
    assert len(only(client)) == 1


def test_another_question_gets_a_run_of_its_own(store: Store, client: MlflowClient):
    assert require(TOY, ToyConfig()).run_id != require(TOY, ToyConfig(seed=1)).run_id


def test_force_computes_again_and_read_only_never_does(store: Store):
    with pytest.raises(Missing, match="never computed"):
        require(TOY, ToyConfig(), "read_only")
    first = require(TOY, ToyConfig())
    assert require(TOY, ToyConfig(), "force").run_id != first.run_id


def test_what_a_run_builds_on_is_its_child_and_its_parent_in_the_record(store: Store):
    record = require(DOUBLE, ToyConfig(part=Part(size=5)))
    child = require(TOY, ToyConfig(part=Part(size=5)))
    assert record.metrics["double"] == 10
    assert child.tags["mlflow.parentRunId"] == record.run_id
    assert record.tags["papertrail.parents"] == child.run_id


@pytest.mark.parametrize("do", ["raise", "exit"])
def test_an_exception_or_an_exit_never_reads_as_usable(store: Store, do: str):
    with pytest.raises((RuntimeError, SystemExit)):
        require(TOY, ToyConfig(do=do))
    found = standing(TOY, ToyConfig(do=do))
    assert found.state == "failed"
    assert "it is FAILED" in found.why
    assert found.interrupted and found.interrupted.metrics["before"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_run_as_killed_with_what_was_logged(store: Store, number: signal.Signals):
    process = start("--do=wait")
    run_id = started(process)
    process.send_signal(number)
    code, stderr = finish(process)
    assert code == 1
    record = query.by_id(run_id)
    assert record.status == "KILLED"
    assert record.metrics["before"] == 1
    assert number.name in record.tags["papertrail.failure"]
    assert record.unusable() and "Traceback" not in stderr


@pytest.mark.parametrize(
    ("do", "expected", "status"),
    [("wait", Interrupted, "KILLED"), ("raise", RuntimeError, "FAILED")],
)
def test_a_signal_that_comes_while_the_end_is_written_down_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, do: str, expected: type[Exception], status: str
):
    abandon = Run.abandon

    def interrupted(run: Run, *how: str) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return abandon(run, *how)

    monkeypatch.setattr(Run, "abandon", interrupted)
    monkeypatch.setitem(toy.DOES, "wait", lambda config: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(expected):
        require(TOY, ToyConfig(do=do))
    (run_id,) = only(store.client)
    assert query.by_id(run_id).status == status


def test_kill_minus_9_is_recognised_by_evidence_and_computed_again(store: Store):
    process = start("--do=kill")
    run_id = started(process)
    assert finish(process)[0] == -signal.SIGKILL
    dead = query.by_id(run_id)
    assert dead.status == "RUNNING"  # all that MLflow knows
    found = standing(TOY, ToyConfig(do="kill"))
    assert found.state == "failed" and found.interrupted and found.running is None


def test_all_runs_that_died_under_a_question_are_buried_by_the_next_one(
    store: Store, client: MlflowClient
):
    process = start("--do=kill")
    first = started(process)
    finish(process)
    group = client.get_run(first).info.experiment_id
    tags = client.get_run(first).data.tags  # of another that died between opening and burying
    second = client.create_run(group, tags=tags).info.run_id
    process = start("--do=kill")
    third = started(process)
    finish(process)
    assert [query.by_id(one).status for one in (first, second)] == ["KILLED", "KILLED"]
    assert query.by_id(third).status == "RUNNING"


def test_a_living_owner_is_running_and_not_doubled(store: Store):
    process = start("--do=wait")
    run_id = started(process)
    found = standing(TOY, ToyConfig(do="wait"))
    assert found.state == "running" and found.running and found.running.run_id == run_id
    process.terminate()
    finish(process)


def test_mlflow_run_opens_the_run_and_we_join_it(store: Store, client: MlflowClient):
    opened = client.create_run(client.create_experiment("typed")).info.run_id
    process = start(MLFLOW_RUN_ID=opened)
    assert started(process) == opened
    finish(process)
    assert only(client) == [opened]
    assert query.by_id(opened).unusable() == ""


def test_a_joined_run_that_need_not_compute_points_to_the_answer(
    store: Store, client: MlflowClient
):
    answer = require(TOY, ToyConfig())
    opened = client.create_run("0").info.run_id
    assert finish(start(MLFLOW_RUN_ID=opened))[0] == 0
    joined = query.by_id(opened)
    assert joined.tags["papertrail.answered_by"] == answer.run_id
    assert joined.unusable()


def test_a_typo_under_mlflow_run_touches_nothing(store: Store, client: MlflowClient):
    opened = client.create_run("0").info.run_id
    assert finish(start("--part.sise=3", MLFLOW_RUN_ID=opened))[0] == 2
    assert client.get_run(opened).info.status == "RUNNING"  # `mlflow run` itself marks it FAILED


def spoil_status(record: Record) -> None:
    record.store.client.set_terminated(record.run_id, "FAILED")


def spoil_mark(record: Record) -> None:
    record.store.client.delete_tag(record.run_id, COMPLETE)


def spoil_artifact(record: Record) -> None:
    record.artifact("results/toy.json").unlink()


def spoil_size(record: Record) -> None:
    record.artifact("results/toy.json").write_text("{}")


def spoil_question(record: Record) -> None:
    path = record.artifact("identity.json")
    path.write_text(path.read_text().replace('"size":3', '"size":4'))


def delete(record: Record) -> None:
    record.store.client.delete_run(record.run_id)


def invalidate(record: Record) -> None:
    record.store.client.set_tag(record.run_id, "papertrail.invalidated", "wrong data")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_status, "it is FAILED"),
        (spoil_mark, "without its completion mark"),
        (spoil_artifact, "results/toy.json is gone or changed"),
        (spoil_size, "results/toy.json is gone or changed"),
        (spoil_question, "config.part.size: 4 -> 3"),
        (invalidate, "it was invalidated (wrong data)"),
    ],
)
def test_an_answer_that_does_not_stand_is_computed_again_and_the_reason_is_said(
    store: Store, capsys: pytest.CaptureFixture[str], spoil, reason: str
):
    first = require(TOY, ToyConfig())
    spoil(first)
    second = require(TOY, ToyConfig())
    assert second.run_id != first.run_id
    said = capsys.readouterr().err
    assert reason in said and first.run_id in said and said.count("\n") == 1


def test_a_run_deleted_in_the_ui_is_no_answer(store: Store):
    first = require(TOY, ToyConfig())
    delete(first)
    assert require(TOY, ToyConfig()).run_id != first.run_id


def test_a_forced_hash_collision_is_caught_by_comparing_the_question(store: Store):
    first = require(TOY, ToyConfig())
    other = identify(TOY, ToyConfig(seed=1)).digest
    store.client.set_tag(first.run_id, "papertrail.identity", other)
    found = standing(TOY, ToyConfig(seed=1))
    assert found.usable is None and "config.seed: 0 -> 1" in found.why


def test_processes_that_ask_the_same_question_compute_it_once(store: Store, client: MlflowClient):
    processes = [start("--do=slow") for _ in range(4)]
    assert [finish(process)[0] for process in processes] == [0, 0, 0, 0]
    assert len(only(client)) == 1


def test_four_processes_on_no_store_at_all_make_one(tmp_path: Path):
    uri = f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}"
    (tmp_path / "new").mkdir()
    processes = [start(f"--seed={n}", MLFLOW_TRACKING_URI=uri) for n in range(4)]
    outcomes = [finish(process) for process in processes]
    assert [code for code, _ in outcomes] == [0, 0, 0, 0], outcomes
    client = connect(uri).client
    assert [e.name for e in client.search_experiments()].count("toys") == 1
    assert len(only(client)) == 4


def test_a_pool_computes_side_by_side_and_names_what_failed(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "entrypoints").mkdir()
    (tmp_path / "entrypoints" / "toy.py").write_text(
        f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
        "from toy import TOY\nfrom papertrail.core.question.cli import launch\nlaunch(TOY)\n"
    )
    monkeypatch.setattr("papertrail.core.answering.processes.ROOT", tmp_path)
    good = [Question(TOY, ToyConfig(seed=seed)) for seed in range(3)]
    with pool(2):
        records = require_all(good)
        assert [record.config["seed"] for record in records] == ["0", "1", "2"]
        assert len({record.tags["papertrail.owner"] for record in records}) == 2
        bad = Question(TOY, replace(ToyConfig(), do="raise"))
        with pytest.raises(Missing, match=r"1 of 2 runs are missing: toy \w+: .*the toy broke"):
            require_all([good[0], bad])


def test_an_experiment_that_another_machine_has_made_since_we_looked_is_ours_too(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    create = store.client.create_experiment

    def second(*how: Any) -> str:
        create(*how)
        return create(*how)

    monkeypatch.setattr(store.client, "create_experiment", second)
    found = store.experiment_id("toys")
    assert store.client.get_experiment_by_name("toys").experiment_id == found


def test_a_run_that_was_forced_and_failed_is_not_answered_by_the_one_before(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(toy.DOES, "wait", lambda config: None)
    asked = [Question(TOY, ToyConfig(do="wait"))]
    (before,) = require_all(asked)
    monkeypatch.setitem(toy.DOES, "wait", toy.break_)
    with pytest.raises(Missing, match=f"only run {before.run_id} of before stands"):
        require_all(asked, mode="force")


def test_machines_that_ask_the_same_at_the_same_moment_compute_it_once(
    store: Store, tmp_path: Path
):
    """Folders that they do not share stand for machines: no lock tells them of each other."""
    code = (
        "import sys, time; from pathlib import Path; from toy import TOY, ToyConfig;"
        "from papertrail.core.answering.require import require;"
        "print('ready', flush=True); go = Path(sys.argv[1])\n"
        "while not go.exists(): time.sleep(.001)\n"
        "print(require(TOY, ToyConfig(do='slow')).run_id)"
    )
    go = tmp_path / "go"
    machines = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(go)], text=True,
            env=os.environ | ENVIRONMENT | {"PAPERTRAIL_WORK": str(tmp_path / name)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for name in "abc"
    ]  # fmt: skip
    for one in machines:
        assert one.stdout and one.stdout.readline() == "ready\n"
    go.touch()
    said = [one.communicate(timeout=60) for one in machines]
    assert {one.returncode for one in machines} == {0}, said
    assert len({out.split()[-1] for out, _ in said}) == 1
    [found] = query.by_identities([identify(TOY, ToyConfig(do="slow")).digest], store).values()
    assert sorted({run.status for run in found}) in (["FINISHED"], ["FINISHED", "KILLED"])
    assert [run.status for run in found].count("FINISHED") == 1


@pytest.mark.parametrize(("do", "status"), [("finish", "FINISHED"), ("raise", "FAILED")])
def test_a_run_that_only_points_to_another_does_not_stay_running(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, do: str, status: str
):
    for _ in range(2):  # computed by another run, and answered by it
        joined = client.create_run("0").info.run_id
        monkeypatch.setenv("MLFLOW_RUN_ID", joined)
        with contextlib.suppress(RuntimeError, SystemExit):
            cli.launch(TOY, [f"--do={do}"])
        run = client.get_run(joined)
        assert run.info.status == status
        if do == "finish":
            answer = run.data.tags["papertrail.answered_by"]
            assert client.get_run(answer).info.status == status


def test_a_stopped_pool_stops_its_processes(store: Store):
    process = start("--do=wait")
    started(process)
    from papertrail.core.answering.processes import stop

    stop([process])  # type: ignore[list-item]
    assert finish(process)[0] == 1


def test_a_second_look_at_a_finished_run_imports_no_torch(store: Store):
    require(TOY, ToyConfig())
    code = (
        "import sys; from toy import TOY, ToyConfig;"
        "from papertrail.core.answering.require import require;"
        "require(TOY, ToyConfig());"
        "print([m for m in ('torch', 'lightning', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | ENVIRONMENT, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_long_param_is_shortened_visibly_and_kept_whole_in_the_config(store: Store):
    text = "x" * 7000
    record = require(TOY, ToyConfig(text=text))
    assert "(7000 characters, sha256" in record.config["text"]
    assert text in record.artifact("config.yaml").read_text().replace("\n", "")


def test_a_failed_gate_is_kept_with_its_sentence(store: Store):
    record = require(TOY, ToyConfig())
    assert record.failed_gates == ""
    with track.opened(
        store, TOY, ToyConfig(seed=9), identify(TOY, ToyConfig(seed=9)),
        store.client.create_run("0").info.run_id, fresh=True,
    ) as run:  # fmt: skip
        run.gate("sane", False, "2 is less than 1")
    assert query.by_id(run.run_id).failed_gates == "sane: 2 is less than 1"


def test_runs_that_are_the_first_to_name_a_dataset_at_the_same_moment_all_log_it(
    store: Store, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
):
    own = threading.local()
    monkeypatch.setattr(track, "run", lambda: own.run)

    def name_all(run_id: str, together: threading.Barrier) -> None:
        own.run = SimpleNamespace(store=store, run_id=run_id)
        for number in range(10):
            together.wait(20)
            track.dataset(f"dataset {number}", f"digest {number}", "source", "evaluation")

    ids, together = [client.create_run("0").info.run_id for _ in range(4)], threading.Barrier(4)
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(name_all, run_id, together) for run_id in ids]
    assert [one.result() for one in waiting] == 4 * [None]
    assert [len(client.get_run(run_id).inputs.dataset_inputs) for run_id in ids] == 4 * [10]
