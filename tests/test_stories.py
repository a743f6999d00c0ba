"""Every story and pitfall that docs/ tells has a test that exists, or the issue it waits for."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs" / "failure_stories.md").read_text(encoding="utf-8")
WORLD = (ROOT / "docs" / "world.md").read_text(encoding="utf-8")
SECTIONS = ("Identity", "Storage", "Process", "Code and data", "Tables")
TEST = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
WAITS = ("issue 11",)


def rows(section: str, text: str = TEXT) -> list[list[str]]:
    """The cells of each row of a section's table."""
    [body] = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    lines = [line for line in body.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


PITFALLS = rows("What the published code did, and what is done here", WORLD)
STORIES = [*(row for section in SECTIONS for row in rows(section)), *PITFALLS]


def names_in(path: Path) -> Iterator[str]:
    """Names of the tests that a file defines, parametrised ones once."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name


def test_the_stories_are_all_there():
    assert re.findall(r"^## (.*)$", TEXT, re.MULTILINE) == list(SECTIONS)
    assert [len(rows(section)) for section in SECTIONS] == [17, 14, 21, 8, 5]
    assert len(PITFALLS) == 17


@pytest.mark.parametrize("row", STORIES, ids=lambda row: row[0])
def test_a_story_has_a_test_or_waits_for_an_issue(row: list[str]):
    _, who, covered = row
    assert who
    for place in covered.split(", "):
        found = TEST.fullmatch(place)
        if found is None:
            assert place in WAITS, f"{place} is neither file.py::test nor one of {WAITS}"
        else:
            path = ROOT / "tests" / found[1]
            assert path.is_file(), f"no file {found[1]}"
            assert found[2] in names_in(path), f"no test {found[2]} in {found[1]}"
