"""What can be told of SLURM without one: its words, the code that jobs run, plans, owners, exit
codes. A real cluster computes in test_slurm_cluster.py."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from toy import DOUBLE, TOY, ToyConfig

from papertrail.cluster import book, jobs, queue, snapshot, stages, submit
from papertrail.cluster.book import Book, Submission
from papertrail.cluster.node import End, Errand, Work, log_of, read_end
from papertrail.cluster.queue import Queue, went_well
from papertrail.cluster.stages import Task
from papertrail.core import slurm
from papertrail.core.answering.require import require
from papertrail.core.answering.settling import bury
from papertrail.core.answering.standing import standing
from papertrail.core.errors import BadInput, Interrupted, Missing
from papertrail.core.question import cli
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Question
from papertrail.core.question.resources import Resources, Slurm
from papertrail.core.slurm import Job
from papertrail.core.storage.store import Store
from papertrail.core.writing.owner import Owner

# -- SLURM's words ---------------------------------------------------------------------------------

SQUEUE = """\
2|2|FAILED|NonZeroExitCode|n1|0:03|0|768|0|(null)|
4|10|FAILED|NonZeroExitCode|n1|0:11|0|256|253|(null)|
1_1|1|PENDING|JobArrayTaskLimit||0:00|0|0|0|papertrail a|c|
1_0|4|RUNNING|None|n1|0:01|2|0|0|papertrail a|c|
3|3|PENDING|Dependency||0:00|0|0|0|(null)|
5|5|OUT_OF_MEMORY|OutOfMemory|n2|1:00:00|0|9|0|(null)|
6|6|NODE_FAIL|NodeFail|n3|0:09|1|0|0|(null)|
7|7|CANCELLED|DependencyNeverSatisfied||0:00|0|0|0|(null)|
8|8|TIMEOUT|TimeLimit|n4|1:00|0|0|0|(null)|
9|9|PREEMPTED|None|n4|1:00|0|0|0|(null)|
"""
SACCT = """\
12_3|CANCELLED by 1000|0:15|n1|00:01:02|0:0
12_3.batch|CANCELLED|0:15|n1|00:01:02|0:0
13|COMPLETED|0:0|n2|00:00:07|0:0
14|FAILED|3:0|n2|00:00:07|0:0
15|FAILED|1:0|n2|00:00:11|0:125
"""


def test_every_way_to_end_is_told_apart():
    found = {job.id: job for job in slurm.read_squeue(SQUEUE)}
    assert {name: job.state for name, job in found.items()} == {
        "2": "failed", "1_1": "pending", "1_0": "running", "3": "pending", "5": "out of memory",
        "6": "node failed", "7": "cancelled", "8": "timed out", "9": "preempted",
        "4": "out of memory",  # the job itself failed: it was a step of it
    }  # fmt: skip
    assert found["2"].exit_code == 3 and found["5"].exit_code == -9
    assert (found["1_0"].restarts, found["1_0"].raw) == (2, "4")
    assert found["1_1"].comment == "papertrail a|c"
    assert str(found["7"]) == "SLURM job 7: cancelled (DependencyNeverSatisfied)"


def test_accounting_is_read_without_its_steps():
    found = {job.id: job for job in slurm.read_sacct(SACCT)}
    assert {name: job.state for name, job in found.items()} == {
        "12_3": "cancelled", "13": "completed", "14": "failed", "15": "out of memory",
    }  # fmt: skip
    assert found["14"].exit_code == 3


def test_a_word_that_nobody_knows_is_a_failure_and_no_success():
    assert Job("1", "LAUNCH_FAILED").state == "failed"


def test_a_job_that_vanished_is_never_taken_for_finished():
    gone = Job("1", "VANISHED")
    assert gone.ended and gone.state == "vanished"
    assert not went_well(gone, None, 0)
    assert not went_well(gone, End([], stopped=True), 0)
    assert went_well(gone, End([0, 1]), 0) and not went_well(gone, End([0, 1]), 1)


def test_the_exit_code_of_a_command_counts_more_than_what_slurm_says():
    assert not went_well(Job("1", "COMPLETED"), End([1]), 0)
    assert went_well(Job("1", "FAILED"), End([0, 1]), 0)
    assert not went_well(Job("1", "FAILED"), None, 0)
    assert went_well(Job("1", "COMPLETED"), None, 0)


# -- a program that answers as SLURM does ----------------------------------------------------------


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file: what it holds is what squeue prints. An empty one: it knows no such job."""
    answer = tmp_path / "queue"
    answer.touch()
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "squeue": f'cat {answer}; [ -s {answer} ] || {{ echo "Invalid job id" >&2; exit 1; }}',
        "scontrol": 'echo "ClusterName = lab"',
        "sacct": "echo accounting storage is disabled >&2; exit 1",
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "FRESH_SECONDS", 1e-6)
    slurm.cluster_name.cache_clear()
    yield answer
    slurm.cluster_name.cache_clear()


def dead(**of_job: Any) -> Owner:
    """A process that ended, of a job."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    begun = {"slurm": "7", "element": "7", "cluster": "lab", "restarts": 0, **of_job}
    owner = replace(Owner.of(process.pid), **begun)
    process.wait()
    return owner


def line(word: str, restarts: int = 0) -> str:
    return f"7|7|{word}|None|n1|0:01|{restarts}|0|0|(null)|\n"


def test_a_dead_process_whose_job_waits_to_go_on_is_not_given_up(says: Path):
    owner = dead()
    for text, lives in (
        (line("PENDING", 1), True), (line("RUNNING", 1), True), (line("RUNNING"), False),
        (line("CANCELLED"), False), (line("NODE_FAIL", 1), False), ("", False),
    ):  # fmt: skip
        says.write_text(text)
        assert owner.alive() is lives, text
    says.write_text(line("PENDING", 1))
    assert replace(owner, cluster="another").alive() is False  # 7 is another job there


def test_of_a_process_elsewhere_its_job_tells(says: Path):
    owner = replace(dead(), host="elsewhere")
    for text, lives in (
        (line("PENDING", 1), True), (line("RUNNING"), None), (line("OUT_OF_MEMORY"), False),
        ("", None),
    ):  # fmt: skip
        says.write_text(text)
        assert owner.alive() is lives, text
    assert replace(owner, slurm="").alive() is None


def test_slurm_that_does_not_answer_proves_nothing(says: Path):
    (says.parent / "bin" / "squeue").write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    with pytest.raises(slurm.Unreachable, match="SLURM: squeue: no controller"):
        slurm.look(["7"])
    assert replace(dead(), host="elsewhere").alive() is None


def test_a_cluster_that_did_not_answer_once_is_asked_again(says: Path):
    says.write_text(line("CANCELLED"))
    owner, scontrol = replace(dead(), host="elsewhere"), says.parent / "bin" / "scontrol"
    answers = scontrol.read_text()
    scontrol.write_text("#!/bin/sh\necho no controller >&2; exit 1\n")
    assert owner.alive() is None
    scontrol.write_text(answers)
    assert owner.alive() is False


def test_a_job_that_was_queued_again_takes_back_its_own_run_and_no_other_does(
    says: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    says.write_text(line("RUNNING", 1))
    config = ToyConfig(do="checkpoint and raise")
    with pytest.raises(RuntimeError):
        require(TOY, config)
    [begun] = [one.info.run_id for one in store.client.search_runs(["1"])]
    store.client.update_run(begun, status="RUNNING")
    store.client.set_tag(begun, "papertrail.owner", str(dead()))
    assert standing(TOY, config).state == "running"  # for everybody else
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "1", "CLUSTER_NAME": "lab"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = standing(TOY, config)
    assert found.state == "failed" and found.interrupted and found.interrupted.run_id == begun
    with pytest.raises(RuntimeError):
        require(TOY, config, "force")  # what it began it goes on with, in any mode
    assert len(store.client.search_runs(["1"])) == 1


@pytest.mark.parametrize("status", ["KILLED", "RUNNING"])
def test_to_be_stopped_and_queued_again_is_no_failure_that_is_not_tried_again(
    says: Path, store: Store, monkeypatch: pytest.MonkeyPatch, status: str
):
    says.write_text(line("RUNNING", 1))
    config = ToyConfig(do="checkpoint and raise")
    monkeypatch.setenv(cli.ORDER, "this command")
    with pytest.raises(RuntimeError):
        require(TOY, config)
    [begun] = [one.info.run_id for one in store.client.search_runs(["1"])]
    with pytest.raises(Missing, match="not tried again"):
        require(TOY, config)
    for name, value in {"JOB_ID": "7", "RESTART_COUNT": "1", "CLUSTER_NAME": "lab"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    store.client.update_run(begun, status=status)
    store.client.set_tag(begun, "papertrail.owner", str(dead()))
    with pytest.raises(RuntimeError):
        require(TOY, config)
    assert len(store.client.search_runs(["1"])) == 1


def test_a_run_that_nobody_marked_reads_killed_with_the_words_of_slurm(says: Path, store: Store):
    says.write_text(line("OUT_OF_MEMORY"))
    run_id = require(TOY, ToyConfig()).run_id
    store.client.update_run(run_id, status="RUNNING")
    store.client.delete_tag(run_id, "papertrail.complete")
    store.client.set_tag(run_id, "papertrail.owner", str(dead()))
    bury(standing(TOY, ToyConfig()).dead, store)
    run = store.client.get_run(run_id)
    assert run.info.status == "KILLED"
    assert run.data.tags["papertrail.failure"] == "its process died; SLURM job 7: out of memory"


# -- the code that jobs run ------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    for name in ("src/thing/__pycache__", "entrypoints", "conf", "mlruns"):
        (root / name).mkdir(parents=True)
    files = ("src/thing/a.py", "src/thing/cities.csv", "entrypoints/toy.py", "conf/toy.yaml")
    for name in (*files, "src/thing/__pycache__/a.pyc", "mlruns/huge", "MLproject"):
        (root / name).write_text(name)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def test_a_snapshot_holds_files_that_git_does_not_track(project: Path, tmp_path: Path):
    place = snapshot.take(project, tmp_path / "kept")
    names = sorted(str(p.relative_to(place)) for p in place.rglob("*") if p.is_file())
    assert names == [
        "MLproject", "conf/toy.yaml", "entrypoints/toy.py", "src/thing/a.py",
        "src/thing/cities.csv",
    ]  # fmt: skip


def test_the_same_code_is_kept_once_and_an_edit_is_another(project: Path, tmp_path: Path):
    kept = tmp_path / "kept"
    takers = [threading.Thread(target=snapshot.take, args=(project, kept)) for _ in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    [first] = kept.iterdir()
    (project / "src/thing/a.py").write_text("edited")
    second = snapshot.take(project, kept)
    assert second != first and (first / "src/thing/a.py").read_text() == "src/thing/a.py"


def test_a_snapshot_that_somebody_changed_is_refused(project: Path, tmp_path: Path):
    place = snapshot.take(project, tmp_path / "kept")
    (place / "src/thing/__pycache__").mkdir()
    (place / "src/thing/__pycache__/a.pyc").touch()  # Python's own
    snapshot.verify(place)
    with pytest.raises(PermissionError) if os.getuid() else pytest.raises(Missing, match="changed"):
        (place / "conf/toy.yaml").write_text("edited")
        snapshot.verify(place)
    with pytest.raises(Missing, match="gone"):
        snapshot.verify(place.with_name("nothing"))


# -- plans -----------------------------------------------------------------------------------------


def test_what_a_plan_builds_on_and_does_not_stand_comes_first(store: Store):
    double, toy = Question(DOUBLE, ToyConfig(seed=1)), Question(TOY, ToyConfig(seed=2))
    first, second, third = stages.plan([double, toy], store, "force")
    assert [task.title for task in (first, second, third)] == [
        "toy seed 1", "double seed 1", "toy seed 2",
    ]  # fmt: skip
    assert second.needs == {first.words} and not first.needs and not third.needs
    modes = [task.words[-1] for task in (first, second, third)]
    assert modes == ["--run.mode=reuse", "--run.mode=force", "--run.mode=force"]
    require(TOY, ToyConfig(seed=1))
    [only, _] = stages.plan([double, toy], store, "reuse")
    assert only.title == "double seed 1" and not only.needs


class Pretended:
    """A SLURM that takes what it is given and ends what it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[Submission, str]] = []
        self.states: dict[str, str] = {}
        monkeypatch.setattr(queue, "submit", self.submit)
        monkeypatch.setattr(submit.Code, "now", lambda store: submit.Code(Path("/code"), ""))
        monkeypatch.setattr(slurm, "look", self.look)
        monkeypatch.setattr(slurm, "mine", list)

    def submit(
        self, elements: Sequence[tuple[Task, ...]], after: str, code: object, book: Book,
        options: Slurm, environment: Mapping[str, str],
    ) -> Submission:  # fmt: skip
        number = str(len(self.taken) + 1)
        one = Submission(f"token{number}", f"2026-01-0{number}", "code", tuple(elements), number)
        book.note(one)
        self.taken.append((one, after))
        self.states |= dict.fromkeys(one.ids(), "PENDING")
        return one

    def look(self, ids: Sequence[str]) -> dict[str, Job]:
        return {job: Job(job, self.states[job]) for job in ids}

    def end(self, word: str, *ids: str) -> None:
        self.states |= dict.fromkeys(ids, word)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    return Pretended(monkeypatch)


def task(name: str, number: int, *needs: Task) -> Task:
    return Task(
        (f"/p/entrypoints/{name}.py", f"--seed={number}"), frozenset(n.words for n in needs)
    )


TRAIN = [task("train", n) for n in range(2)]
ATTACK = [task("attack", n, TRAIN[n % 2]) for n in range(4)]


def test_a_job_waits_for_what_it_builds_on_and_arrays_for_nothing_else(
    store: Store, pretended: Pretended
):
    Queue([*TRAIN, *ATTACK], Slurm(), store, {}).step()
    shown = [([one.words[1] for e in s.elements for one in e], a) for s, a in pretended.taken]
    assert shown == [
        (["--seed=0", "--seed=1"], ""),
        (["--seed=0", "--seed=2"], "afterok:1_0"),
        (["--seed=1", "--seed=3"], "afterok:1_1"),
    ]


def test_the_queue_is_bounded_and_what_builds_on_a_failure_is_not_begun(
    store: Store, pretended: Pretended, capsys: pytest.CaptureFixture[str]
):
    waiting = Queue([*TRAIN, *ATTACK], Slurm(max_jobs=2), store, {})
    waiting.step()
    assert [one.ids() for one, _ in pretended.taken] == [["1_0", "1_1"]]
    pretended.end("COMPLETED", "1_0")
    pretended.end("OUT_OF_MEMORY", "1_1")
    waiting.step()
    assert [one.ids() for one, _ in pretended.taken[1:]] == [["2_0", "2_1"]]
    assert pretended.taken[1][1] == ""  # what it needs stands
    said = capsys.readouterr().err
    assert "train: SLURM job 1_1: out of memory; log " in said
    assert said.count("attack: not begun: what it builds on failed") == 2
    pretended.end("COMPLETED", "2_0", "2_1")
    waiting.step()
    assert not waiting.busy and waiting.done == 1.0


def test_packed_commands_share_a_job_and_none_waits_for_the_failure_of_another(
    store: Store, pretended: Pretended
):
    waiting = Queue([*TRAIN, *ATTACK], Slurm(pack=2), store, {})
    waiting.step()
    assert [(one.ids(), after) for one, after in pretended.taken] == [
        (["1"], ""), (["2_0", "2_1"], "afterany:1"),
    ]  # fmt: skip


def test_the_same_command_finds_the_jobs_of_one_that_died(
    store: Store, pretended: Pretended, capsys: pytest.CaptureFixture[str]
):
    Queue(TRAIN, Slurm(), store, {}).step()
    elsewhere = [replace(one, words=("/q/entrypoints/train.py", *one.words[1:])) for one in TRAIN]
    again = Queue([*elsewhere, task("train", 7)], Slurm(), store, {})
    again.step()
    assert [len(one.elements) for one, _ in pretended.taken] == [2, 1]
    assert capsys.readouterr().err.count("is at this already; it runs snapshot code") == 2
    pretended.end("COMPLETED", "1_0", "1_1", "2")
    again.step()
    assert not again.busy


def test_who_stops_waiting_is_told_which_jobs_go_on_and_whether_any_do(
    store: Store, pretended: Pretended
):
    waiting = Queue([*TRAIN, *ATTACK], Slurm(max_jobs=2), store, {})
    assert waiting.farewell() == "no SLURM job goes on; 6 runs were not handed over"
    waiting.step()
    assert waiting.farewell().startswith("2 SLURM jobs go on without this process; 4 runs were not")


def test_what_waits_for_jobs_that_are_all_cancelled_was_stopped_and_did_not_fail(
    store: Store, pretended: Pretended
):
    waiting = Queue(TRAIN, Slurm(), store, {})
    waiting.step()
    queue.cancel_all(queue.book_of(store))
    with pytest.raises(Interrupted, match=r"stopped by -e cancel -P all=true; start the command"):
        waiting.step()


def test_jobs_that_were_handed_over_and_not_noted_are_found_by_their_comment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = Book(tmp_path)
    for token in ("lost", "never made"):
        kept.note(Submission(token, "2026-01-01", "code", tuple((one,) for one in TRAIN)))
    queued = [Job(f"31_{n}", "PENDING", comment="papertrail lost") for n in range(2)]
    monkeypatch.setattr(slurm, "mine", lambda: queued)
    [found] = kept.open()
    assert found.ids() == ["31_0", "31_1"]
    assert [one.token for one in kept.submissions()] == ["lost"]
    assert kept.submissions() == [found]  # and what was read is what was written
    assert book.key(found.of("31_1")[0].words) == ("train.py", "--seed=1")


def test_jobs_of_one_second_are_listed_in_the_order_in_which_they_were_handed_over(tmp_path: Path):
    kept = Book(tmp_path)
    for token, job in (("c", "9"), ("b", "10"), ("a", "11")):
        kept.note(Submission(token, "2026-01-01 00:00:00", "code", ((TRAIN[0],),), job))
    assert [one.job for one in kept.submissions()] == ["9", "10", "11"]


def test_who_cancels_a_job_cancels_what_waits_for_it():
    elements = [Submission("a", "", "", tuple((one,) for one in TRAIN), "1")]
    elements += [Submission("b", "", "", tuple((one,) for one in ATTACK), "2")]
    assert jobs.chosen(elements, "1_0") == ["1_0", "2_0", "2_2"]
    assert len(jobs.chosen(elements, "1")) == len(jobs.chosen(elements, "")) == 6
    with pytest.raises(BadInput, match="none of this store"):
        jobs.chosen(elements, "99")


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "status"),
    [("CANCELLED", "KILLED"), ("RUNNING", "RUNNING"), ("VANISHED", "RUNNING")],
)
def test_a_run_that_mlflow_opened_for_a_job_that_was_cancelled_does_not_read_running(
    store: Store, word: str, status: str
):
    opened = store.client.create_run("0").info.run_id
    handed = replace(TRAIN[0], opened=opened)
    one = Submission("token", "2026-01-01 00:00:00", "code", ((handed,),), "7")
    jobs.end_opened([one], {"7": Job("7", word)}, queue.book_of(store), store)
    run = store.client.get_run(opened)
    assert run.info.status == status
    said = "SLURM job 7: cancelled" if status == "KILLED" else None
    assert run.data.tags.get("papertrail.failure") == said


@pytest.mark.parametrize("gone", ["deleted", "purged"])
def test_a_run_that_was_deleted_before_its_job_ended_badly_stays_as_it_is(store: Store, gone: str):
    opened = store.client.create_run("0").info.run_id
    store.client.delete_run(opened)
    if gone == "purged":
        store.client._tracking_client.store._hard_delete_run(opened)
    handed = replace(TRAIN[0], opened=opened)
    one = Submission("token", "2026-01-01 00:00:00", "code", ((handed,),), "7")
    jobs.end_opened([one], {"7": Job("7", "CANCELLED")}, queue.book_of(store), store)


def test_a_preset_hands_runs_to_slurm_and_leaves_their_identity_alone():
    words = ["--launcher=slurm", "--run.slurm.resources={toy: {gpus: 1, minutes: 480}}"]
    config, execution = cli.parse(TOY, words)
    assert config == ToyConfig() and execution.launcher == "slurm"
    assert execution.slurm.of("toy") == Resources(gpus=1, minutes=480)
    assert execution.slurm.of("another") == Resources()
    assert cli.parse(TOY, words[:1])[1].slurm.of("another").minutes == 240


def test_what_sbatch_is_told_follows_from_the_options():
    options = Slurm(partition="gpu", options={"constraint": "a100"}, requeues=3, max_jobs=5)
    one = Submission("t", "", "c", tuple((one,) for one in TRAIN))
    code = submit.Code(Path("/code"), "abc")
    told = submit.parameters(one, "afterok:7", Resources(gpus=2, memory_gb=1.5), options, code)
    assert told["partition"] == "gpu" and told["dependency"] == "afterok:7"
    assert (told["gpus_per_node"], told["mem"], told["time"]) == (2, "1536MB", 60)
    assert told["comment"] == "papertrail t" and told["array_parallelism"] == 5
    assert told["additional_parameters"] == {
        "requeue": True, "kill-on-invalid-dep": "yes", "constraint": "a100",
    }  # fmt: skip
    assert "account" not in told and "qos" not in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Slurm(resources={"trian": Resources()}), "run.slurm.resources: no entry point .*trian"),
        (None, "run.launcher: there is no SLURM here"),
    ],
    ids=["typo", "no SLURM"],
)
def test_what_cannot_be_handed_over_is_refused_before_anything_runs(
    options: Slurm | None, message: str, says: Path, monkeypatch: pytest.MonkeyPatch
):
    from papertrail.core.answering import launch

    if options is None:
        monkeypatch.setenv("PATH", "")
    execution = Execution(launcher="slurm", slurm=options or Slurm())
    with pytest.raises(BadInput, match=message), launch.chosen(execution):
        pass


# -- on the node -----------------------------------------------------------------------------------

SCRIPT = """\
import json, os, signal, sys, time
def leave(*_): print("stopped", flush=True); sys.exit(1)
signal.signal(signal.SIGTERM, leave)
print(json.dumps(dict(os.environ)), flush=True)
os.kill(os.getpid(), signal.SIGUSR1)  # as SLURM does to every process of a job
if sys.argv[1] == "wait": time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def work(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    (project / "entrypoints" / "toy.py").write_text(SCRIPT)
    for name, value in {
        "SLURM_JOB_ID": "7", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SUBMITIT_FOLDER": "x",
        "CUDA_VISIBLE_DEVICES": "2,3",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("SLURM_ARRAY_JOB_ID", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    code = snapshot.take(project, tmp_path / "kept")
    before = signal.getsignal(signal.SIGTERM)
    yield Work(code, "abc", (), tmp_path, tmp_path, "3", 100)
    signal.signal(signal.SIGTERM, before)


def with_errands(work: Work, *words: str) -> Work:
    return replace(work, errands=tuple(Errand("entrypoints/toy.py", (word,)) for word in words))


def seen(work: Work, number: int) -> dict[str, str]:
    found = json.loads(log_of(work.folder, "7", number).read_text().splitlines()[0])
    assert isinstance(found, dict)
    return found


def test_a_child_sees_which_job_it_is_and_nothing_for_lightning_to_queue_again(work: Work):
    assert with_errands(work, "0")() == [0]
    found = seen(work, 0)
    assert found["SLURM_JOB_ID"] == "7" and not {"SLURM_NTASKS", "SLURM_PROCID"} & set(found)
    assert "SUBMITIT_FOLDER" not in found and found["OMP_NUM_THREADS"] == "3"
    assert found[slurm.COMMIT] == "abc" and found[slurm.SNAPSHOT] == work.code.name
    assert found[slurm.LOG] == str(log_of(work.folder, "7", 0))
    assert found["PYTHONPATH"] == str(work.code / "src")
    assert found["CUDA_VISIBLE_DEVICES"] == "2,3"


def test_packed_children_get_a_gpu_each_and_every_exit_code_is_looked_at(work: Work):
    packed = with_errands(work, "0", "3", "0")
    with pytest.raises(RuntimeError, match=r"exit codes \[0, 3, 0\]"):
        packed()
    assert [seen(work, n)["CUDA_VISIBLE_DEVICES"] for n in range(3)] == ["2", "3", "2"]
    assert read_end(work.folder, "7") == End([0, 3, 0])


def test_the_signal_asks_children_for_their_checkpoints_and_the_job_goes_on_later(work: Work):
    waiting = with_errands(work, "wait")
    again: list[Any] = []
    before = psutil.Process().children()

    def signalled(*_: object) -> None:
        begun = log_of(work.folder, "7", 0)
        while not (begun.exists() and begun.read_text()):
            time.sleep(0.02)
        again.append(waiting.checkpoint())

    signal.signal(signal.SIGALRM, signalled)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    with pytest.raises(RuntimeError, match=r"exit codes \[1\]"):
        waiting()
    assert log_of(work.folder, "7", 0).read_text().endswith("stopped\n")
    assert again[0].function == with_errands(work, "wait")
    assert psutil.Process().children() == before
