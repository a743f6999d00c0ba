"""An audit finds what does not reproduce, says where, and leaves the store as it was.

Audits are real: processes that compute again on a SQLite store of their own.
"""

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from audited import BASE, TIMES, BaseConfig, TimesConfig, entry_points
from conftest import ROOT
from forked import Popen
from hypothesis import given
from hypothesis import strategies as st

from papertrail.core.answering import apart, processes
from papertrail.core.answering.launch import require_all
from papertrail.core.answering.require import require
from papertrail.core.question import cli
from papertrail.core.question.experiment import Question
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.tables.agreement import Audit, relative
from papertrail.tables.audit import AUDITED, draw, result
from papertrail.tables.auditing import auditing
from papertrail.tables.catalog import find

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@dataclass(frozen=True)
class Laboratory:
    """A store in which the table of toys stands, and the entry points to type."""

    store: Store
    folder: Path

    def fill(self, *factors: int) -> list[Record]:
        chosen = factors or (1, 2, 3)
        questions = [Question(TIMES, TimesConfig(factor=factor)) for factor in chosen]
        return require_all(questions, self.store)

    def start(self, *words: str, toys: str = "", **environment: str) -> "subprocess.Popen[str]":
        """`-e audit -P table=toys` as a person types it."""
        entry = self.folder / "entrypoints" / "audit.py"
        return Popen(
            [sys.executable, str(entry), "--table=toys", *words],
            env=os.environ | {"TOYS": toys, "OMP_NUM_THREADS": "1"} | environment,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def audit(self, *words: str, toys: str = "", **environment: str) -> "Outcome":
        process = self.start(*words, toys=toys, **environment)
        stdout, stderr = process.communicate(timeout=120)
        return Outcome(process.returncode, stdout, stderr)

    def runs(self) -> dict[str, Record]:
        client = self.store.client
        found = client.search_runs([e.experiment_id for e in client.search_experiments()])
        return {run.info.run_id: Record(self.store, run) for run in found}

    def audits(self) -> list[Record]:
        return [one for one in self.runs().values() if is_audit(one)]


@dataclass(frozen=True)
class Outcome:
    code: int
    stdout: str
    stderr: str


def is_audit(record: Record) -> bool:
    return record.tags.get("papertrail.experiment") == "audit"


def laboratory(folder: Path) -> Laboratory:
    entry_points(folder, [ROOT / "src", ROOT / "tests"])
    return Laboratory(connect(), folder)


@pytest.fixture
def lab(store_uri: str, tmp_path: Path) -> Laboratory:
    return laboratory(tmp_path)


# -- an audit that finds nothing wrong -------------------------------------------------------------


@dataclass(frozen=True)
class Sound:
    """An audit of two of three cells that reproduce, and the store before and after it."""

    lab: Laboratory
    joined: str
    before: dict[str, Record]
    outcome: Outcome
    kept: Store

    @property
    def record(self) -> Record:
        return query.by_id(self.joined, self.lab.store)

    @property
    def found(self) -> Audit:
        return result(self.record)


@pytest.fixture(scope="module")
def sound(migrated: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "mlflow.db").write_bytes(migrated.read_bytes())
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        lab = laboratory(folder)
        lab.fill()
        before = lab.runs()
        # As `mlflow run` does: it opens a run and names it and its experiment.
        group = lab.store.client.create_experiment("typed", f"file://{folder}/typed")
        joined = lab.store.client.create_run(group).info.run_id
        outcome = lab.audit(
            "--cells=2", f"--keep={folder / 'kept'}", MLFLOW_RUN_ID=joined,
            MLFLOW_EXPERIMENT_ID=group,
        )  # fmt: skip
        yield Sound(lab, joined, before, outcome, apart.store_in(folder / "kept"))


def test_a_table_that_reproduces_audits_to_no_difference(sound: Sound):
    assert sound.outcome.code == 0, sound.outcome.stderr
    assert "audited 2/3, max difference 0 %" in sound.outcome.stdout
    assert sound.outcome.stdout.count("reproduced") == 2
    assert sound.record.metrics["audit/max_difference"] == 0
    assert sound.record.metrics["audit/cells"] == 2
    assert sound.record.metrics["gate/reproduced"] == 1
    assert sound.record.unusable() == ""


def test_each_cell_is_announced_with_the_time_that_it_took_before(sound: Sound):
    lines = [line for line in sound.outcome.stderr.splitlines() if line.startswith("audit ")]
    assert len(lines) == 2
    for number, (line, cell) in enumerate(zip(lines, sound.found.cells, strict=True), 1):
        assert line.startswith(f"audit {number}/2: times factor={cell.labels['factor']}, run ")
        assert cell.run_id in line
        assert line.endswith(" s")


def test_what_cells_share_is_computed_once(sound: Sound):
    assert sound.found.num_computed == sound.record.metrics["audit/runs"] == 3
    assert len(query.usable("times", sound.kept)) == 2
    assert len(query.usable("base", sound.kept)) == 1


def test_the_store_gets_exactly_one_new_run_and_no_standing_run_is_opened(sound: Sound):
    after = sound.lab.runs()
    assert set(after) - set(sound.before) == {sound.joined}
    for run_id, record in sound.before.items():
        assert after[run_id].run.info.end_time == record.run.info.end_time
        assert after[run_id].metrics.keys() == record.metrics.keys()
        assert after[run_id].unusable() == ""


def test_what_is_recomputed_knows_nothing_of_the_audit_or_its_store(sound: Sound):
    for record in query.usable("times", sound.kept):
        assert "mlflow.parentRunId" not in record.tags
        assert record.run_id not in sound.lab.runs()
        assert str(sound.kept.work.parent) in record.run.info.artifact_uri
    assert "mlflow.parentRunId" not in sound.record.tags


def test_audited_runs_carry_the_verdict_and_the_others_nothing(sound: Sound):
    after = sound.lab.runs()
    audited = {cell.run_id for cell in sound.found.cells}
    tagged = {run_id for run_id, record in after.items() if AUDITED in record.tags}
    assert tagged == audited and len(audited) == 2
    for run_id in audited:
        assert f", {sound.joined}, no difference" in after[run_id].tags[AUDITED]


def test_what_measures_the_machine_is_not_compared_and_nan_equals_nan(sound: Sound):
    for cell in sound.found.cells:
        assert set(cell.metrics) == {"product", "undefined", "zero", "chance"}
        assert cell.metrics["undefined"].standing == cell.metrics["undefined"].recomputed == "nan"
        assert all(one.difference == 0 for one in cell.metrics.values())
    ours, theirs = sound.before[sound.found.cells[0].run_id], query.usable("times", sound.kept)
    assert ours.metrics["times/seconds"] not in [one.metrics["times/seconds"] for one in theirs]


def test_the_result_is_kept_under_a_versioned_schema(sound: Sound):
    tree = json.loads(sound.record.artifact("results/audit.json").read_text())
    assert tree["schema_version"] == 1
    assert (tree["table"], tree["num_standing"], tree["num_planned"]) == ("toys", 3, 3)
    assert Audit.model_validate(tree) == sound.found
    assert all(cell["seconds"] > 0 for cell in tree["cells"])


def test_a_real_cell_reproduces_to_the_last_digit_in_a_process_of_its_own(
    store_uri: str, smoke: list[str]
):
    table = find("perplexity_gap")
    config, _ = cli.parse(auditing(table), [*smoke, f"--table={table.name}"])
    question = table.needs(config)[0].question
    standing = require(question.experiment, question.config)
    done = subprocess.run(
        [sys.executable, str(ROOT / "entrypoints/audit.py"), f"--table={table.name}", *smoke],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "audited 1/1, max difference 0 %; 4 runs computed again" in done.stdout
    (audit,) = query.usable("audit")
    (cell,) = result(audit).cells
    assert cell.run_id == standing.run_id and cell.labels == {
        "arm": "baseline",
        "side": "baseline",
        "seed": 42,
    }
    assert "test/perplexity" in cell.metrics and not any("seconds" in key for key in cell.metrics)


# -- audits that find something --------------------------------------------------------------------


@dataclass(frozen=True)
class Unsound:
    """An audit, by two workers, of five cells of which one reproduces."""

    lab: Laboratory
    standing: list[Record]
    """Of the factors: 1 almost equal, 2 overwritten, 3 with a metric of its own, 4 that comes out
    by chance, 5 that cannot be computed any more."""
    outcome: Outcome

    @property
    def record(self) -> Record:
        (audit,) = self.lab.audits()
        return audit

    @property
    def last(self) -> str:
        return self.outcome.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def unsound(migrated: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("unsound")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "mlflow.db").write_bytes(migrated.read_bytes())
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        lab = laboratory(folder)
        standing = lab.fill(1, 2, 3, 4, 5)
        lab.store.client.log_metric(standing[0].run_id, "product", 3.0015)
        lab.store.client.log_metric(standing[1].run_id, "product", 6.3)
        lab.store.client.log_metric(standing[2].run_id, "extra", 1.0)
        outcome = lab.audit(
            "--factors=[1,2,3,4,5]", "--tolerance=0.001", "--run.workers=2",
            toys="chance:4 raise:5",
        )  # fmt: skip
        yield Unsound(lab, standing, outcome)


def test_a_number_that_was_tampered_with_is_caught_and_named(unsound: Unsound):
    assert unsound.outcome.code == 1
    run_id = unsound.standing[1].run_id
    said = f"times factor=2 (run {run_id}): product 6.3 -> 6 (4.8 %);"
    assert said in unsound.last
    assert unsound.last.startswith("audit: 4 of 5 runs did not reproduce within 0.1 %: ")
    cell = result(unsound.record).cells[1]
    assert cell.run_id == run_id and cell.verdict(0.001) == "differs" and not cell.below
    assert math.isclose(cell.metrics["product"].difference or 0, 0.3 / 6.3)
    assert "product 6.3 -> 6 (4.8 %)" in query.by_id(run_id, unsound.lab.store).tags[AUDITED]


def test_a_difference_within_the_tolerance_passes_and_is_kept(unsound: Unsound):
    cell = result(unsound.record).cells[0]
    assert cell.verdict(0.001) == "reproduced"
    assert math.isclose(cell.metrics["product"].difference or 0, 0.0015 / 3.0015)
    assert "factor=1" not in unsound.last


def test_a_metric_that_only_one_side_has_is_a_difference(unsound: Unsound):
    assert f"(run {unsound.standing[2].run_id}): extra 1 -> none" in unsound.last
    assert unsound.record.metrics["audit/incomparable"] == 1


def test_chance_is_no_reproduction(unsound: Unsound):
    assert f"(run {unsound.standing[3].run_id}): chance 0.5 -> 0." in unsound.last


def test_a_run_that_cannot_be_computed_any_more_is_no_reproduction(unsound: Unsound):
    said = "it could not be computed again (RuntimeError: the cell broke)"
    assert f"(run {unsound.standing[4].run_id}): {said}" in unsound.last
    cell = result(unsound.record).cells[4]
    assert cell.verdict(0.001) == "failed" and not cell.metrics
    assert said in query.by_id(cell.run_id, unsound.lab.store).tags[AUDITED]


def test_the_headline_names_the_largest_difference(unsound: Unsound):
    largest = unsound.record.metrics["audit/max_difference"]
    (line,) = [w for w in unsound.outcome.stdout.splitlines() if w.startswith("audited 5/5")]
    assert f"max difference {100 * largest:.2g} % (" in line
    assert "1 could not be computed again" in line and "5 runs computed again" in line


def test_an_audit_that_finds_something_stands_with_a_failed_gate(unsound: Unsound):
    assert unsound.record.unusable() == ""
    assert unsound.record.failed_gates.startswith("reproduced: 4 of 5 runs did not reproduce")
    assert unsound.record.metrics["audit/failed"] == 4
    assert not list(unsound.lab.folder.rglob("apart"))


def test_what_one_cell_built_on_is_not_computed_again_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entry_points(tmp_path, [ROOT / "src", ROOT / "tests"])
    monkeypatch.setattr(processes, "ROOT", tmp_path)
    store, begun = apart.store_in(tmp_path / "other"), list[int]()
    questions = [Question(TIMES, TimesConfig()), Question(BASE, BaseConfig())]
    cell, base = apart.compute(questions, store, store, starting=begun.append)
    assert cell.record and base.record and begun == [0, 1]
    assert cell.seconds > 0 and base.seconds == 0
    assert len(query.usable("base", store)) == 1


# -- stopping, and asking for the impossible -------------------------------------------------------


def works(process: psutil.Process) -> bool:
    """Whether it can still do anything: one that is dead stays listed until somebody asks."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


@pytest.mark.parametrize("by", ["terminal", "scheduler"])
def test_a_stopped_audit_leaves_nothing_finished_and_no_process(lab: Laboratory, by: str):
    lab.fill()
    before = lab.runs()
    process = lab.start(toys="wait")
    family = working(process)
    if by == "terminal":
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C reaches every process of the terminal
    else:
        process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in stderr, stderr
    assert len(family) >= 2 and not any(map(works, family))
    after = lab.runs()
    (audit,) = set(after) - set(before)
    assert after[audit].status == "KILLED" and is_audit(after[audit])
    assert not any(AUDITED in record.tags for record in after.values())
    assert not list(lab.folder.rglob("apart"))


def working(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The audit and its child, once the child has opened its run."""
    me = psutil.Process(process.pid)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        found = [me, *me.children(recursive=True)]
        databases = [Path(f.path).parent for one in found[1:] for f in one.open_files()]
        if any(list(folder.glob("mlruns/toys/*")) for folder in databases):
            return found
        time.sleep(0.1)
    raise AssertionError(process.communicate()[1])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 1, "toys: none of its 3 runs stands, so there is nothing to audit; compute them"),
        (["--cells=0"], 2, "cells: "),
        (["--tolerance=-0.1"], 2, "tolerance: "),
        (["--table=toy"], 2, "no table (toy); there are toys"),
        (["--keep={folder}"], 2, "keep: "),
        (["--factors=[1,1]"], 2, "repeat no seed"),
    ],
)
def test_what_cannot_be_audited_is_said_in_one_line_before_a_run_is_opened(
    lab: Laboratory, words: list[str], code: int, said: str
):
    outcome = lab.audit(*(word.format(folder=lab.folder) for word in words))
    assert outcome.code == code
    assert said in outcome.stderr and outcome.stderr.startswith("audit: ")
    assert outcome.stderr.count("\n") == 1
    assert lab.runs() == {}


def test_an_audit_draws_what_stands_and_is_never_answered_by_the_one_before(lab: Laboratory):
    require(TIMES, TimesConfig(factor=2), store=lab.store)
    outcome = lab.audit()
    assert outcome.code == 0
    assert "audited 1/1, max difference 0 %" in outcome.stdout
    assert "2 of 3 runs of the table have no result to audit" in outcome.stdout
    shown = lab.audit("--run.mode=read_only")
    assert shown.code == 0 and "audited 1/1, max difference 0 %" in shown.stdout
    assert len(lab.audits()) == 1
    drifted = lab.audit(toys="drift")
    assert drifted.code == 1 and len(lab.audits()) == 2
    # The difference began in the run that the cell builds on.
    assert ", as does base " in drifted.stderr
    assert "size 3 -> 3.03 (0.99 %)" in drifted.stderr


# -- the draw and the measure ----------------------------------------------------------------------


@given(total=st.integers(0, 70), cells=st.integers(1, 80), seed=st.integers(0, 2**40))
def test_a_seed_draws_the_same_cells_without_repetition_in_reading_order(
    total: int, cells: int, seed: int
):
    drawn = draw(list(range(total)), cells, seed)
    assert drawn == draw(list(range(total)), cells, seed) == sorted(set(drawn))
    assert len(drawn) == min(cells, total)


def test_every_cell_is_drawn_by_some_seed():
    assert {cell for seed in range(60) for cell in draw(list(range(9)), 2, seed)} == set(range(9))


@given(a=NUMBERS, b=NUMBERS)
def test_the_relative_difference_is_symmetric_bounded_and_zero_for_equals_only(a, b):
    found = relative(a, b)
    assert found == relative(b, a)
    assert found is not None and 0 <= found <= 2
    assert (found == 0) == (a == b)
    assert relative(a, a) == 0


@given(a=NUMBERS)
def test_a_number_and_no_number_have_no_difference_to_tell(a):
    assert relative(a, "nan") is None and relative(None, a) is None
    assert relative("nan", "nan") == 0 and relative("inf", "-inf") is None


def test_the_store_of_a_folder_is_the_same_whatever_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere/mlflow.db")
    monkeypatch.setenv("PAPERTRAIL_WORK", "/elsewhere/work")
    store = apart.store_in(tmp_path / "a")
    assert store.work == tmp_path / "a" / "work" and str(tmp_path / "a") in store.uri


def test_what_the_base_is_asked_is_what_the_cells_build_on(lab: Laboratory):
    (record, *_) = lab.fill()
    base = require(BASE, BaseConfig(), "read_only", lab.store)
    assert record.metrics["product"] == base.metrics["size"] == 3
