"""MLproject, conf/, entrypoints/ and the environments name the same things."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

from papertrail.core.question import cli
from papertrail.core.question.experiment import Command, Experiment, load
from papertrail.records.commands import REGISTER, WHY
from papertrail.sweep.config import find, sweeping
from papertrail.tables.auditing import auditing
from papertrail.tables.catalog import rendering, tables

STANZAS: dict[str, Any] = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
SCALES = ("smoke", "quick", "paper")


def typed_as(name: str) -> Command:
    """The command that an entry point launches."""
    if name == "tables":
        return rendering(tables()["attack_success"])
    if name == "audit":
        return auditing(tables()["attack_success"])
    if name == "why":
        return WHY
    if name == "register":
        return REGISTER
    if name == "sweep":
        return sweeping(find("train"))
    source = (ROOT / "entrypoints" / f"{name}.py").read_text()
    found = re.search(r"from (papertrail\S+) import ([A-Z_]+)\n", source)
    assert found, f"entrypoints/{name}.py imports no experiment"
    experiment = getattr(importlib.import_module(found[1]), found[2])
    assert isinstance(experiment, Command)
    return experiment


def test_every_entry_point_has_a_stanza_a_conf_file_and_a_name():
    names = set(STANZAS)
    assert names == {path.stem for path in (ROOT / "entrypoints").glob("*.py")}
    assert names == {path.stem for path in (ROOT / "conf").glob("*.yaml")}
    assert names == {typed_as(name).name for name in names}


@pytest.mark.parametrize("name", STANZAS)
def test_a_stanza_declares_nothing_but_its_conf_file(name: str):
    assert STANZAS[name] == {
        "parameters": {"config": {"type": "path", "default": f"conf/{name}.yaml"}},
        "command": f"PYTHONPATH=src python entrypoints/{name}.py --config {{config}}",
    }


@pytest.mark.parametrize("path", sorted((ROOT / "entrypoints").glob("*.py")), ids=lambda p: p.stem)
def test_an_entry_point_is_at_most_twelve_lines_and_shows_its_command(path: Path):
    text = path.read_text()
    assert len(text.splitlines()) <= 12
    assert f"mlflow run . -e {path.stem}" in text


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STANZAS)
def test_every_scale_fits_every_experiment(name: str, scale: str):
    cli.parse(typed_as(name), [f"--scale={scale}"])


@pytest.mark.parametrize("name", STANZAS)
def test_a_typed_command_means_the_config_it_was_made_from(name: str):
    experiment = typed_as(name)
    config, _ = cli.parse(experiment, ["--scale=smoke"])
    assert cli.parse(experiment, cli.arguments(config))[0] == config


@pytest.mark.parametrize("path", sorted((ROOT / "conf").rglob("*.yaml")), ids=str)
def test_conf_keys_are_nested_not_dotted(path: Path):
    assert not [key for key in yaml.safe_load(path.read_text()) if "." in key]


def test_every_section_of_a_scale_belongs_to_some_experiment():
    sections = {
        option.partition(".")[0] for name in STANZAS for option in cli.options_of(typed_as(name))
    }
    for path in (ROOT / "conf" / "scale").rglob("*.yaml"):
        assert set(yaml.safe_load(path.read_text())) <= sections, path


@pytest.mark.parametrize("name", STANZAS)
def test_every_verb_and_show_can_be_loaded(name: str):
    typed = typed_as(name)
    assert callable(load(typed.answer))
    if isinstance(typed, Experiment):
        assert callable(load(typed.verb)) and callable(load(typed.show))


def pins(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and line[0] != "#"]


def test_conda_and_pip_install_the_same_pins():
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    inner = next(item["pip"] for item in conda["dependencies"] if isinstance(item, dict))
    assert inner == pins((ROOT / "requirements.txt").read_text())


def test_every_dependency_is_pinned():
    for file in sorted(ROOT.glob("requirements*.txt")):
        for pin in pins(file.read_text()):
            assert re.fullmatch(r"[\w.\[\]-]+==[\w.]+", pin), pin


def test_the_readme_shows_its_first_command_before_line_15():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert any("make hotflip" in line for line in lines[:14])
    assert len(lines) <= 150


def test_the_readme_names_every_experiment_and_every_table():
    text = (ROOT / "README.md").read_text()
    for name in [*STANZAS, *tables()]:
        assert f"`{name}`" in text, name


def test_the_changelog_speaks_of_this_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version and f"## {version[1]}" in (ROOT / "CHANGELOG.md").read_text()
