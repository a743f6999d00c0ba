"""Why a run is not the answer, and what somebody decided about it: in words, with real stores."""

import os
import pty
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from conftest import ROOT
from toy import DOUBLE, TOY, Part, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question.cli import Execution
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.records import explain, radius, report, verdict
from papertrail.records.commands import INVALIDATE, WHY, Invalidation, Why

CONFIG = ToyConfig(part=Part(size=5))
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys are experiments of no study; here they are."""
    monkeypatch.setattr(explain, "experiments", lambda: {"toy": TOY, "double": DOUBLE})


def why(run: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    explain.answer(WHY, Why(run=run), None)
    return capsys.readouterr().out


def invalidate(run: str, reason: str = "wrong data", undo: bool = False) -> None:
    verdict.invalidate(INVALIDATE, Invalidation(run=run, reason=reason, undo=undo), None)


def test_of_a_run_that_answers_every_check_holds(store: Store, capsys: pytest.CaptureFixture[str]):
    said = why(require(DOUBLE, CONFIG).run_id, capsys)
    assert said.count("  yes  ") == 6 and "  no   " not in said
    assert "It is reused" in said and "mlflow run . -e double -P part.size=5" in said


def test_a_changed_artifact_of_the_same_size_is_named(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    record = require(TOY, CONFIG)
    path = record.artifact("results/toy.json")
    path.write_bytes(path.read_bytes().replace(b"text", b"tixt"))
    assert "results/toy.json is gone or changed" in why(record.run_id, capsys)


def test_a_failed_run_says_how_and_keeps_its_traceback(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(RuntimeError):
        require(TOY, ToyConfig(do="raise"))
    failed = standing(TOY, ToyConfig(do="raise")).last
    assert failed
    assert "no   FINISHED: FAILED (RuntimeError: the toy broke)" in why(failed.run_id, capsys)
    assert "in toy\n" in failed.artifact("failure.txt").read_text()


def test_the_nearest_run_is_the_one_that_differs_in_the_fewest_options(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    near, _ = require(TOY, replace(CONFIG, seed=1)), require(TOY, ToyConfig(text="x", seed=9))
    explain.of_question(TOY, replace(CONFIG, seed=2), store)
    said = capsys.readouterr().out
    assert f"nearest run {near.run_id} (FINISHED)" in said and "config.seed: 1 -> 2" in said
    assert "mlflow run . -e toy -P part.size=5 -P seed=2" in said


def test_infrastructure_does_not_make_a_run_far(store: Store):
    near = require(TOY, ToyConfig(seed=1, device="a machine far away"))
    require(TOY, ToyConfig(seed=1, text="near by place only"))
    found = explain.nearest(TOY, ToyConfig(seed=2), store)
    assert found and found.run_id == near.run_id


def test_a_difference_further_up_is_traced_to_its_cause(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    require(DOUBLE, CONFIG)
    raised = replace(TOY, revision=2)
    above = replace(DOUBLE, upstream=lambda config: {"toy": replace_question(raised, config)})
    explain.of_question(above, CONFIG, store)
    assert "toy: revision: 1 -> 2" in capsys.readouterr().out


def replace_question(experiment, config):
    from papertrail.core.question.experiment import Question

    return Question(experiment, config)


@dataclass(frozen=True, kw_only=True)
class Changed(ToyConfig):
    """The toy's options after somebody changed a default."""

    text: str = "another default"
    """Any text."""


def test_a_changed_default_is_another_question_and_says_so(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    first = require(TOY, ToyConfig())
    changed = replace(TOY, schema=Changed)
    report.answer(changed, Changed(), Execution())
    said = capsys.readouterr().err
    assert f"when run {first.run_id} was computed, this command asked another question" in said
    assert "config.text:  -> another default" in said


def test_what_an_old_run_asked_is_compared_with_what_its_options_ask_today(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    record = require(TOY, CONFIG)
    monkeypatch.setattr(explain, "experiments", lambda: {"toy": replace(TOY, revision=3)})
    said = why(record.run_id, capsys)
    assert "today's code asks another question" in said and "revision: 1 -> 3" in said
    assert "It is not reused" in said


@dataclass(frozen=True, kw_only=True)
class Shorter:
    """The toy's options after some were removed."""

    seed: int = 0
    """Random seed."""
    do: str = "finish"
    """What to do."""


def test_options_that_are_no_more_are_named(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    record = require(TOY, CONFIG)
    shorter = replace(TOY, schema=Shorter, infrastructure=())
    monkeypatch.setattr(explain, "experiments", lambda: {"toy": shorter})
    assert "what its options ask today cannot be told: " in why(record.run_id, capsys)


@pytest.mark.parametrize("asked", [Why(), Why(run="x", experiment="toy")])
def test_one_of_run_and_experiment_is_asked_for(store: Store, asked: Why):
    with pytest.raises(BadInput, match="give run=ID, or experiment=NAME"):
        explain.answer(WHY, asked, None)


def test_invalidating_voids_what_was_built_on_it_and_keeps_the_reason(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    double, toy = require(DOUBLE, CONFIG), require(TOY, CONFIG)
    invalidate(toy.run_id)
    assert "voids 2 finished runs (1 toy, 1 double) that took" in capsys.readouterr().err
    for record in (double, toy):
        found = query.by_id(record.run_id)
        assert "wrong data" in found.unusable() and found.status == "FINISHED"
    assert require(DOUBLE, CONFIG).run_id != double.run_id


def test_an_invalidation_is_taken_back_with_both_reasons(store: Store):
    double, toy = require(DOUBLE, CONFIG), require(TOY, CONFIG)
    invalidate(toy.run_id)
    invalidate(toy.run_id, "it was the right data", undo=True)
    assert require(DOUBLE, CONFIG).run_id == double.run_id
    kept = query.by_id(double.run_id).tags["papertrail.reinstated"]
    assert "wrong data" in kept and "it was the right data" in kept


def test_another_invalidation_is_not_taken_back_with_it(store: Store):
    double, toy = require(DOUBLE, CONFIG), require(TOY, CONFIG)
    invalidate(double.run_id, "a fault of its own")
    invalidate(toy.run_id)
    invalidate(toy.run_id, "right after all", undo=True)
    assert not query.by_id(toy.run_id).unusable()
    assert "a fault of its own" in query.by_id(double.run_id).unusable()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Invalidation(run="", reason="r"), "run: not given"),
        (Invalidation(run="nowhere", reason="r"), "run: run nowhere: not in"),
        (Invalidation(run="{run}", reason=" "), "reason: not given"),
        (Invalidation(run="{run}", reason="r", undo=True), "is not invalidated"),
    ],
)
def test_a_verdict_that_cannot_be_given_is_refused(store: Store, asked: Invalidation, words: str):
    run_id = require(TOY, CONFIG).run_id
    with pytest.raises(BadInput, match=words):
        verdict.invalidate(INVALIDATE, replace(asked, run=asked.run.format(run=run_id)), None)


def test_what_was_built_on_a_run_that_is_invalidated_meanwhile_does_not_stand(store: Store):
    config = ToyConfig(part=Part(size=7))
    toy = require(TOY, config)
    spoiling = replace(DOUBLE, verb="test_why:invalidated_meanwhile")
    with pytest.raises(Missing, match="was invalidated"):
        require(spoiling, config)
    found = standing(spoiling, config)
    assert found.state == "failed" and toy.run_id in found.why


def invalidated_meanwhile(config: ToyConfig) -> None:
    record = require(TOY, config)
    record.store.client.set_tag(record.run_id, "papertrail.invalidated", "found out just now")


def test_a_raised_revision_first_says_what_it_voids(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    require(DOUBLE, CONFIG)
    raised = replace(TOY, revision=2)
    report.answer(raised, CONFIG, Execution())
    said = capsys.readouterr().err
    assert (
        "toy: raised to revision 2; this voids 2 finished runs (1 toy, 1 double) that took" in said
    )
    report.answer(raised, replace(CONFIG, seed=5), Execution())
    assert "raised to revision" not in capsys.readouterr().err  # said once


def test_hours_count_a_run_that_computed_inside_another_once(store: Store):
    double = require(DOUBLE, CONFIG)
    toy = require(TOY, CONFIG)
    info = double.run.info
    hours = radius.radius([toy.run_id], store).hours
    assert hours == pytest.approx((info.end_time - info.start_time) / 3.6e6)


def asked_in_a_terminal(answer: str, record: Record) -> tuple[int, str]:
    """Exit code and output of `invalidate` when a person sits in front of it and types."""
    leader, follower = pty.openpty()
    words = [f"--run={record.run_id}", "--reason=r"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "entrypoints" / "invalidate.py"), *words],
        env=os.environ | ENVIRONMENT, stdin=follower, stdout=follower, stderr=follower,
    )  # fmt: skip
    os.close(follower)
    os.write(leader, f"{answer}\n".encode())
    said = b""
    try:
        while block := os.read(leader, 4096):
            said += block
    except OSError:
        pass  # how a terminal ends
    os.close(leader)
    return process.wait(), said.decode()


def test_a_person_is_asked_and_may_say_no(store: Store):
    record = require(TOY, CONFIG)
    code, said = asked_in_a_terminal("n", record)
    assert code == 1 and "invalidate them? [y/N]" in said and "left as it was" in said
    assert not query.by_id(record.run_id).unusable()
    code, said = asked_in_a_terminal("y", record)
    assert code == 0 and "invalidated 1 run" in said
    assert query.by_id(record.run_id).unusable()


def typed(name: str, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "entrypoints" / f"{name}.py"), *words],
        env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_why_takes_the_options_of_the_experiment_it_is_asked_about(store: Store, text_file: Path):
    words = ["--experiment=corpus", "--scale=smoke", f"--data.text={text_file}"]
    done = typed("why", f"--config={ROOT / 'conf' / 'why.yaml'}", *words)
    assert done.returncode == 0, done.stderr
    assert "corpus " in done.stdout and ": missing" in done.stdout
    assert f"data.text={text_file}" in done.stdout


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--experiment=corups"], "why: experiment: none is called 'corups'; there are attack, "),
        (["--experiment=train", "--trian.steps=3"], "why: no option trian.steps; did you mean"),
        (["--run=nowhere"], "why: run: run nowhere: not in sqlite"),
        ([], "why: why: give run=ID, or experiment=NAME"),
    ],
)
def test_a_wrong_question_is_one_line(store: Store, words: list[str], line: str):
    done = typed("why", *words)
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1
