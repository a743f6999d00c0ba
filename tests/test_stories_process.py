"""Processes that die, are stopped, or ask for the same at once: failure stories of others, with
real processes and real kills. docs/failure_stories.md lists them all.
"""

import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from conftest import ROOT
from crowd import Before, Crowd
from mlflow.tracking import MlflowClient
from test_runs import only
from toy import BY_NAME, DOUBLE, STUBBORN, TOY, TREBLE, ToyConfig

from papertrail.core.answering.launch import pool, require_all
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import Missing
from papertrail.core.question import cli
from papertrail.core.question.experiment import Question
from papertrail.core.reading import query
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing.run import COMPLETE, Run

MANY = 16


def answers(client: MlflowClient) -> Counter[str]:
    """How many runs there are of each status."""
    return Counter(client.get_run(run_id).info.status for run_id in only(client))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- one computes ----------------------------------------------------------------------------------


def count_migrations() -> None:
    """Have this process write a line whenever it migrates a database."""
    from mlflow.store.db import utils

    migrate = utils._upgrade_db

    def counted(engine: object) -> None:
        os.write(2, b"migrating\n")
        migrate(engine)

    utils._upgrade_db = counted


def test_sixteen_processes_on_no_store_at_all_make_one_and_compute_once(
    people: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    members = []
    for _ in range(MANY):
        members.append(people.starts("--do=slow", before=count_migrations))
        time.sleep(0.05)  # the last comes while the first has half a database
    assert [member.ended() for member in members] == [0] * MANY, [m.stderr for m in members]
    client = connect().client
    [run_id] = only(client)
    assert {member.answer for member in members} == {run_id}
    assert sum("working " in member.stdout for member in members) == 1
    assert sum(member.stderr.count("migrating\n") for member in members) == 1
    assert [e.name for e in client.search_experiments()].count("toys") == 1
    assert sum("another process computes it; waiting" in m.stderr for m in members) > 0
    assert not list(tmp_path.glob("*.part*"))


def test_a_store_half_made_by_a_killed_process_is_made_anew(
    people: Crowd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    assert people.starts(before=die_while_migrating).ended() == -signal.SIGKILL
    assert list(tmp_path.glob("*.part")) and not (tmp_path / "new.db").exists()
    assert people.starts().ended() == 0


def die_while_migrating() -> None:
    """In the middle, where a table has been copied and the old one is to go."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "before_cursor_execute")
    def die_some_time(connection: object, cursor: object, statement: str, *more: object) -> None:
        if statement.strip().startswith("DROP TABLE"):
            die()


def test_the_death_of_who_computes_frees_the_claim_for_exactly_one(
    people: Crowd, client: MlflowClient
):
    owner = people.starts("--do=slow")
    dead = owner.started()
    others = [people.starts("--do=slow") for _ in range(4)]
    for other in others:
        other.until("another process computes it; waiting for it")
    assert owner.kill(signal.SIGKILL) == -signal.SIGKILL
    assert [other.ended() for other in others] == [0] * 4
    assert sum("working " in other.stdout for other in others) == 1
    assert answers(client) == {"KILLED": 1, "FINISHED": 1}
    assert {other.answer for other in others} == set(only(client)) - {dead}


def test_a_worker_that_outlives_its_killed_parent_does_not_hold_the_claim(people: Crowd):
    owner = people.starts("--do=keep a worker")
    worker = int(owner.until("worker ").split()[1])
    owner.kill(signal.SIGKILL)
    try:
        os.kill(worker, 0)
        other = people.starts("--do=keep a worker")
        other.started()
        assert "waiting" not in other.stderr
        os.kill(int(other.until("worker ").split()[1]), signal.SIGKILL)
    finally:
        os.kill(worker, signal.SIGKILL)


# -- dying at the worst moment ---------------------------------------------------------------------


def die_before_the_manifest() -> None:
    Run.complete = lambda self: (self.flush(), die())  # type: ignore[method-assign,assign]


def die_before_the_mark() -> None:
    tags = Run.tags

    def dying(self: Run, values: dict[str, str]) -> None:
        if COMPLETE in values:
            die()
        tags(self, values)

    Run.tags = dying  # type: ignore[method-assign]


def die_before_finished() -> None:
    MlflowClient.set_terminated = lambda *words: die()  # type: ignore[method-assign]


def be_stopped_before_finished() -> None:
    stop = partial(os.kill, os.getpid(), signal.SIGTERM)
    MlflowClient.set_terminated = lambda *words: stop()  # type: ignore[method-assign]


@pytest.mark.parametrize("before", [die_before_the_manifest, die_before_the_mark])
def test_killed_between_result_and_mark_is_no_answer_and_computed_again(
    people: Crowd, client: MlflowClient, before: Before
):
    victim = people.starts(before=before)
    assert victim.ended() == -signal.SIGKILL
    dead = query.by_id(victim.started_once())
    assert dead.metrics["size"] == 3 and dead.json("toy")  # the whole result is there
    assert dead.artifact("results/toy.json").exists() and COMPLETE not in dead.tags
    assert standing(TOY, ToyConfig()).state == "failed"
    again = people.starts()
    assert again.ended() == 0 and again.answer != dead.run_id
    assert answers(client) == {"KILLED": 1, "FINISHED": 1}


@pytest.mark.parametrize(
    ("before", "code"), [(die_before_finished, -signal.SIGKILL), (be_stopped_before_finished, 1)]
)
def test_killed_between_mark_and_finished_is_finished_and_not_computed_again(
    people: Crowd, client: MlflowClient, before: Before, code: int
):
    victim = people.starts(before=before)
    assert victim.ended() == code
    dead = victim.started_once()
    assert client.get_run(dead).info.status == "RUNNING"
    again = people.starts()
    assert again.ended() == 0 and again.answer == dead
    assert "working " not in again.stdout
    assert answers(client) == {"FINISHED": 1}


def test_killed_between_mark_and_finished_with_an_artifact_lost_is_computed_again(
    people: Crowd, store: Store
):
    victim = people.starts(before=die_before_finished)
    victim.ended()
    dead = query.by_id(victim.started_once())
    dead.artifact("results/toy.json").unlink()
    again = people.starts()
    assert again.ended() == 0 and again.answer != dead.run_id


# -- leaving without a result ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("do", "code", "status", "word"),
    [
        ("raise", 1, "FAILED", "RuntimeError: the toy broke"),
        ("exit", 1, "FAILED", "SystemExit: 1"),
        ("exit well", 1, "FAILED", "SystemExit: 0"),
        ("vanish", 0, "RUNNING", ""),
    ],
)
def test_a_verb_that_leaves_is_never_an_answer_whatever_its_exit_code(
    people: Crowd, store: Store, client: MlflowClient, do: str, code: int, status: str, word: str
):
    opened = client.create_run(client.create_experiment("typed")).info.run_id
    member = people.starts(f"--do={do}", environment={"MLFLOW_RUN_ID": opened})
    assert member.ended() == code
    record = query.by_id(opened)
    assert record.status == status and word in record.tags.get("papertrail.failure", "")
    client.set_terminated(opened, "FINISHED")  # what `mlflow run` makes of exit code 0
    assert query.by_id(opened).unusable() == "it ended without its completion mark"
    assert standing(TOY, ToyConfig(do=do)).usable is None


def test_a_signal_that_comes_while_a_finalizer_runs_is_not_lost(people: Crowd, store: Store):
    begin = time.monotonic()
    member = people.starts("--do=stop in a finalizer")
    assert member.ended() == 1 and time.monotonic() - begin < 50
    record = query.by_id(only(store.client)[0], store)
    assert record.status == "KILLED" and "SIGTERM" in record.tags["papertrail.failure"]


@pytest.mark.parametrize("do", ["swallow", "handle"])
def test_a_verb_that_swallows_sigterm_is_never_an_answer(people: Crowd, store: Store, do: str):
    member = people.starts(f"--do={do}")
    run_id = member.started()
    time.sleep(0.2)
    assert member.kill(signal.SIGTERM) == 1
    assert "swallowed" in member.stdout and "Traceback" not in member.stderr
    record = query.by_id(run_id)
    assert record.status == "KILLED" and COMPLETE not in record.tags
    assert "SIGTERM, which its code swallowed" in record.tags["papertrail.failure"]
    assert "SIGTERM" in member.stderr.splitlines()[-1]


@pytest.mark.parametrize("do", ["wait", "swallow"])
def test_a_run_that_goes_on_after_what_it_builds_on_was_stopped_is_no_answer(
    people: Crowd, client: MlflowClient, do: str
):
    member = people.starts(f"--do={do}", experiment=STUBBORN)
    member.started()
    time.sleep(0.2)
    assert member.kill(signal.SIGTERM) == 1
    assert "swallowed" in member.stdout
    assert answers(client) == {"KILLED": 2}


def test_a_verb_that_catches_its_own_exit_and_goes_on_to_the_end_has_an_answer(people: Crowd):
    member = people.starts("--do=catch an exit")
    assert member.ended() == 0 and not query.by_id(member.answer).unusable()


# -- children --------------------------------------------------------------------------------------


def test_what_a_verb_starts_neither_inherits_nor_ends_its_run(
    people: Crowd, store: Store, client: MlflowClient
):
    opened = client.create_run(client.create_experiment("typed")).info.run_id
    member = people.starts("--do=start others", environment={"MLFLOW_RUN_ID": opened})
    assert member.ended() == 0, member.stderr
    assert "inherited []" in member.stdout
    assert "only a copy broke" in member.stderr  # the copy did come to its own bad end
    record = query.by_id(opened)
    assert not record.unusable() and "papertrail.failure" not in record.tags
    assert only(client) == [opened]


@pytest.mark.parametrize("do", ["fork and return", "fork and log"])
def test_a_forked_child_can_neither_finish_nor_write_its_parents_run(
    people: Crowd, store: Store, do: str
):
    member = people.starts(f"--do={do}")
    assert member.ended() == 0, member.stderr
    record = query.by_id(member.answer)
    assert not record.unusable() and "stray" not in record.metrics
    history = store.client.get_metric_history(record.run_id, "size")
    assert len(history) == 1


@pytest.mark.parametrize("do", ["stop a worker", "stop a worker that answers"])
def test_a_worker_that_is_stopped_does_not_stop_its_parent(people: Crowd, store: Store, do: str):
    member = people.starts(f"--do={do}")
    assert member.ended() == 0, member.stderr


def test_a_child_of_the_pool_computes_in_a_run_of_its_own(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entry_points(tmp_path, monkeypatch)
    opened = client.create_run("0").info.run_id
    before = client.get_run(opened)
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    with pool(2):
        [record] = require_all([Question(TOY, ToyConfig())])
    assert record.run_id != opened
    assert client.get_run(opened).to_dictionary() == before.to_dictionary()


def entry_points(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the pool find the toys where it finds experiments."""
    (folder / "entrypoints").mkdir()
    for name in BY_NAME:
        (folder / "entrypoints" / f"{name}.py").write_text(
            f"import sys; sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
            "import toy\nfrom papertrail.core.question.cli import launch\n"
            f"launch(toy.BY_NAME[{name!r}])\n"
        )
    monkeypatch.setattr("papertrail.core.answering.processes.ROOT", folder)


@pytest.mark.parametrize("first", ["answered", "not answered"])
def test_a_joined_run_that_is_finished_is_refused_and_left_as_it_was(
    people: Crowd, store: Store, client: MlflowClient, first: str
):
    finished = require(TOY, ToyConfig(seed=1))
    before = client.get_run(finished.run_id)
    words = ["--seed=1"] if first == "answered" else ["--seed=2"]
    member = people.starts(*words, environment={"MLFLOW_RUN_ID": finished.run_id})
    assert member.ended() == 2
    [line] = member.stderr.splitlines()[-1:]
    assert line.startswith("toy: MLFLOW_RUN_ID: ") and finished.run_id in line
    after = client.get_run(finished.run_id)
    assert after.to_dictionary() == before.to_dictionary()


# -- one command, one try --------------------------------------------------------------------------

BROKEN, GOOD = ToyConfig(do="raise"), Question(TOY, ToyConfig())
DEPENDANTS = [Question(DOUBLE, BROKEN), Question(TREBLE, BROKEN)]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failure_is_tried_once_in_a_command_and_named_by_every_dependant(
    client: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    entry_points(tmp_path, monkeypatch)
    monkeypatch.setenv(cli.ORDER, "this command")
    with pool(workers), pytest.raises(Missing, match="2 of 3 runs are missing") as caught:
        require_all([*DEPENDANTS, GOOD])
    double, treble = str(caught.value).split("; treble")
    assert "double" in double and "the toy broke" in double and "the toy broke" in treble
    assert standing(TOY, ToyConfig()).usable  # who depends on nothing that failed is computed
    assert num_tries(client) == 1
    monkeypatch.setenv(cli.ORDER, "the next command")
    with pytest.raises(RuntimeError, match="the toy broke"):
        require(DOUBLE, BROKEN)
    assert num_tries(client) == 2


def num_tries(client: MlflowClient) -> int:
    """How often the broken toy was computed."""
    runs = [client.get_run(run_id).data for run_id in only(client)]
    broken = [run for run in runs if run.params.get("cfg.do") == "raise"]
    return sum(run.tags["papertrail.experiment"] == "toy" for run in broken)


# -- modes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["read_only", "retry_failed"])
def test_what_was_never_computed_is_refused_by_modes_that_do_not_begin(
    people: Crowd, client: MlflowClient, mode: str
):
    member = people.starts(f"--run.mode={mode}")
    assert member.ended() == 1
    [line] = member.stderr.splitlines()
    assert "never computed; leave out run.mode=" in line and only(client) == []


def test_every_mode_does_what_it_says_with_what_stands(people: Crowd, client: MlflowClient):
    first = people.starts()
    first.ended()
    for mode in ("reuse", "retry_failed", "read_only"):
        again = people.starts(f"--run.mode={mode}")
        assert again.ended() == 0 and again.answer == first.answer
    forced = people.starts("--run.mode=force")
    assert forced.ended() == 0 and forced.answer != first.answer
    assert answers(client) == {"FINISHED": 2}


def test_every_mode_does_what_it_says_with_what_failed(people: Crowd, store: Store):
    word = "--do=checkpoint and raise"
    first = people.starts(word)
    assert first.ended() == 1
    failed = first.started_once()
    folder = store.folder(standing(TOY, ToyConfig(do=word[5:])).identity.digest) / "checkpoints"
    older = folder / "step-00000000.ckpt"
    older.write_text("of the first try")
    refused = people.starts(word, "--run.mode=read_only")
    assert refused.ended() == 1 and "working" not in refused.stdout
    assert failed in refused.stderr and "the toy broke" in refused.stderr
    resumed = people.starts(word)
    assert resumed.ended() == 1 and resumed.started_once() == failed
    assert older.name in resumed.stdout and f"resuming run {failed}" in resumed.stderr
    for mode in ("retry_failed", "force"):
        older.write_text("of the first try")
        afresh = people.starts(word, f"--run.mode={mode}")
        assert afresh.ended() == 1 and afresh.started_once() != failed
        assert older.name not in afresh.stdout and not older.exists()
