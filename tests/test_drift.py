"""Code that changed behind a run that stands: noticed by meaning, named, and accepted or not."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from toy import TOY, ToyConfig

from papertrail.core import progress
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import drifted
from papertrail.core.errors import BadInput
from papertrail.core.question import drift
from papertrail.core.question.experiment import Experiment
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.records import verdict
from papertrail.records.commands import ACCEPT, Acceptance

VERB = '''"""A study."""

from drifting.part import factor
from papertrail.core.writing import track


def verb(config):
    track.metrics({"size": factor() * config.part.size})
'''
PART = '''"""A part."""


def factor():
    """What it is."""
    return 2
'''
ATTACK = "papertrail.monotone.attack:attack"


@pytest.fixture
def part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The source of a module that the verb of `DRIFTING` imports."""
    package = tmp_path / "code" / "drifting"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "study.py").write_text(VERB)
    (package / "part.py").write_text(PART)
    monkeypatch.syspath_prepend(package.parent)
    for name in [name for name in sys.modules if name.partition(".")[0] == "drifting"]:
        del sys.modules[name]
    drift.code_of.cache_clear()
    drift._path.cache_clear()
    monkeypatch.setattr(progress, "_SAID", set())
    yield package / "part.py"


DRIFTING = Experiment(
    name="drifting",
    study="toys",
    schema=ToyConfig,
    verb="drifting.study:verb",
    infrastructure=("device",),
)


def computed() -> Record:
    return require(DRIFTING, ToyConfig())


def test_a_run_keeps_the_modules_that_its_verb_reaches(store: Store, part: Path):
    recorded = json.loads(computed().artifact("code.json").read_text())
    assert set(recorded) == {"drifting.study", "drifting.part", "drifting"}


def test_reuse_after_a_change_says_which_modules_and_what_to_do(
    store: Store, part: Path, capsys: pytest.CaptureFixture[str]
):
    first = computed()
    part.write_text(PART.replace("return 2", "return 3"))
    again = computed()
    said = capsys.readouterr().err
    assert again.run_id == first.run_id
    assert "drifting.part changed since run" in said and "raise the revision" in said
    assert "-e accept" in said
    computed()
    assert capsys.readouterr().err == ""  # once is enough


@pytest.mark.parametrize(
    "text",
    [
        PART.replace("What it is.", "Another word."),
        PART.replace("    return 2", "    # a comment\n    return (2)"),
        PART.replace("\n\n\n", "\n\n\n\n"),
    ],
    ids=["docstring", "comment and parentheses", "layout"],
)
def test_a_change_without_meaning_is_no_change(store: Store, part: Path, text: str):
    record = computed()
    part.write_text(text)
    assert drifted(record) == []


def test_a_module_that_is_gone_has_changed(store: Store, part: Path):
    record = computed()
    part.unlink()
    assert drifted(record) == ["drifting.part"]


def test_what_was_accepted_with_a_reason_is_silent_until_the_next_change(
    store: Store, part: Path, capsys: pytest.CaptureFixture[str]
):
    record = computed()
    part.write_text(PART.replace("return 2", "return 1 + 1"))
    assert drifted(record) == ["drifting.part"]
    verdict.accept(ACCEPT, Acceptance(run=record.run_id, reason="the same number"), None)
    assert "accepted 1 of 1 runs" in capsys.readouterr().out
    accepted = query.by_id(record.run_id)
    assert drifted(accepted) == []
    [kept] = [text for key, text in accepted.tags.items() if key.startswith("papertrail.accepted")]
    assert "the same number" in kept and "drifting.part" in kept
    part.write_text(PART.replace("return 2", "return 3"))
    assert drifted(accepted) == ["drifting.part"]


def test_all_runs_of_an_experiment_can_be_accepted_at_once(
    store: Store, part: Path, monkeypatch: pytest.MonkeyPatch
):
    records = [require(DRIFTING, ToyConfig(seed=seed)) for seed in range(3)]
    part.write_text(PART.replace("return 2", "return 1 + 1"))
    monkeypatch.setattr(verdict, "find", {"drifting": DRIFTING}.__getitem__)
    verdict.accept(ACCEPT, Acceptance(experiment="drifting", reason="equal"), None)
    assert [drifted(query.by_id(record.run_id)) for record in records] == [[], [], []]


def test_a_raised_revision_is_computed_again_without_a_warning(
    store: Store, part: Path, capsys: pytest.CaptureFixture[str]
):
    first = computed()
    part.write_text(PART.replace("return 2", "return 3"))
    again = require(replace(DRIFTING, revision=2), ToyConfig())
    assert again.run_id != first.run_id
    assert "changed since" not in capsys.readouterr().err


def test_an_acceptance_without_a_reason_is_refused(store: Store, part: Path):
    with pytest.raises(BadInput, match=r"^reason: not given"):
        verdict.accept(ACCEPT, Acceptance(run=computed().run_id, reason=" "), None)


def test_the_code_of_a_real_experiment_is_its_own_and_none_of_the_machinery():
    modules = set(drift.code_of(ATTACK))
    assert {
        "papertrail.attacks.search",
        "papertrail.nn.scoring",
        "papertrail.core.training.fit",
    } <= modules
    assert not {name for name in modules if name.startswith("papertrail.core")} - {
        f"papertrail.core.training.{name}" for name in ("fit", "keeper", "ranks")
    }
    assert "papertrail.monotone.tables" not in modules


def test_a_table_is_drawn_by_its_study_and_by_tables_and_by_none_of_the_machinery():
    modules = set(drift.code_of("papertrail.tables.order:draw", "papertrail.monotone.tables"))
    assert {"papertrail.monotone.tables", "papertrail.tables.render"} <= modules
    assert not [name for name in modules if name.startswith("papertrail.records")]


def test_every_module_named_has_its_place_in_the_tree():
    for module in drift.code_of(ATTACK):
        assert (ROOT / drift.place(module)).is_file(), module


def test_a_run_from_before_code_was_kept_is_reused_in_silence(
    store: Store, capsys: pytest.CaptureFixture[str]
):
    record = require(TOY, ToyConfig())
    manifest = record.artifact("manifest.json")
    facts = json.loads(manifest.read_text())
    del facts["code.json"]
    manifest.write_text(json.dumps(facts))
    record.artifact("code.json").unlink()
    assert require(TOY, ToyConfig()).run_id == record.run_id
    assert capsys.readouterr().err == ""
