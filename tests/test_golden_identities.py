"""The questions that people have spent hours on keep their identities: golden_identities.json.

If a test here fails, read its message before you touch that file. To write the file anew:
PYTHONPATH=src python tests/test_golden_identities.py
"""

import json
from collections.abc import Mapping
from dataclasses import field, make_dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from papertrail.core.question import cli
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import Identity, differences, identify

GOLDEN = Path(__file__).with_name("golden_identities.json")
EXPERIMENTS = {
    one.name: one
    for path in sorted(ROOT.glob("src/papertrail/*/config.py"))
    for one in vars(import_module(f"papertrail.{path.parent.name}.config")).values()
    if isinstance(one, Experiment)
}
COMMANDS = [
    *(f"{name} --scale={scale}" for name in EXPERIMENTS for scale in ("quick", "paper")),
    "train --scale=quick --constraint.kind=none --seed=1337",
]
"""What people ask, as they type it; no data are downloaded to identify any of it."""


def asked(command: str) -> Identity:
    name, *argv = command.split()
    return identify(EXPERIMENTS[name], cli.parse(EXPERIMENTS[name], argv)[0])


def moved(name: str, golden: Mapping[str, Any], found: Identity) -> str:
    """What is to be done about an identity that is not what it was; empty if it is."""
    if (found.digest, found.form) == (golden["digest"], golden["form"]):
        return ""
    return "\n".join(
        [
            f"{name} {golden['digest']} became {found.digest}: all runs that answer it are void.",
            *(f"    {line}" for line in differences(golden["form"], found.form)),
            "An option was added? Say at which value it changes nothing, in `neutral` of every",
            "experiment whose schema has it. A default was changed on purpose, or the revision",
            f"raised? Then write {GOLDEN.name} anew, and tell it in CHANGELOG.md.",
        ]
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_what_people_have_computed_keeps_its_identity(command: str):
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert command in golden, f"{command} is new: write {GOLDEN.name} anew, and check its diff"
    if complaint := moved(command, golden[command], asked(command)):
        pytest.fail(complaint, pytrace=False)


def test_an_option_added_without_a_neutral_value_is_named_with_what_to_do():
    command = "pretrain --scale=quick"
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[command]
    old = EXPERIMENTS["pretrain"]
    section = make_dataclass("Added", [("ema", float, 0.0)], frozen=True, kw_only=True)
    schema = make_dataclass(
        "Later",
        [("extra", section, field(default_factory=section))],
        bases=(old.schema,), frozen=True, kw_only=True,
    )  # fmt: skip
    config = schema(**vars(cli.parse(old, ["--scale=quick"])[0]))
    careless = moved("pretrain", golden, identify(replace(old, schema=schema), config))
    assert "config.extra.ema: (absent) -> 0.0" in careless and "in `neutral` of every" in careless
    careful = replace(old, schema=schema, neutral={**old.neutral, "extra.ema": 0})
    assert moved("pretrain", golden, identify(careful, config)) == ""


def test_a_changed_default_is_named():
    command = "corpus --scale=quick"
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))[command]
    corpus = EXPERIMENTS["corpus"]
    config = cli.parse(corpus, ["--scale=quick", "--data.vocab_size=8192"])[0]
    said = moved("corpus", golden, identify(corpus, config))
    assert "config.data.vocab_size: 4096 -> 8192" in said


if __name__ == "__main__":
    found = {command: asked(command) for command in COMMANDS}
    tree = {command: {"digest": one.digest, "form": one.form} for command, one in found.items()}
    GOLDEN.write_text(json.dumps(tree, indent=1, sort_keys=True) + "\n", encoding="utf-8")
