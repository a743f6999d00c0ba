"""A study in a folder: it says when it was damaged, and answers in any store as in its own."""

import hashlib
import json
import math
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from toy import DOUBLE, TOY, ToyConfig

from papertrail.core import bag
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import BadInput, Missing
from papertrail.core.reading import ported, query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, sqlite_path
from papertrail.core.writing import track
from papertrail.core.writing.run import parents_of
from papertrail.records import archive, explain, radius, verdict
from papertrail.records.commands import EXPORT, IMPORT, Archive, Exporting, Invalidation

RICH = replace(TOY, name="rich", verb="test_archive:rich")
"""Everything that a run can have."""
ABOVE = replace(DOUBLE, name="above", verb="test_archive:above")


def rich(config: ToyConfig) -> None:
    for step in range(5):
        odd = (math.nan, math.inf, -math.inf, 0.1, 1e-300)[step]
        track.metrics({"curve": step / 3, "odd": odd}, step)
    track.dataset("words", "abc", "somewhere", context="corpus")
    track.describe("All that there is.\n\nIn two paragraphs, with umlauts: äöü.")
    track.tags({"said": 'a <tag>, "quoted"\nand a second line'})
    track.json_result("toy", {"text": config.text})
    with track.file("samples/100% of it.bin") as path:
        path.write_bytes(bytes(range(256)) * 40)


def above(config: ToyConfig) -> None:
    track.metrics({"double": require(RICH, config).metrics["curve"]})


def built(store: Store) -> Record:
    """A run with a child that it was built on, which holds everything."""
    return require(replace(ABOVE, upstream=lambda config: {}), ToyConfig(), store=store)


@dataclass(frozen=True)
class Study:
    """A store with a study, its archive, and a copy of the empty store."""

    store: Store
    above: Record
    rich: Record
    folder: Path
    empty: Path

    def elsewhere(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        """Another store, named by the environment from now on."""
        folder.mkdir()
        shutil.copy(self.empty, folder / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        return connect()

    def copy(self, to: Path) -> Path:
        return shutil.copytree(self.folder, to)


@pytest.fixture(scope="module")
def study(module_store: Store, migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    record = built(module_store)
    with pytest.raises(RuntimeError):
        require(TOY, ToyConfig(do="raise"))
    folder = tmp_path_factory.mktemp("archives") / "toys"
    archive.export(EXPORT, Exporting(study="toys", folder=str(folder)), None)
    (child,) = query.by_ids(parents_of(record.tags), module_store).values()
    return Study(module_store, record, child, folder, migrated)


@pytest.fixture
def other(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    return study.elsewhere(tmp_path / "other", monkeypatch)


@pytest.fixture(scope="module")
def untouched(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that stays as it is."""
    path = tmp_path_factory.mktemp("untouched") / "mlflow.db"
    shutil.copy(migrated, path)
    return connect(f"sqlite:///{path}")


def bring(folder: Path) -> None:
    archive.import_(IMPORT, Archive(folder=str(folder)), None)


def rows(store: Store) -> list[Any]:
    """Everything that the database holds."""
    with closing(sqlite3.connect(sqlite_path(store.uri))) as connection:
        tables = [name for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]  # fmt: skip
        return [(name, connection.execute(f'SELECT * FROM "{name}"').fetchall()) for name in tables]


def history(record: Record) -> list[tuple[Any, ...]]:
    return sorted(
        (key, one.step, one.timestamp, repr(one.value))
        for key in record.metrics
        for one in record.store.client.get_metric_history(record.run_id, key)
    )


def files(record: Record) -> dict[str, bytes]:
    return {name: record.artifact(name).read_bytes() for name, _ in ported.files(record)}


def test_a_run_arrives_with_everything_and_the_same_identity(study: Study, other: Store):
    bring(study.folder)
    old, new = study.rich, query.by_id(study.rich.run_id, other)
    assert new.run_id != old.run_id
    assert history(new) == history(old) and len(history(old)) > 10
    assert files(new) == files(old)
    assert new.config == old.config
    own = {"mlflow.parentRunId", query.ORIGIN, ported.IMPORTED}
    assert {k: v for k, v in new.tags.items() if k not in own} == {
        k: v for k, v in old.tags.items() if k not in own
    }
    for name in ("status", "start_time", "end_time", "run_name", "user_id"):
        assert getattr(new.run.info, name) == getattr(old.run.info, name), name
    read = [record.store.client.get_run(record.run_id).inputs for record in (old, new)]
    assert read[0].to_dictionary() == read[1].to_dictionary() and read[0].dataset_inputs


def test_what_was_imported_is_not_computed_again(study: Study, other: Store):
    bring(study.folder)
    again = built(other)
    assert again.tags[query.ORIGIN] == study.above.run_id
    found = standing(RICH, ToyConfig(), other)
    assert found.state == "finished" and not found.orphaned and not found.doubled


def test_parents_and_nesting_mean_the_new_runs(study: Study, other: Store):
    bring(study.folder)
    parent, child = (query.by_id(one.run_id, other) for one in (study.above, study.rich))
    assert parents_of(parent.tags) == [child.run_id]
    assert child.tags["mlflow.parentRunId"] == parent.run_id
    assert study.rich.run_id not in json.dumps({k: v for k, v in parent.tags.items()
                                                if k != query.ORIGIN})  # fmt: skip


def test_a_second_import_changes_nothing(
    study: Study, other: Store, capsys: pytest.CaptureFixture[str]
):
    bring(study.folder)
    before = rows(other)
    capsys.readouterr()
    bring(study.folder)
    assert rows(other) == before and "imported 0 runs, 2 were there" in capsys.readouterr().out


def test_an_import_into_the_store_it_came_from_changes_nothing(
    study: Study, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)
    before = rows(study.store)
    bring(study.folder)
    assert rows(study.store) == before


def test_an_archive_of_imported_runs_is_known_where_they_began(
    study: Study, other: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bring(study.folder)
    archive.export(EXPORT, Exporting(study="toys", folder=str(tmp_path / "again")), None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)
    before = rows(study.store)
    bring(tmp_path / "again")
    assert rows(study.store) == before
    third = study.elsewhere(tmp_path / "third", monkeypatch)
    bring(tmp_path / "again")
    assert query.by_id(study.rich.run_id, third).tags[query.ORIGIN] == study.rich.run_id


@pytest.mark.parametrize("place", ["log_artifacts", "set_terminated"])
def test_an_interrupted_import_answers_nothing_and_is_continued(
    study: Study, other: Store, place: str, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        patch.setattr(type(other.client), place, _die)
        with pytest.raises(KeyboardInterrupt):
            bring(study.folder)
    states = {standing(one, ToyConfig(), other).state for one in (RICH, ABOVE)}
    assert "finished" not in states
    bring(study.folder)
    assert history(query.by_id(study.rich.run_id, other)) == history(study.rich)
    assert len(other.client.search_runs(["1"])) == 2
    assert built(other).tags[query.ORIGIN] == study.above.run_id


def _die(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_it_is_asked_about_by_the_id_that_a_paper_printed(
    study: Study, other: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    bring(study.folder)
    monkeypatch.setattr(explain, "experiments", lambda: {"above": ABOVE, "rich": RICH})
    record = query.by_id(study.rich.run_id, other)
    explain.of_run(record)
    said = capsys.readouterr().out
    assert said.count("  yes  ") == 6 and "It is reused for the same question." in said
    verdict.invalidate(None, Invalidation(run=study.rich.run_id, reason="wrong"), None)
    void = radius.radius([record.run_id], other)
    assert len(void.runs) == 2 and all(one.unusable() for one in void.runs)


def change_a_byte(folder: Path) -> None:
    path = next(folder.rglob("100% of it.bin"))
    path.write_bytes(b"\1" + path.read_bytes()[1:])


def change_a_number(folder: Path) -> None:
    path = next(folder.rglob("metrics.csv"))
    path.write_text(path.read_text().replace("0,", "1,", 1))


def lead_out(folder: Path, name: str) -> None:
    """List a file that is there, with its true digest, under a name that leads out."""
    digest = hashlib.sha256(b"outside").hexdigest()
    (folder.parent / "outside").write_bytes(b"outside")
    with (folder / bag.PAYLOAD).open("a") as file:
        file.write(f"{digest}  {name}\n")
    reseal(folder)


def reseal(folder: Path) -> None:
    """What somebody does who changes an archive on purpose: the digests are right again."""
    lines = [line.split("  ", 1)[1] for line in (folder / bag.TAGS).read_text().splitlines()]
    text = "".join(f"{bag.sha256(folder / name)}  {name}\n" for name in lines)
    (folder / bag.TAGS).write_text(text)


def link(folder: Path) -> None:
    path = next(folder.rglob("100% of it.bin"))
    path.rename(folder.parent / "elsewhere.bin")
    path.symlink_to(folder.parent / "elsewhere.bin")


def forge(folder: Path, **changes: Any) -> None:
    """A run.json with other facts, and all digests right."""
    path = next(folder.rglob("run.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    name = path.relative_to(folder).as_posix()
    lines = (folder / bag.PAYLOAD).read_text().splitlines()
    lines = [f"{bag.sha256(path)}  {name}" if line.endswith(name) else line for line in lines]
    (folder / bag.PAYLOAD).write_text("\n".join(lines) + "\n")
    reseal(folder)


DAMAGE: Mapping[str, tuple[Callable[[Path], Any], str]] = {
    "a changed byte": (change_a_byte, "has another .*100% of it.bin than it lists"),
    "a changed number": (change_a_number, "has another .*metrics.csv than it lists"),
    "a missing file": (lambda f: next(f.rglob("toy.json")).unlink(), "lacks .*toy.json"),
    "a file not listed": (
        lambda f: (f / "data/runs/more.txt").write_text("x"), "holds .*more.txt, which it does not",
    ),
    "a file beside": (lambda f: (f / "more.txt").write_text("x"), "holds more.txt"),
    "a link": (link, "no plain file"),
    "a name above": (lambda f: lead_out(f, "data/../../outside"), "leads out"),
    "an absolute name": (lambda f: lead_out(f, str(f.parent / "outside")), "leads out"),
    "an escaped name": (lambda f: lead_out(f, "data/%2E%2E/../outside"), "leads out"),
    "a name beside data": (lambda f: lead_out(f, "README.txt"), "not under data/"),
    "a shortened manifest": (
        lambda f: (f / bag.PAYLOAD).write_text((f / bag.PAYLOAD).read_text().partition("\n")[2]),
        "holds data/archive.json, which it does not list",
    ),
    "a line that is none": (lambda f: (f / bag.PAYLOAD).write_text("..\n"), "that is none"),
    "no manifest": (lambda f: (f / bag.PAYLOAD).unlink(), "has no bagit.txt and manifest"),
    "a run elsewhere": (lambda f: forge(f, run_id="../../.."), "is no archive of runs"),
    "another run id": (lambda f: forge(f, run_id="0" * 32), "other runs than"),
    "an unknown fact": (lambda f: forge(f, more=1), "is no archive of runs"),
    "a state that is none": (lambda f: forge(f, status="DONE"), "is no archive of runs"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_archive_is_refused_as_a_whole(
    study: Study, untouched: Store, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", untouched.uri)
    spoil, reason = DAMAGE[damage]
    folder = study.copy(tmp_path / "copy")
    spoil(folder)
    with pytest.raises(BadInput, match=reason) as refused:
        bring(folder)
    assert "\n" not in str(refused.value)
    assert untouched.client.search_experiments(filter_string="name = 'toys'") == []


def test_any_program_for_checksums_can_check_it(study: Study):
    for name in (bag.PAYLOAD, bag.TAGS):
        command = ["sha256sum", "--check", "--strict", "--quiet", name]
        lines = (study.folder / name).read_text().splitlines()
        plain = "\n".join(line for line in lines if "%" not in line) + "\n"
        subprocess.run([*command[:-1], "-"], input=plain, text=True, cwd=study.folder, check=True)
    assert "100%25 of it.bin" in (study.folder / bag.PAYLOAD).read_text()


def test_only_answers_are_exported_unless_all_are_asked_for(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)
    assert len(list((study.folder / "data/runs").iterdir())) == 2
    asked = Exporting(study="toys", folder=str(tmp_path / "all"), unusable=True)
    archive.export(EXPORT, asked, None)
    there = study.elsewhere(tmp_path / "there", monkeypatch)
    bring(tmp_path / "all")
    failed = standing(TOY, ToyConfig(do="raise"), there)
    assert failed.state == "failed" and "the toy broke" in failed.why


def test_runs_bring_what_they_were_built_on(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)
    asked = Exporting(ids=(study.above.run_id,), folder=str(tmp_path / "one"))
    archive.export(EXPORT, asked, None)
    assert {path.name for path in (tmp_path / "one/data/runs").iterdir()} == {
        study.above.run_id, study.rich.run_id,
    }  # fmt: skip


def test_a_plan_says_how_much_and_writes_nothing(
    study: Study, other: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    before = rows(other)
    archive.import_(IMPORT, Archive(folder=str(study.folder), plan=True), None)
    assert "2 of 2 runs, 0.0 MB, are not in" in capsys.readouterr().out and rows(other) == before
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)
    asked = Exporting(study="toys", folder=str(tmp_path / "none"), plan=True)
    archive.export(EXPORT, asked, None)
    assert "2 runs (1 above, 1 rich) with 0.0 MB" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_what_an_export_cannot_use_is_said_in_a_line(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)

    def refused(error: type[Exception], reason: str, **options: Any) -> None:
        given = {"study": "toys", "folder": str(tmp_path / "new")} | options
        with pytest.raises(error, match=reason):
            archive.export(EXPORT, Exporting(**given), None)

    refused(BadInput, "it is there already", folder=str(tmp_path))
    refused(BadInput, "folder: not given", folder="")
    refused(BadInput, "give study=NAME, or ids", study="")
    refused(BadInput, "ids: not in", study="", ids=("0" * 32,))
    refused(Missing, "none of them is an answer", study="nothing")
    failed = standing(TOY, ToyConfig(do="raise"), study.store).last
    assert failed
    refused(Missing, "add unusable=true", study="", ids=(failed.run_id,))
    assert list(tmp_path.iterdir()) == []


def test_equal_runs_have_equal_archives_in_whatever_order_a_database_keeps_them(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)
    run_id, text = study.rich.run_id, study.rich.tags["said"]
    study.store.client.delete_tag(run_id, "said")
    study.store.client.set_tag(run_id, "said", text)
    archive.export(EXPORT, Exporting(study="toys", folder=str(tmp_path / "again")), None)
    facts = [
        folder / "data/runs" / run_id / "run.json" for folder in (study.folder, tmp_path / "again")
    ]
    assert facts[0].read_bytes() == facts[1].read_bytes()


def test_of_two_exports_into_one_folder_one_writes_it_and_one_says_that_it_is_there(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", study.store.uri)
    asked = Exporting(study="toys", folder=str(tmp_path / "same"))
    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(archive.export, EXPORT, asked, None) for _ in range(2)]
    assert sorted(str(one.exception()).partition(" (")[0] for one in ends) == [
        "None", "folder: it is there already",
    ]  # fmt: skip
    assert bag.verify(tmp_path / "same")


def test_a_run_whose_file_was_changed_is_not_exported_as_an_answer(store: Store, tmp_path: Path):
    record = require(TOY, ToyConfig())
    path = record.artifact("results/toy.json")
    path.write_bytes(path.read_bytes().replace(b"text", b"tixt"))
    with pytest.raises(Missing, match="none of them is an answer"):
        archive.export(EXPORT, Exporting(study="toys", folder=str(tmp_path / "x")), None)
