"""Runs as jobs of a real SLURM with four nodes: what is lost, what is doubled, what is told.

Minutes long: `make slurm-test`. What can be tested without a cluster is in test_slurm.py.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from cluster_toys import AFTER, STEPS, StepsConfig
from clusters import (
    Laboratory,
    began_at,
    children_of_job,
    cluster,
    limits_memory,
    make_project,
    scontrol,
    until,
    why_not,
)

from papertrail.core import slurm
from papertrail.core.answering import launch
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import Missing
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Question
from papertrail.core.question.resources import Resources, Slurm
from papertrail.core.reading import query
from papertrail.core.storage.store import Store, connect

pytestmark = [pytest.mark.skipif(bool(why_not()), reason=why_not()), pytest.mark.timeout(600)]
QUICK = Slurm(poll_seconds=0.5, signal_seconds=25)
NUM_JOBS = int(os.environ.get("PAPERTRAIL_SLURM_JOBS") or 24)


@pytest.fixture(scope="module")
def laboratory(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laboratory]:
    folder = tmp_path_factory.mktemp("slurm")
    project = make_project(folder / "project")
    shutil.copy(migrated, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch, cluster() as nodes:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        for module in ("answering.processes", "writing.track"):
            patch.setattr(f"papertrail.core.{module}.ROOT", project)
        slurm.cluster_name.cache_clear()
        found = Laboratory(project, connect(), nodes)
        yield found
        found.leave()
    slurm.cluster_name.cache_clear()


def asks(**what: object) -> Question:
    return Question(STEPS, StepsConfig(**what))  # type: ignore[arg-type]


def words(question: Question) -> list[str]:
    from papertrail.core.question.cli import arguments

    return [word.removeprefix("--") for word in arguments(question.config)]


# -- nothing lost, nothing doubled -----------------------------------------------------------------


def test_short_jobs_over_several_nodes_lose_nothing_and_duplicate_nothing(laboratory: Laboratory):
    asked = [asks(seed=seed) for seed in range(NUM_JOBS)]
    asked += [Question(AFTER, StepsConfig(seed=seed)) for seed in range(3)]
    begin = time.monotonic()
    few_at_a_time = replace(QUICK, max_jobs=8, resources={"default": Resources(cpus=4)})
    with launch.chosen(Execution(launcher="slurm", slurm=few_at_a_time)):
        records = launch.require_all(asked, laboratory.store)
    print(f"{len(asked)} jobs in {time.monotonic() - begin:.0f} s")
    expected = [*range(NUM_JOBS), *(1000 + seed for seed in range(3))]
    assert [record.metrics["answer"] for record in records] == expected
    assert {len(laboratory.runs(question)) for question in asked} == {1}
    jobs = laboratory.jobs()
    assert Counter(job.state for job in jobs.values()) == {"completed": len(asked)}
    assert len({job.node for job in jobs.values()}) > 1
    assert {record.tags.get("lightning", "no SLURM") for record in records} == {"no SLURM"}


def test_a_second_time_nothing_is_handed_over(laboratory: Laboratory):
    before = len(laboratory.book.submissions())
    code, out, err = laboratory.types("after", "seed=0").ended()
    assert code == 0, err
    assert "1000" in out and len(laboratory.book.submissions()) == before


# -- queued again ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(laboratory: Laboratory) -> Iterator[Question]:
    """A run that needs more minutes than it is given; it goes on while others are tested."""
    question = asks(steps=240, seconds=0.5, seed=240)
    person = laboratory.types(
        "steps", *words(question), "run.slurm.resources={steps: {minutes: 2}}"
    )
    laboratory.at_work(question)
    yield question
    code, _, err = person.ended()
    assert code == 0, err


def test_a_job_that_scontrol_queues_again_takes_back_its_run(
    laboratory: Laboratory, limited: Question
):
    question = asks(steps=60, seconds=0.2, seed=60)
    person = laboratory.types("steps", *words(question))
    begun = laboratory.at_work(question)
    scontrol("requeue", begun.tags["papertrail.job"])
    code, _, err = person.ended()
    assert code == 0, err
    [record] = laboratory.runs(question)
    assert record.run_id == begun.run_id and not record.unusable()
    assert record.tags["papertrail.job"] == begun.tags["papertrail.job"]
    first, *later = began_at(record)
    assert first == 0 and len(later) == 1 and later[0] > 0
    assert laboratory.history(record) == [(step, step) for step in range(60)]


def test_the_signal_before_a_time_limit_resumes_a_real_training_to_the_same_loss_curve(
    laboratory: Laboratory, smoke: list[str]
):
    from papertrail.core.question import cli
    from papertrail.monotone.config import PRETRAIN

    argv = [*smoke, "--pretrain.steps=200", "--compute.checkpoint_seconds=1e-9"]
    config = cli.parse(PRETRAIN, argv)[0]
    question = Question(PRETRAIN, config)
    person = laboratory.types("pretrain", *words(question))
    begun = laboratory.at_work(question, step=1)
    # The same signal to the same processes as SLURM's own, at a moment of our choice.
    subprocess.run(["scancel", "--signal=USR1", begun.tags["papertrail.job"]], check=True)
    code, _, err = person.ended()
    assert code == 0, err
    [resumed] = laboratory.runs(question)
    assert resumed.run_id == begun.run_id
    assert slurm.look([begun.tags["papertrail.job"]])[begun.tags["papertrail.job"]].restarts == 1
    log = Path(resumed.tags["papertrail.log"]).read_text()
    assert f"resuming run {begun.run_id}" in log
    uninterrupted = require(PRETRAIN, config, "force", laboratory.store)
    curves = [laboratory.history(one, "train/loss") for one in (resumed, uninterrupted)]
    assert curves[0] == curves[1] and len(curves[0]) > 10


def test_a_preempted_job_is_queued_again_and_goes_on(laboratory: Laboratory):
    question = asks(steps=50, seconds=0.2, seed=50)
    person = laboratory.types("steps", *words(question), "run.slurm.options={nodelist: n3}")
    begun = laboratory.at_work(question)
    urgent = ["sbatch", "--partition=urgent", "--nodelist=n3", "--exclusive", "--wrap=sleep 2"]
    subprocess.run([*urgent, "--output=/dev/null"], check=True, capture_output=True)
    code, _, err = person.ended()
    assert code == 0, err
    [record] = laboratory.runs(question)
    assert record.run_id == begun.run_id and began_at(record)[1:]
    assert laboratory.history(record) == [(step, step) for step in range(50)]


# -- stopped ---------------------------------------------------------------------------------------


def test_cancelling_a_job_kills_its_run_and_what_waits_for_it(laboratory: Laboratory):
    config = StepsConfig(steps=5000, seconds=0.2, seed=200)
    person = laboratory.types("after", *words(Question(AFTER, config)))
    begun = laboratory.at_work(Question(STEPS, config))
    shown = laboratory.types("status", away=False).ended()[1]
    [line] = [line for line in shown.splitlines() if begun.run_id in line]
    assert "running" in line and line.split()[0] == begun.tags["papertrail.job"]
    assert begun.tags["papertrail.log"] in shown
    code, out, err = laboratory.types(
        "cancel", f"job={begun.tags['papertrail.job']}", away=False
    ).ended()
    assert code == 0 and "cancelled 2 jobs" in out, err
    code, _, err = person.ended()
    assert code == 1 and "cancelled" in err
    assert laboratory.runs(Question(STEPS, config))[0].status == "KILLED"
    assert not laboratory.runs(Question(AFTER, config))


def test_cancelling_everything_stops_who_waits_as_well(laboratory: Laboratory, limited: Question):
    until(lambda: laboratory.runs(limited)[0].status == "FINISHED", "the limited run is over")
    question = asks(steps=5000, seconds=0.2, seed=201)
    person = laboratory.types("steps", *words(question))
    laboratory.at_work(question)
    assert laboratory.types("cancel", "all=true", away=False).ended()[0] == 0
    assert person.ended()[0] == 1
    assert laboratory.runs(question)[0].status == "KILLED"
    assert not [job for job in laboratory.jobs().values() if not job.ended]


def test_a_worker_that_is_killed_is_said_and_its_run_is_resumed_by_the_next(
    laboratory: Laboratory,
):
    question = asks(steps=5, do="kill", seed=5)
    code, _, err = laboratory.types("steps", *words(question)).ended()
    assert code == 1 and "exit codes [-9]" in err
    assert laboratory.runs(question)[0].status == "KILLED"
    code, _, err = laboratory.types("steps", *words(question)).ended()
    assert code == 0, err
    [record] = laboratory.runs(question)
    assert began_at(record) == [0, 4]


@pytest.mark.skipif(not limits_memory(), reason="no memory control group here that we may write")
def test_a_job_that_runs_out_of_memory_is_told_so_and_goes_on_from_its_checkpoint(
    store: Store, laboratory: Laboratory
):
    question = asks(steps=5, do="eat", seed=9)
    with cluster("memory") as nodes:
        there = Laboratory(laboratory.project, store, nodes)
        little = "run.slurm.resources={steps: {memory_gb: 1.5}}"
        code, _, err = there.types("steps", *words(question), little).ended()
        assert code == 1 and "SLURM job 1: out of memory; exit codes [-9]" in err
        [killed] = there.runs(question)
        why = "its process died; SLURM job 1: out of memory"
        assert (killed.status, killed.tags["papertrail.failure"]) == ("KILLED", why)
        code, _, err = there.types("steps", *words(question)).ended()
        assert code == 0, err
    [record] = there.runs(question)
    assert record.run_id == killed.run_id and began_at(record) == [0, 4]
    assert "papertrail.failure" not in record.tags


def test_what_builds_on_a_failure_is_not_begun_and_the_others_are(laboratory: Laboratory):
    broken = StepsConfig(do="raise", seed=7)
    asked = [Question(AFTER, broken), asks(seed=8)]
    with (
        launch.chosen(Execution(launcher="slurm", slurm=QUICK)),
        pytest.raises(Missing, match=r"1 of 2 runs are missing: after .*the toy broke"),
    ):
        launch.require_all(asked, laboratory.store)
    assert [run.status for run in laboratory.runs(Question(STEPS, broken))] == ["FAILED"]
    assert not laboratory.runs(asked[0]) and len(laboratory.runs(asked[1])) == 1


# -- lost ------------------------------------------------------------------------------------------


def test_a_run_of_a_lost_node_is_pending_and_not_dead_and_goes_on(laboratory: Laboratory):
    question = asks(steps=60, seconds=0.3, seed=62)
    person = laboratory.types("steps", *words(question), "run.slurm.options={nodelist: n2}")
    job = laboratory.at_work(question).tags["papertrail.job"]
    daemon = psutil.Process(int((laboratory.nodes / "run/slurmd.n2.pid").read_text()))
    for process in [daemon, *children_of_job(slurm.look([job])[job].raw)]:
        process.kill()
    until(lambda: slurm.look([job])[job].state == "pending", "SLURM noticed and queued it again")
    time.sleep(slurm.FRESH_SECONDS)
    found = standing(STEPS, question.config, laboratory.store)
    assert found.state == "running" and not found.dead  # it waits to go on
    subprocess.run(["slurmd", "-N", "n2"], check=True)
    code, _, err = person.ended()
    assert code == 0, err
    [record] = laboratory.runs(question)
    assert not record.unusable() and len(began_at(record)) == 2


def test_a_launcher_that_was_killed_finds_its_jobs_again(laboratory: Laboratory):
    config = StepsConfig(steps=40, seconds=0.3, seed=40)
    person = laboratory.types("after", *words(Question(AFTER, config)))
    begun = laboratory.at_work(Question(STEPS, config))
    person.kill(signal.SIGKILL)
    before = len(laboratory.book.submissions())
    code, _, err = laboratory.types("after", *words(Question(AFTER, config))).ended()
    assert code == 0, err
    assert err.count("is at this already") == 2
    assert len(laboratory.book.submissions()) == before
    assert [run.run_id for run in laboratory.runs(Question(STEPS, config))] == [begun.run_id]
    assert len(laboratory.runs(Question(AFTER, config))) == 1


def test_who_stops_waiting_is_told_that_the_jobs_go_on(laboratory: Laboratory):
    question = asks(steps=20, seconds=0.2, seed=20)
    person = laboratory.types("steps", *words(question))
    laboratory.at_work(question)
    said = person.kill(signal.SIGINT)
    assert "1 SLURM jobs go on" in said and "-e cancel" in said
    until(lambda: laboratory.runs(question)[0].status == "FINISHED", "it went on")


# -- the code --------------------------------------------------------------------------------------


def test_a_tree_that_is_edited_while_jobs_wait_changes_nothing_of_theirs(laboratory: Laboratory):
    source = laboratory.project / "src" / "cluster_toys.py"  # a file that git does not track
    before, question = source.read_text(), asks(seed=99)
    person = laboratory.types("steps", *words(question), "run.slurm.options={begin: now+12}")
    until(lambda: laboratory.handed_over(question), "the job waits")
    source.write_text(before.replace('"answer": config.seed', '"answer": -1.0'))
    try:
        code, _, err = person.ended()
    finally:
        source.write_text(before)
    assert code == 0, err
    [record] = laboratory.runs(question)
    assert record.metrics["answer"] == 99
    commit = subprocess.run(
        ["git", "-C", laboratory.project, "rev-parse", "HEAD"], capture_output=True, text=True
    ).stdout.strip()  # fmt: skip
    assert record.tags["papertrail.git"].removesuffix("-dirty") == commit
    kept = laboratory.store.work / "snapshots" / record.tags["papertrail.snapshot"]
    assert (kept / "src" / "cluster_toys.py").read_text() == before


def test_packed_runs_share_a_job_and_have_a_gpu_each(laboratory: Laboratory):
    asked = [asks(seed=seed) for seed in range(300, 304)]
    packed = replace(QUICK, pack=2, resources={"steps": Resources(gpus=2)})
    with launch.chosen(Execution(launcher="slurm", slurm=packed)):
        records = launch.require_all(asked, laboratory.store)
    jobs = Counter(record.tags["papertrail.job"] for record in records)
    assert list(jobs.values()) == [2, 2]
    for job in jobs:
        gpus = [one.tags["gpu"] for one in records if one.tags["papertrail.job"] == job]
        assert sorted(gpus) == ["0", "1"]
    assert len({record.tags["papertrail.log"] for record in records}) == 4


# -- mlflow run --backend --------------------------------------------------------------------------


def backend_run(laboratory: Laboratory, smoke: list[str], *more: str) -> str:
    """Id of the run of a corpus that `mlflow run` hands over."""
    options = [word.removeprefix("--") for word in [*smoke, *more]]
    done = subprocess.run(
        [
            sys.executable, "-m", "mlflow", "run", str(laboratory.project), "-e", "corpus",
            "--backend", "papertrail-slurm", "--backend-config", '{"signal_seconds": 25}',
            "--experiment-name", "handed", *(w for o in options for w in ("-P", o)),
        ],
        env=os.environ | {"PYTHONPATH": str(laboratory.project / "src")},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("run ")[1].split(",")[0]


def test_mlflow_run_with_our_backend_computes_in_the_run_that_it_opened(
    laboratory: Laboratory, smoke: list[str]
):
    run_id = backend_run(laboratory, smoke, "--data.vocab_size=500")
    until(lambda: query.by_id(run_id, laboratory.store).status != "RUNNING", "it ended")
    record = query.by_id(run_id, laboratory.store)
    assert not record.unusable() and record.tags["mlflow.project.backend"] == "papertrail-slurm"
    again = backend_run(laboratory, smoke, "--data.vocab_size=500")
    until(lambda: query.by_id(again, laboratory.store).status != "RUNNING", "the pointer ended")
    pointer = query.by_id(again, laboratory.store)
    assert pointer.status == "FINISHED" and pointer.tags["papertrail.answered_by"] == run_id


def test_a_run_of_our_backend_that_is_cancelled_reads_killed(
    laboratory: Laboratory, smoke: list[str]
):
    from papertrail.cluster.backend import backend

    params = dict(
        word.removeprefix("--").split("=", 1) for word in [*smoke, "--data.vocab_size=600"]
    )
    waits = {"options": {"begin": "now+300"}}
    group = laboratory.store.experiment_id("handed")
    uri = laboratory.store.uri
    handed = backend().run(str(laboratory.project), "corpus", params, None, waits, uri, group)
    handed.cancel()
    assert laboratory.store.client.get_run(handed.run_id).info.status == "KILLED"
    assert not handed.wait()
    params["data.vocab_size"] = "700"
    handed = backend().run(str(laboratory.project), "corpus", params, None, waits, uri, group)
    typed = laboratory.types("cancel", f"job={handed.job_id}", away=False)
    assert typed.ended()[0] == 0
    assert laboratory.store.client.get_run(handed.run_id).info.status == "KILLED"


# -- time ------------------------------------------------------------------------------------------


def test_a_run_longer_than_its_time_limit_is_queued_again_until_it_is_done(
    laboratory: Laboratory, limited: Question
):
    until(lambda: laboratory.runs(limited)[0].status == "FINISHED", "the limited run is over")
    [record] = laboratory.runs(limited)
    assert len(began_at(record)) > 1
    assert laboratory.history(record) == [(step, step) for step in range(240)]


def test_of_a_job_that_slurm_forgot_nothing_is_concluded(store: Store, laboratory: Laboratory):
    gone = slurm.look(["999999"])["999999"]
    assert gone.state == "vanished" and gone.ended and gone.state != "completed"
