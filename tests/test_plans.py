"""What a table does while runs are missing, deleted, changed, doubled, failed or not numbers.

Real runs of toy experiments in a real store; a table of them that only these tests know.
"""

import csv
import importlib
import io
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import DOUBLE, TOY, Part, ToyConfig

from papertrail.core import progress
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import Standing, standing
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli
from papertrail.core.question.cli import Execution, Mode
from papertrail.core.question.experiment import Experiment, Question
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing import track
from papertrail.monotone.tables import PERPLEXITY_GAP
from papertrail.records import archive
from papertrail.records.commands import EXPORT, IMPORT, Archive, Exporting
from papertrail.tables import cost, grid, history, order
from papertrail.tables.catalog import Need, Table, rendering
from papertrail.tables.cells import over_seeds
from papertrail.tables.sheet import Cell, Column, Format, Sheet

LOGGED: dict[str, float] = {}
"""What the next odd run logs: under one identity any number can come out."""
VICTIMS: list[str] = []
"""Runs that the next odd run deletes while it computes."""


def odd(config: ToyConfig) -> None:
    while VICTIMS:
        track.run().store.client.delete_run(VICTIMS.pop())
    if config.do == "raise":
        raise RuntimeError("the toy broke")
    track.metrics({"size": float(config.part.size)} | LOGGED)


ODD = Experiment(name="odd", study="toys", schema=ToyConfig, verb="test_plans:odd")


@dataclass(frozen=True, kw_only=True)
class SizesConfig:
    """Which toys the table shows."""

    sizes: tuple[int, ...] = (3,)
    """One row each."""
    seeds: tuple[int, ...] = (0, 1)
    """Averaged."""
    do: str = "finish"
    """What the toys do."""


def toys_of(experiment: Experiment) -> Callable[[SizesConfig], list[Need]]:
    def needs(config: SizesConfig) -> list[Need]:
        return [
            Need(
                {"row": size, "seed": seed},
                Question(experiment, ToyConfig(part=Part(size=size), seed=seed, do=config.do)),
            )
            for size in config.sizes
            for seed in config.seeds
        ]

    return needs


def draw(frame: pd.DataFrame) -> Sheet:
    columns = (Column(key="size", title="Size"), Column(key="value", title="Value"))
    metric = "double" if (frame["experiment"] == "double").all() else "size"
    rows = tuple(
        {"size": Cell(value=f"size {size}"), "value": over_seeds(rows, metric, Format(digits=1))}
        for size, rows in frame.groupby("row", sort=False)
    )
    return Sheet(name="sizes", title="Sizes", columns=columns, rows=rows)


def table_of(name: str, experiment: Experiment) -> Table:
    return Table(
        name=name, study="toys", schema=SizesConfig, needs=toys_of(experiment), draw=draw
    )  # fmt: skip


SIZES, ODDS, DOUBLES = table_of("sizes", TOY), table_of("odds", ODD), table_of("doubles", DOUBLE)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {table.name: table for table in (SIZES, ODDS, DOUBLES)}
    monkeypatch.setattr("papertrail.tables.catalog.tables", lambda: tables)
    LOGGED.clear()
    VICTIMS.clear()


def config_of(table: Table, **changes: Any) -> Any:
    return rendering(table).schema(name=table.name, **changes)


def ordered(table: Table, mode: Mode = "reuse", **changes: Any) -> Record:
    """The table as a person orders it; the newest rendering."""
    order.answer(rendering(table), config_of(table, **changes), Execution(mode=mode))
    return query.usable("tables")[0]


def computed(table: Table, **changes: Any) -> list[Record]:
    """All runs of the grid."""
    needs = table.needs(config_of(table, **changes))
    return [require(need.question.experiment, need.question.config) for need in needs]


def planned(table: Table, store: Store, **changes: Any) -> tuple[grid.Planned, ...]:
    return grid.plan(table, config_of(table, **changes), store)


def formats(record: Record) -> dict[str, str]:
    folder = record.artifact("tables")
    return {
        path.suffix: " ".join(path.read_text(encoding="utf-8").split()) for path in folder.iterdir()
    }


def took(record: Record, seconds: float) -> Record:
    """The run, as long as we say."""
    end = record.run.info.start_time + round(seconds * 1000)
    record.store.client.set_terminated(record.run_id, "FINISHED", end_time=end)
    return query.by_id(record.run_id)


def provenance(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = record.json("provenance")
    return found


# -- one plan per rendering ------------------------------------------------------------------------


def test_a_table_whose_runs_stand_is_drawn_once_and_then_shown_in_silence(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    runs = computed(SIZES)
    first = ordered(SIZES)
    capsys.readouterr()
    assert ordered(SIZES).run_id == first.run_id
    said = capsys.readouterr()
    assert said.err == "" and "3.0 ± 0.0" in said.out
    assert [one["run_id"] for one in provenance(first)["runs"]] == [run.run_id for run in runs]
    assert first.tags["papertrail.parents"] == ",".join(run.run_id for run in runs)
    assert provenance(first)["remarks"] == []


def test_a_shown_table_looks_its_grid_up_once_however_large(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    seeds = tuple(range(5))
    computed(SIZES, seeds=seeds)
    ordered(SIZES, seeds=seeds)
    looks: list[int] = []
    real = query.by_identities

    def counted(identities: Any, store: Store) -> Any:
        looks.append(len(identities))
        return real(identities, store)

    monkeypatch.setattr("papertrail.core.reading.query.by_identities", counted)
    ordered(SIZES, seeds=seeds)
    assert [size for size in looks if size > 1] == [5]  # the others ask for the rendering alone


def test_a_table_is_drawn_anew_when_the_code_that_draws_it_changed(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    source = tmp_path / "drawing_toys.py"
    source.write_text(
        "import test_plans\n\n\ndef draw(frame):\n    return test_plans.draw(frame)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    table = replace(SIZES, draw=importlib.import_module("drawing_toys").draw)
    monkeypatch.setattr("papertrail.tables.catalog.tables", lambda: {"sizes": table})
    computed(table)
    first = ordered(table)
    assert ordered(table).run_id == first.run_id
    source.write_text(source.read_text() + "\n\nWIDER = True\n")
    assert ordered(table).run_id != first.run_id
    assert "drawn anew, because the code that draws it changed" in capsys.readouterr().err


def test_how_a_table_is_had_is_no_part_of_what_it_is(store: Store):
    plain = identify(rendering(SIZES), config_of(SIZES)).digest
    how = {"plan": True, "run_missing": True, "partial": True, "budget": 2.0}
    for key, value in how.items():
        assert identify(rendering(SIZES), config_of(SIZES, **{key: value})).digest == plain
    assert identify(rendering(SIZES), config_of(SIZES, seeds=(1,))).digest != plain


def test_a_run_deleted_between_plan_and_execution_is_said_and_leaves_a_hole(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    first = require(ODD, ToyConfig(part=Part(size=3)))
    VICTIMS.append(first.run_id)  # by the run that is missing, while it computes
    with pytest.raises(Missing, match=r"1 of 2 runs have no result: odd \w+ is missing"):
        ordered(ODDS, run_missing=True)
    line = f"odds: odd row=3 seed=0: run {first.run_id} -> none: "
    assert f"{line}the former is no answer: it was deleted" in capsys.readouterr().err


def test_a_partial_table_notes_a_run_that_was_deleted_during_execution(store: Store):
    first = require(ODD, ToyConfig(part=Part(size=3)))
    VICTIMS.append(first.run_id)
    table = ordered(ODDS, run_missing=True, partial=True)
    texts = formats(table)
    for suffix in (".txt", ".html", ".tex"):
        assert "n = 1 of 2 seeds" in texts[suffix] and first.run_id in texts[suffix]
    assert f"% remark 1: odd row=3 seed=0: run {first.run_id} -&gt; none" not in texts[".tex"]
    assert f"run {first.run_id} -> none" in provenance(table)["remarks"][0]


def test_a_run_deleted_between_plan_and_drawing_keeps_its_number_and_is_noted(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    runs = computed(SIZES)
    experiment, config = rendering(SIZES), config_of(SIZES)
    plan = order._look(SIZES, experiment, config, store)
    store.client.delete_run(runs[0].run_id)
    with order._drawn_from(plan):
        table = require(experiment, config)
    note = f"since the table was planned, toy row=3 seed=0: run {runs[0].run_id} -> none"
    assert note in capsys.readouterr().err
    assert provenance(table)["runs"][0]["run_id"] == runs[0].run_id
    assert note in provenance(table)["remarks"][0]
    texts = formats(table)
    assert "3.0 ± 0.0 n=2" in texts[".txt"] and "3.0 \\pm 0.0" in texts[".tex"]
    assert note in texts[".txt"]
    assert "since the table was planned" in texts[".html"] and runs[0].run_id in texts[".html"]
    assert r"since the table was planned" in texts[".tex"].partition(r"\bottomrule")[2]
    # The next look finds the hole.
    with pytest.raises(Missing, match="1 of 2 runs have no result"):
        ordered(SIZES)


def test_a_plan_serves_no_other_rendering(store: Store):
    computed(SIZES)
    plan = order._look(SIZES, rendering(SIZES), config_of(SIZES), store)
    with order._drawn_from(plan), pytest.raises(AssertionError, match="another table"):
        require(rendering(SIZES), config_of(SIZES, seeds=(0,)))


# -- gone, changed, invalidated, doubled, restored -------------------------------------------------


def delete(record: Record) -> str:
    record.store.client.delete_run(record.run_id)
    return "it was deleted in the store"


def collect_garbage(record: Record) -> str:
    """`mlflow gc`, which removes deleted runs for ever."""
    delete(record)
    words = ["gc", "--backend-store-uri", record.store.uri, "--run-ids", record.run_id]
    done = subprocess.run([sys.executable, "-m", "mlflow", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return "the former is gone from the store"


def invalidate(record: Record) -> str:
    record.store.client.set_tag(record.run_id, "papertrail.invalidated", "wrong data")
    return "it was invalidated (wrong data)"


def spoil(record: Record) -> str:
    record.artifact("results/toy.json").unlink()
    return "its artifact results/toy.json is gone or changed"


@pytest.mark.parametrize("lose", [delete, collect_garbage, invalidate, spoil])
def test_a_run_behind_a_standing_table_that_is_lost_is_said_and_the_table_refused(
    store: Store, capsys: pytest.CaptureFixture[str], lose: Callable[[Record], str]
):
    runs = computed(SIZES)
    ordered(SIZES)
    reason = lose(runs[1])
    with pytest.raises(Missing, match="1 of 2 runs have no result"):
        ordered(SIZES)
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "row=3 seed=1" in line]
    assert f"run {runs[1].run_id} -> none" in line and reason in line


@pytest.mark.parametrize("lose", [delete, invalidate])
def test_read_only_shows_the_table_that_stands_and_says_what_is_lost(
    store: Store, capsys: pytest.CaptureFixture[str], lose: Callable[[Record], str]
):
    runs = computed(SIZES)
    first = ordered(SIZES)
    reason = lose(runs[1])
    capsys.readouterr()
    assert ordered(SIZES, mode="read_only").run_id == first.run_id
    said = capsys.readouterr()
    assert "3.0 ± 0.0" in said.out
    assert f"run {runs[1].run_id} -> none" in said.err and reason in said.err


def test_a_lost_run_that_is_computed_again_has_the_table_drawn_anew_with_a_note(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    runs = computed(SIZES)
    first = ordered(SIZES)
    delete(runs[0])
    second = ordered(SIZES, run_missing=True)
    new = provenance(second)["runs"][0]["run_id"]
    assert second.run_id != first.run_id and new != runs[0].run_id
    note = (
        f"toy row=3 seed=0: run {runs[0].run_id} -> {new}: the former is no answer: "
        "it was deleted in the store; the numbers are equal"
    )
    assert note in capsys.readouterr().err
    assert note in provenance(second)["remarks"]
    texts = formats(second)
    assert note in texts[".txt"] and note.replace(">", "&gt;") in texts[".html"]
    assert f"% remark 1: {note}" in texts[".tex"]  # for the authors, not in print
    assert runs[0].run_id not in texts[".tex"].partition(r"\bottomrule")[2]
    assert ordered(SIZES).run_id == second.run_id
    # Restored: older than its successor, with the same numbers, so nothing changes.
    store.client.restore_run(runs[0].run_id)
    assert ordered(SIZES).run_id == second.run_id
    # And it answers again when its successor goes.
    store.client.delete_run(new)
    third = ordered(SIZES)
    assert provenance(third)["runs"][0]["run_id"] == runs[0].run_id


def test_a_run_restored_after_a_partial_table_fills_its_hole(store: Store):
    runs = computed(SIZES)
    delete(runs[0])
    partial = ordered(SIZES, partial=True)
    assert partial.metrics["table/missing"] == 0  # one of two seeds is left
    assert "n = 1 of 2 seeds" in formats(partial)[".txt"]
    store.client.restore_run(runs[0].run_id)
    whole = ordered(SIZES)
    assert whole.run_id != partial.run_id and "n = 1" not in formats(whole)[".txt"]
    assert provenance(whole)["remarks"] == []  # a hole that is filled is no loss


def test_another_run_with_other_numbers_is_named_with_the_metrics_that_differ(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    first = computed(ODDS, seeds=(0,))[0]
    ordered(ODDS, seeds=(0,))
    LOGGED.update(size=7.0, extra=1.0)
    again = require(ODD, first_config := ToyConfig(part=Part(size=3)), "force")
    delete(first)
    ordered(ODDS, seeds=(0,))
    said = capsys.readouterr().err
    assert f"run {first.run_id} -> {again.run_id}" in said
    assert "other numbers: extra none -> 1, size 3 -> 7" in said
    assert standing(ODD, first_config).doubled == ""


def test_a_finished_run_whose_numbers_were_changed_is_found_out(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    runs = computed(SIZES)
    first = ordered(SIZES)
    store.client.log_metric(runs[1].run_id, "size", 30.0, step=1)
    second = ordered(SIZES)
    assert second.run_id != first.run_id
    said = capsys.readouterr().err
    assert f"the numbers of run {runs[1].run_id} were changed: size 3 -> 30" in said


def test_a_table_that_was_brought_to_another_store_is_the_one_that_was_drawn(
    store: Store, migrated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    computed(SIZES)
    first = ordered(SIZES)
    archive.export(EXPORT, Exporting(study="toys", folder=str(tmp_path / "bag")), None)
    shutil.copy(migrated, tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other.db'}")
    archive.import_(IMPORT, Archive(folder=str(tmp_path / "bag")), None)
    capsys.readouterr()
    assert ordered(SIZES).tags[query.ORIGIN] == first.run_id
    assert "->" not in capsys.readouterr().err


def test_what_measures_the_machine_is_no_number_of_the_table(store: Store):
    runs = computed(SIZES)
    first = ordered(SIZES)
    store.client.log_metric(runs[1].run_id, "train/seconds", 30.0)
    assert ordered(SIZES).run_id == first.run_id


def test_two_answers_with_other_numbers_are_said_in_every_format(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    older = computed(ODDS)[0]
    ordered(ODDS)
    LOGGED["size"] = 7.0
    newer = require(ODD, ToyConfig(part=Part(size=3)), "force")
    table = ordered(ODDS)
    doubled = f"run {older.run_id} answers the same question otherwise: size 7 against 3"
    said = capsys.readouterr().err
    assert f"run {newer.run_id} was reused, but {doubled}" in said
    assert f"{older.run_id} -> {newer.run_id}: the former stands, but is older" in said
    for suffix, text in formats(table).items():
        assert doubled in text, suffix
    assert doubled in provenance(table)["runs"][0]["doubts"]


def test_a_run_doubled_after_drawing_has_the_table_drawn_anew(store: Store):
    older = computed(ODDS)[0]
    delete(older)
    LOGGED["size"] = 7.0
    require(ODD, ToyConfig(part=Part(size=3)))
    first = ordered(ODDS)
    store.client.restore_run(older.run_id)
    second = ordered(ODDS)
    assert second.run_id != first.run_id
    assert "otherwise: size 7 against 3" in formats(second)[".csv"]


def test_a_doubled_run_is_noted_even_where_no_cell_speaks_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    def bare(frame: pd.DataFrame) -> Sheet:
        return Sheet(name="t", title="T", columns=(Column(key="x", title="X"),), rows=())

    table = replace(ODDS, draw=bare)
    monkeypatch.setattr("papertrail.tables.catalog.tables", lambda: {"odds": table})
    computed(ODDS, seeds=(0,))
    LOGGED["size"] = 7.0
    require(ODD, ToyConfig(part=Part(size=3)), "force")
    texts = formats(ordered(table, seeds=(0,)))
    for suffix in (".txt", ".tex", ".html"):
        assert "answers the same question otherwise" in texts[suffix]


# -- cells -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "word"), [(float("nan"), "nan"), (float("inf"), "inf")])
def test_a_number_that_is_none_is_refused_by_name_and_in_no_average(
    store: Store, number: float, word: str
):
    require(ODD, ToyConfig(part=Part(size=3)))
    LOGGED["size"] = number
    bad = require(ODD, ToyConfig(part=Part(size=3), seed=1))
    table = ordered(ODDS)
    sentence = f"size is {word} in run {bad.run_id}"
    for suffix, text in formats(table).items():
        assert sentence in text and "3.0" not in text, suffix
    assert provenance(table)["runs"][1]["metrics"]["size"] == word


def test_minus_infinity_is_refused_too(store: Store):
    LOGGED["size"] = -float("inf")
    computed(ODDS, seeds=(0,))
    assert "size is -inf" in formats(ordered(ODDS, seeds=(0,)))[".csv"]


def test_an_interval_that_is_no_number_refuses_its_cell(store: Store):
    LOGGED.update({"size/low": float("nan"), "size/high": 4.0})
    computed(ODDS, seeds=(0,))
    assert "size/low is nan" in formats(ordered(ODDS, seeds=(0,)))[".csv"]


@pytest.mark.parametrize("reads", [float("nan"), float("inf"), 0.0])
def test_a_gate_that_does_not_read_passed_refuses_its_cell(store: Store, reads: float):
    LOGGED["gate/sane"] = reads
    computed(ODDS, seeds=(0,))
    text = formats(ordered(ODDS, seeds=(0,)))[".csv"]
    assert f"gate/sane: reads {reads:g}, which is not passed" in text and "refused" in text


def test_a_passed_gate_refuses_nothing(store: Store):
    LOGGED["gate/sane"] = 1.0
    computed(ODDS, seeds=(0,))
    assert "refused" not in formats(ordered(ODDS, seeds=(0,)))[".csv"]


def test_three_of_five_seeds_never_print_as_five(store: Store):
    seeds = (0, 1, 2, 3, 4)
    computed(SIZES, seeds=seeds[:3])
    table = ordered(SIZES, seeds=seeds, partial=True)
    texts = formats(table)
    for suffix in (".txt", ".csv", ".tex", ".html"):
        assert "n = 3 of 5 seeds" in texts[suffix], suffix
    assert "n=3" in texts[".txt"] and "n=3" in texts[".tex"]
    assert "n&nbsp;=&nbsp;3" in texts[".html"]
    (row,) = csv.DictReader(io.StringIO((table.artifact("tables") / "table.csv").read_text()))
    assert row["value.n"] == "3" and len(row["value.runs"].split()) == 3


def test_one_of_five_seeds_says_so_too(store: Store):
    computed(SIZES, seeds=(0,))
    table = ordered(SIZES, seeds=(0, 1, 2, 3, 4), partial=True)
    (row,) = csv.DictReader(io.StringIO((table.artifact("tables") / "table.csv").read_text()))
    assert row["value.n"] == "1"
    assert all("n = 1 of 5 seeds" in text for text in formats(table).values())


def test_a_seed_whose_run_lacks_the_metric_is_counted_out_and_named(store: Store):
    frame = grid.tidy(planned_runs := computed_plan(store))
    frame.loc[1, "size"] = float("nan")
    cell = over_seeds(frame, "size", Format())
    assert cell.note == f"n = 1 of 2 seeds; no size in run {planned_runs[1].run_id}"
    assert cell.runs == (planned_runs[0].run_id,)


def computed_plan(store: Store) -> tuple[grid.Planned, ...]:
    computed(SIZES)
    return planned(SIZES, store)


def test_two_runs_with_one_label_are_refused_in_one_line(store: Store):
    with pytest.raises(BadInput, match=r"2 runs are labelled toy row=3 seed=1; repeat no seed"):
        ordered(SIZES, seeds=(1, 1))


def test_one_run_under_two_seeds_is_refused_in_one_line(store: Store):
    def forgetful(config: SizesConfig) -> list[Need]:
        question = Question(TOY, ToyConfig())
        return [Need({"row": 3, "seed": seed}, question) for seed in config.seeds]

    with pytest.raises(BadInput, match=r"toy row=3 seed=0 and toy row=3 seed=1 are one run"):
        grid.plan(replace(SIZES, needs=forgetful), config_of(SIZES), store)


def test_one_run_in_two_rows_of_a_table_is_fine_but_not_in_one_cell(store: Store):
    def shared(config: SizesConfig) -> list[Need]:
        question = Question(TOY, ToyConfig())
        return [Need({"row": size, "seed": 0}, question) for size in config.sizes]

    require(TOY, ToyConfig())
    config = config_of(SIZES, sizes=(3, 4))
    frame = grid.tidy(grid.plan(replace(SIZES, needs=shared), config, store))
    assert len(draw(frame).rows) == 2
    with pytest.raises(BadInput, match=r"toy \w+: stands 2 times in one cell"):
        over_seeds(frame, "size", Format())


# -- failures upstream -----------------------------------------------------------------------------


def failed_upstream() -> str:
    """A toy that failed; nothing that builds on it was tried."""
    with pytest.raises(RuntimeError):
        require(TOY, ToyConfig(do="raise"))
    return "RuntimeError: the toy broke"


def test_a_failed_upstream_shows_its_cause_in_plan_refusal_and_cell(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    cause = failed_upstream()
    some = {"seeds": (0,), "do": "raise"}
    ordered_plan(DOUBLES, **some)
    said = capsys.readouterr().out
    assert "1 blocked" in said
    assert "double row=3 seed=0 is blocked: it builds on toy" in said and cause in said
    with pytest.raises(Missing, match=r"double \w+ is blocked \(it builds on toy \w+: .*the toy b"):
        ordered(DOUBLES, **some)
    texts = formats(ordered(DOUBLES, partial=True, **some))
    assert all(cause in text and "it builds on toy" in text for text in texts.values())


def test_a_failed_seed_among_good_ones_shows_its_cause_beside_the_count(store: Store):
    require(ODD, ToyConfig(part=Part(size=3)))
    bad = ToyConfig(part=Part(size=3), seed=1, do="raise")
    with pytest.raises(RuntimeError):
        require(ODD, bad)

    def needs(config: SizesConfig) -> list[Need]:
        good = ToyConfig(part=Part(size=3))
        return [
            Need({"row": 3, "seed": 0}, Question(ODD, good)),
            Need({"row": 3, "seed": 1}, Question(ODD, bad)),
        ]

    frame = grid.tidy(grid.plan(replace(ODDS, needs=needs), config_of(ODDS), store))
    note = over_seeds(frame, "size", Format()).note
    assert note.startswith("n = 1 of 2 seeds; ") and "the toy broke" in note


def test_a_failure_that_changes_its_cause_has_the_partial_table_drawn_anew(store: Store):
    some = {"seeds": (0,), "do": "raise", "partial": True}
    first = ordered(ODDS, **some)
    assert "never computed" in formats(first)[".txt"]
    with pytest.raises(RuntimeError):
        require(ODD, ToyConfig(do="raise", part=Part(size=3)))
    second = ordered(ODDS, **some)
    assert second.run_id != first.run_id and "the toy broke" in formats(second)[".txt"]


def test_partial_draws_what_could_be_computed_and_shows_why_the_rest_could_not(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    table = ordered(SIZES, do="raise", run_missing=True, partial=True)
    assert "2 of 2 runs are missing" in capsys.readouterr().err
    assert "the toy broke" in formats(table)[".csv"]


def test_retry_failed_tries_what_failed_and_leaves_what_was_never_computed(store: Store):
    failed_upstream()
    some = {"seeds": (0, 1), "do": "raise"}
    before = len(query.tagged("papertrail.experiment", "toy", store))
    table = ordered(DOUBLES, "retry_failed", run_missing=True, partial=True, **some)
    after = query.tagged("papertrail.experiment", "toy", store)
    assert len(after) == before + 1 and not query.tagged("papertrail.experiment", "double", store)
    states = [one["state"] for one in provenance(table)["runs"]]
    assert states == ["blocked", "missing"]


# -- cost and budget -------------------------------------------------------------------------------


def ordered_plan(table: Table, **changes: Any) -> None:
    order.answer(rendering(table), config_of(table, plan=True, **changes), Execution())


def test_a_plan_predicts_the_cost_of_what_is_missing_from_its_siblings(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    for seed, hours in enumerate((1, 2, 9)):
        took(require(TOY, ToyConfig(part=Part(size=3), seed=seed)), hours * 3600)
    ordered_plan(SIZES, sizes=(3, 4), seeds=(0, 1, 2, 3))
    said = capsys.readouterr().out
    assert "3 finished, 0 running, 0 failed, 5 missing" in said
    assert "to compute: 5 runs, about 10 h on 1 worker, predicted from 3 runs" in said
    assert "# toy row=3 seed=3 is missing: never computed; about 2 h, predicted from 3 runs" in said
    assert "predicted from 3 runs, which differ in part.size" in said
    commands = [line for line in said.splitlines() if line.startswith("mlflow run")]
    typed = [f"--{pair}" for pair in shlex.split(commands[-1])[6::2]]
    assert cli.parse(TOY, typed)[0] == ToyConfig(part=Part(size=4), seed=3)


def test_a_cost_that_nothing_tells_is_unknown_and_never_zero(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    ordered_plan(SIZES)
    said = capsys.readouterr().out
    assert "to compute: 2 runs, unknown: 2 runs have no finished sibling" in said
    assert "cost unknown: no finished run of this experiment" in said
    costs = cost.forecast(planned(SIZES, store), store)
    assert [one.seconds for one in costs.costs.values()] == [None, None]


def test_failed_runs_predict_nothing(store: Store):
    with pytest.raises(RuntimeError):
        require(TOY, ToyConfig(do="raise"))
    costs = cost.forecast(planned(SIZES, store), store)
    assert costs.total().num_unknown == 2


def test_what_a_missing_run_builds_on_is_counted_once_and_without_the_time_of_children(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    parent = require(DOUBLE, ToyConfig(part=Part(size=9)))
    child = require(TOY, ToyConfig(part=Part(size=9)))
    assert child.tags["mlflow.parentRunId"] == parent.run_id
    began = (child.run.info.start_time - parent.run.info.start_time) / 1000
    took(child, 3600)
    took(parent, began + 3600 + 1800)  # an hour of it was the child's
    config = config_of(DOUBLES, seeds=(0, 1))

    def shared(config: SizesConfig) -> list[Need]:
        """Both seeds of double and the toy of the first, which the grid names itself."""
        toys = toys_of(TOY)(replace(config, seeds=(0,)))
        return [*toys_of(DOUBLE)(config), *toys]

    table = replace(DOUBLES, needs=shared)
    costs = cost.forecast(grid.plan(table, config, store), store)
    assert costs.total().num_runs == 4
    half_hours = costs.total().seconds / 1800
    assert half_hours == pytest.approx(2 * 1 + 2 * 2, abs=0.01)
    grid.print_plan(table, grid.plan(table, config, store), costs)
    said = capsys.readouterr().out
    assert "30 min + 1 h for 1 run below" in said
    assert "to compute: 4 runs, about 3 h on 1 worker, predicted from 2 runs" in said
    assert "computed on the way, once for all that build on them: 1 run" in said


def test_the_nearest_siblings_are_those_that_differ_in_the_fewest_options(store: Store):
    near = took(require(TOY, ToyConfig(part=Part(size=5), seed=7)), 60)
    took(require(TOY, ToyConfig(part=Part(size=5, rate=0.1), text="far")), 6000)
    costs = cost.forecast(planned(SIZES, store, sizes=(5,), seeds=(0,)), store)
    (only,) = costs.costs.values()
    assert only == history.Cost(60.0, (near.run_id,), ())


def test_among_siblings_at_one_distance_the_nearest_numbers_count(store: Store):
    for size in (2, 3, 4, 5, 1000, 6):  # one more than are asked
        took(require(TOY, ToyConfig(part=Part(size=size))), 60 * size)
    costs = cost.forecast(planned(SIZES, store, sizes=(7,), seeds=(0,)), store)
    (only,) = costs.costs.values()
    assert only.seconds == 60 * 4 and only.differing == ("part.size",)


def test_a_budget_starts_what_fits_in_reading_order_and_says_what_stays(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    took(require(TOY, ToyConfig(part=Part(size=3))), 3600)
    with pytest.raises(Missing, match="2 of 4 runs have no result"):
        ordered(SIZES, seeds=(0, 1, 2, 3), run_missing=True, budget=1.5)
    said = capsys.readouterr().err
    assert "a budget of 1 h 30 min pays for 1 of 3 runs, not for 2" in said
    assert "toy row=3 seed=2 stays missing: about 1 h on 1 worker, predicted from 1 run" in said
    states = [one.standing.state for one in planned(SIZES, store, seeds=(0, 1, 2, 3))]
    assert states == ["finished", "finished", "missing", "missing"]


def test_what_has_no_known_cost_is_not_started_under_a_budget(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(Missing):
        ordered(SIZES, run_missing=True, budget=1000.0)
    assert "stays missing: unknown: 1 run has no finished sibling" in capsys.readouterr().err
    assert not query.usable("toy")
    ordered(SIZES, run_missing=True)  # without one, it is
    assert len(query.usable("toy")) == 2


def test_a_plan_with_a_budget_shows_what_it_would_start_and_starts_nothing(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    took(require(TOY, ToyConfig(part=Part(size=3))), 3600)
    ordered_plan(SIZES, seeds=(0, 1, 2), run_missing=True, budget=1.0)
    assert "a budget of 1 h pays for 1 of 2 runs, not for 1" in capsys.readouterr().out
    ordered_plan(SIZES, seeds=(0, 1, 2), budget=2.0)
    assert "a budget of 2 h pays for all of it" in capsys.readouterr().out
    assert len(query.usable("toy")) == 1


def test_options_that_contradict_each_other_are_refused(store: Store):
    with pytest.raises(BadInput, match="budget: nothing would be computed"):
        ordered(SIZES, budget=1.0)
    with pytest.raises(BadInput, match=r"budget: must be more than 0 hours \(-1\)"):
        ordered(SIZES, budget=-1.0, run_missing=True)
    with pytest.raises(BadInput, match="run_missing: read_only never computes"):
        ordered(SIZES, "read_only", run_missing=True)


SPANS = st.tuples(st.integers(0, 60), st.integers(0, 60)).filter(lambda span: span[0] <= span[1])


@given(parent=SPANS, children=st.lists(SPANS, max_size=5))
def test_own_time_is_every_tick_in_which_no_child_ran(
    parent: tuple[int, int], children: list[tuple[int, int]]
):
    inside = {tick for start, end in children for tick in range(start, end)}
    own = len(set(range(*parent)) - inside)
    assert history.own_seconds(parent, children) == (own / 1000 if own else None)


@given(
    seconds=st.lists(st.none() | st.floats(1, 5000), min_size=1, max_size=8),
    edges=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=8),
    hours=st.floats(0.01, 3),
)
def test_what_a_budget_starts_is_known_and_fits(
    seconds: list[float | None], edges: list[tuple[int, int]], hours: float
):
    """Runs build on later ones only, so there is no cycle."""
    config = config_of(SIZES, sizes=tuple(range(len(seconds))), seeds=(0,))
    needs = SIZES.needs(config)
    all_planned = [
        grid.Planned(need, Standing(identify(TOY, need.question.config))) for need in needs
    ]
    names = [one.digest for one in all_planned]
    below = {
        name: tuple(names[b] for a, b in edges if a == i < b < len(names))
        for i, name in enumerate(names)
    }
    costs = cost.Forecast(
        dict(zip(names, all_planned, strict=True)),
        {name: history.Cost(s) for name, s in zip(names, seconds, strict=True)},
        below,
    )
    chosen = costs.within(all_planned, hours)
    started = {d for one in chosen for d in costs.closure(one.digest)}
    total = costs.total(started)
    assert total.num_unknown == 0 and total.seconds <= hours * 3600 * (1 + 1e-9)
    for one in all_planned:  # nothing that still fits was left out
        if one not in chosen:
            more = costs.total(costs.closure(one.digest) - started)
            assert more.num_unknown or total.seconds + more.seconds > hours * 3600 * (1 - 1e-9)


def test_retry_failed_keeps_to_the_budget(store: Store, capsys: pytest.CaptureFixture[str]):
    failed_upstream()
    some = {"do": "raise", "run_missing": True, "partial": True, "budget": 1.0}
    ordered(DOUBLES, "retry_failed", **some)
    assert "toy seed 0 stays missing: unknown" in capsys.readouterr().err
    assert len(query.tagged("papertrail.experiment", "toy", store)) == 1


@pytest.mark.parametrize(("typed", "hours"), [("2", 2.0), ("0.5", 0.5), ("null", None)])
def test_a_budget_is_typed_in_hours(typed: str, hours: float | None):
    found, _ = cli.parse(rendering(PERPLEXITY_GAP), [f"--budget={typed}"])
    assert found.budget == hours


@pytest.mark.parametrize("words", ["--budget=much", "--budget=nan", "--plan=maybe", "--seeds=one"])
def test_an_option_of_a_table_that_cannot_be_used_is_refused(words: str):
    with pytest.raises(BadInput, match=words[2:].partition("=")[0]):
        config, _ = cli.parse(rendering(PERPLEXITY_GAP), [words])
        identify(rendering(PERPLEXITY_GAP), config)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.40 s"), (1, "1 s"), (99.4, "99 s"), (100, "2 min"), (3599, "1 h"),
     (12000, "3 h 20 min"), (7200, "2 h"), (48 * 3600, "2 d"), (100 * 3600, "4 d 4 h")],
)  # fmt: skip
def test_a_duration_reads_as_people_say_it(seconds: float, text: str):
    assert progress.duration(seconds) == text
