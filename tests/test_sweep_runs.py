"""What comes out of a sweep: each identity once, the budget exactly, whoever dies on the way."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import postgres
import pytest
import swept
import yaml
from conftest import ROOT
from killed import finished, runs
from swept import BOWL, words

from papertrail.core.answering import launch
from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing.pruning import NUMBER, SWEEP
from papertrail.sweep import answer, storage
from papertrail.sweep.config import find, sweeping
from papertrail.sweep.results import Result

STOPPED = {"it was stopped", "its process died"}
"""The second where the signal came between two trials."""
SIX = "{bowl.x: {choices: [0.1, 0.5, 0.3]}, bowl.n: {choices: [1, 2]}}"
Point = dict[str, Any]


def swept_in(store: Store, argv: Sequence[str], target: Any = BOWL) -> Record:
    """The run of a sweep, computed in this process."""
    experiment = sweeping(target)
    config, _ = cli.parse(experiment, argv)
    return require(experiment, config, store=store)


def result(record: Record) -> Result:
    return Result.model_validate(record.json("sweep"))


def points(found: Result) -> list[Point]:
    return [one.point for one in found.trials if one.state != "failed"]


@pytest.fixture(scope="module")
def six(module_store: Store) -> Record:
    """Ten random trials over six points."""
    argv = words("--sampler.name=random", f"--space={SIX}", "--bowl.n=2", trials=10)
    return swept_in(module_store, argv)


# -- each identity once ----------------------------------------------------------------------------


def test_trials_that_mean_the_same_compute_once(six: Record):
    found = result(six)
    distinct = {tuple(sorted(point.items())) for point in points(found)}
    assert len(found.trials) == 10 and len(distinct) == len({t.run_id for t in found.trials}) <= 6
    mine = [run for run in runs(six.store) if run.data.tags.get(SWEEP) == six.run_id]
    assert len(mine) == len(distinct)
    counted = {key: six.metrics[f"n_{key}"] for key in ("complete", "pruned", "failed", "reused")}
    reused = 10 - len(distinct)
    assert counted == {"complete": 10, "pruned": 0, "failed": 0, "reused": reused}


def test_the_first_trial_is_the_target_as_its_options_stand(six: Record):
    assert result(six).trials[0].point == {"bowl.x": "0.5", "bowl.n": "2"}


def test_the_best_trial_is_the_metric_of_the_sweep_and_its_curve_falls(six: Record):
    found, (number,) = result(six), result(six).best
    best = found.of(number)
    assert best.values["depth"] == min(one.values["depth"] for one in found.trials)
    assert six.metrics["depth"] == six.metrics["best/depth"] == best.values["depth"]
    curve = [value for _, value in six.curve("best/depth")]
    assert len(curve) == 10 and curve == sorted(curve, reverse=True)
    table = pd.read_parquet(six.artifact("samples/trials.parquet"))
    assert table["depth"].min() == best.values["depth"] and len(table) == 10


def test_the_preset_of_the_best_means_its_run(six: Record):
    preset = six.artifact("best.yaml")
    best = result(six).of(result(six).best[0])
    assert set(yaml.safe_load(preset.read_text())) == {"bowl"}
    config, _ = cli.parse(BOWL, [f"--tuned={preset}"])
    again = require(BOWL, config, mode="read_only", store=six.store)
    assert again.run_id == best.run_id


def test_trials_are_marked_and_no_scan_finds_them(six: Record):
    found = query.usable("bowl", six.store, trials=True)
    assert len(found) == 6 - (6 - len({t.run_id for t in result(six).trials}))
    assert all(one.tags[SWEEP] == six.run_id and one.tags[NUMBER].isdigit() for one in found)
    assert query.usable("bowl", six.store) == []


def test_a_run_that_stood_before_is_no_trial(module_store: Store):
    config, _ = cli.parse(BOWL, ["--note=wait 0"])
    before = require(BOWL, config, store=module_store)
    argv = words("--note=wait 0", "--sampler.name=grid", "--space={bowl.n: {choices: [4, 5]}}")
    found = result(swept_in(module_store, argv))
    assert [one.reused for one in found.trials] == [True, False]
    assert found.trials[0].run_id == before.run_id
    assert SWEEP not in query.by_id(before.run_id, module_store).tags


def test_the_figures_are_there(six: Record):
    names = {path.stem for path in six.artifact("figures").iterdir()}
    assert {"history_depth", "parallel_depth"} <= names


def test_what_to_type_next_is_said(six: Record, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    argv = words("--sampler.name=random", f"--space={SIX}", "--bowl.n=2", trials=10)
    preset = tmp_path / "new" / "mine.yaml"
    config, _ = cli.parse(sweeping(BOWL), [*argv, f"--write_preset={preset}"])
    answer.show(six, config)
    said = capsys.readouterr().out
    assert "10 complete, 0 pruned" in said and f"-P tuned={preset}" in said
    assert "this run again: mlflow run . -e bowl -P " in said
    assert preset.read_text() == six.artifact("best.yaml").read_text()


# -- several objectives ----------------------------------------------------------------------------


def test_a_front_holds_what_no_other_beats_and_a_preset_of_each(module_store: Store):
    grid = "{bowl.x: {choices: [0.3, 0.5, 0.0, 1.0]}}"
    both = "--objectives={depth: minimize, rim: minimize}"
    record = swept_in(module_store, words(f"--space={grid}", both, "--sampler.name=grid"))
    found = result(record)
    front = sorted(found.of(number).point["bowl.x"] for number in found.best)
    assert front == ["0.3", "0.5"]
    (diverged,) = (one for one in found.trials if one.state == "pruned")
    assert (diverged.point["bowl.x"], diverged.why) == ("1", "it diverged")
    assert len(list(record.artifact("pareto").iterdir())) == 2
    assert record.artifact("figures/pareto.png").stat().st_size > 10_000


# -- what cannot be tried --------------------------------------------------------------------------


def test_a_metric_that_no_run_has_is_refused_before_the_first_trial(six: Record):
    experiment = sweeping(BOWL)
    config, _ = cli.parse(experiment, words("--objectives={dept: minimize}"))
    with pytest.raises(BadInput, match=r"no metric dept; did you mean depth\?"):
        answer._refuse_unknown_metric(BOWL, config, six.store)


def test_a_metric_that_the_first_run_has_not_ends_the_sweep(store: Store):
    with pytest.raises(Missing, match=r"no metric dept; did you mean depth\?"):
        swept_in(store, words("--objectives={dept: minimize}", trials=30))
    assert Counter(run.info.status for run in runs(store)) == {"FINISHED": 1, "FAILED": 1}


def test_a_point_that_fails_is_tried_three_times_and_the_budget_is_spent_on_others(store: Store):
    space = "{bowl.kind: {choices: [ragged, round]}, bowl.x: {low: 0.1, high: 0.9}}"
    record = swept_in(store, words(f"--space={space}", "--sampler.name=random", trials=5))
    found = result(record)
    assert found.count("complete") == 5 and found.count("failed") % 3 == 0
    failed = Counter(str(one.point) for one in found.trials if one.state == "failed")
    assert set(failed.values()) == {3}
    assert {one.why for one in found.trials if one.state == "failed"} == {
        "RuntimeError: the bowl is ragged"
    }


def test_values_that_do_not_go_together_are_tried_once_and_end_a_hopeless_sweep(store: Store):
    argv = words("--space={bowl.n: {choices: [13]}}", "--sampler.name=random", "--failures=2")
    with pytest.raises(Missing, match=r"gives up: 2 points failed .* brings bad luck \(13\)"):
        swept_in(store, argv)
    assert len(runs(store)) == 1


def test_a_trial_that_broke_once_is_tried_again_at_the_same_point(store: Store, tmp_path: Path):
    found = result(swept_in(store, words(f"--note=break {tmp_path / 'once'}", trials=3)))
    first, again, *_ = found.trials
    assert (first.state, again.state, again.attempt) == ("failed", "complete", 2)
    assert first.point == again.point and found.count("complete") == 3


# -- who dies --------------------------------------------------------------------------------------


def test_a_killed_sweep_goes_on_to_the_points_of_one_that_was_not(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests'}")
    argv = words(f"--note=kill3 {tmp_path}", "--sampler.startup=3", trials=5)
    process = [sys.executable, swept.__file__, *argv]
    assert subprocess.run(process, capture_output=True).returncode == -signal.SIGKILL
    before = finished(store)
    assert len(before) == 2
    died = swept_in(store, argv)
    assert set(finished(store).values()) == {1} and set(before) <= set(finished(store))
    whole = swept_in(store, words("--note=wait 0", "--sampler.startup=3", trials=5))
    assert points(result(died)) == points(result(whole))
    assert died.metrics["n_complete"] == 5 and died.metrics["n_failed"] == 1
    assert [run.info.status for run in runs(store) if run.info.run_id == died.run_id] == [
        "FINISHED"
    ]


def test_a_stopped_sweep_goes_on_with_the_point_it_was_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}:{ROOT / 'tests'}")
    argv = words("--note=wait 0.5", "--sampler.name=random", trials=3)
    process = subprocess.Popen([sys.executable, swept.__file__, *argv], stderr=subprocess.DEVNULL)
    while not finished(store):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 1
    found = result(swept_in(store, argv))
    assert len(found.trials) <= 4 and found.count("complete") == 3
    assert {one.why for one in found.trials if one.state == "failed"} <= STOPPED


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL database for studies."""
    if reason := postgres.absent():
        pytest.skip(reason)
    with postgres.server() as address:
        yield address


def test_two_workers_share_a_study_and_the_points_of_one_that_dies(
    store: Store, shared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    swept.entry_points(tmp_path)
    monkeypatch.setattr("papertrail.core.answering.processes.ROOT", tmp_path)
    argv = words(f"--note=kill {tmp_path / 'once'}", f"--storage={shared}", trials=8)
    with launch.pool(2):
        record = swept_in(store, argv)
    found = result(record)
    assert (found.count("complete"), found.count("failed")) == (8, 1)
    (dead,) = (one for one in found.trials if one.state == "failed")
    assert dead.why == "its process died"
    assert dead.point in points(found)
    assert set(finished(store).values()) == {1} and len(finished(store)) == 9
    owners = {run.data.tags["papertrail.owner"] for run in runs(store)}
    assert len(owners) >= 3  # the sweep's, and of two workers at least
    with storage.connected(shared, store) as kept:
        assert len(optuna.study.get_all_study_names(kept)) == 1


# -- pruning ---------------------------------------------------------------------------------------


def test_a_training_that_is_worse_is_ended_at_a_validation_and_is_no_answer(
    store: Store, smoke: list[str]
):
    target = find("pretrain")
    argv = [
        *smoke, "--target=pretrain", "--sampler.name=grid", "--pruner.name=median",
        "--pruner.startup=1", "--space={pretrain.lr: {choices: [0.01, 1e-9]}}",
        "--objectives={val/loss: minimize}",
    ]  # fmt: skip
    record = swept_in(store, argv, target)
    good, bad = result(record).trials
    assert (good.state, bad.state, record.metrics["n_pruned"]) == ("complete", "pruned", 1)
    assert (bad.last_step, good.last_step) == (5, 59)
    ended = query.by_id(bad.run_id, store)
    assert ended.status == "KILLED" and ended.unusable()
    assert ended.tags["papertrail.failure"].startswith("pruned at step 5: val/loss ")
    assert [step for step, _ in ended.curve("val/loss")] == [5]
    assert not list((store.work / bad.run_id).glob("**/*.ckpt"))
