"""The site builds, its links lead somewhere, and what it tells people to type can be typed."""

import ast
import io
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from test_stories import TEST, names_in

import papertrail
from papertrail.core.question import cli, layers

PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLE = ROOT / "docs" / "adding_an_experiment.md"
TELLING = [
    *(page for page in PAGES if page != EXAMPLE),  # its commands are run, below
    ROOT / "README.md",
    *sorted((ROOT / "entrypoints").glob("*.py")),
    *sorted((ROOT / "conf").glob("*.yaml")),
]
NAMES = tuple(yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"])
OURS = r"(?![^\n]*\{config\})(?:mlflow run \. |python entrypoints/\w+\.py|(?<=`)-e \w+)[^`\n]*"
OF_MLFLOW = ("--env-manager", "--experiment-name", "--backend", "--backend-config", "-b")
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


def blocks(path: Path, language: str) -> dict[str, str]:
    """Title, or number, of each block of code in a language -> its text."""
    found, inside, indent = dict[str, str](), "", ""
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        fence = re.match(r'( *)```(\w*)(?: title="([^"]+)")?$', line.rstrip("\n"))
        if fence and inside:
            inside = ""
        elif fence:
            indent, inside = fence[1], f"{fence[2]} {fence[3] or len(found)}"
            found[inside] = ""
        elif inside:
            found[inside] += line.removeprefix(indent)
    heads = {key: key.partition(" ") for key in found}
    return {heads[key][2]: text for key, text in found.items() if heads[key][0] == language}


# -- the built site --------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a built page names: its anchors, where it links to, what a browser fetches for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {given[key] or "" for key in ("id", "name") if key in given}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"] or "")
        if address := given.get(FETCHED.get(tag, "")):
            self.fetched.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """Every page of the site as `make docs` builds it: a warning of mkdocs is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder)))
    return {str(path.relative_to(folder)): Page(path) for path in sorted(folder.glob("**/*.html"))}


def test_every_page_is_built_and_warnings_are_errors(site: dict[str, Page]):
    assert {f"{page.stem}.html" for page in PAGES} <= site.keys()
    told = yaml.unsafe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert told["strict"] is True
    assert {level for part in told["validation"].values() for level in part.values()} == {"warn"}


def test_every_link_and_anchor_leads_somewhere(site: dict[str, Page]):
    broken = []
    for name, page in site.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link) or name == "404.html":
                continue
            path, _, anchor = link.partition("#")
            target = os.path.normpath(Path(name).parent / path) if path else name
            target = "index.html" if target == "." else target
            if target not in site or (anchor and anchor not in site[target].ids):
                broken.append(f"{name}: {link}")
    assert not broken


def test_a_browser_fetches_nothing_from_elsewhere(site: dict[str, Page]):
    pages = [(name, address) for name, page in site.items() for address in page.fetched]
    assert len(pages) > 100
    assert not [(name, to) for name, to in pages if re.match(r"(\w+:)?//", to)]
    style = (ROOT / "docs" / "style.css").read_text(encoding="utf-8")
    assert "url(" not in style and "@import" not in style


def test_the_reference_has_every_option_of_every_entry_point(site: dict[str, Page]):
    reference = site["reference.html"]
    assert set(NAMES) <= reference.ids
    assert not {f"section-{name}" for name in ("data", "constraint", "run")} - reference.ids


# -- what people are told to type ------------------------------------------------------------------


class Parsed(BaseException):
    """Words were read by the parser of an entry point; nothing was computed."""


def given(command: str) -> tuple[str, list[str]]:
    """Entry point and options of a command as a page shows it."""
    words = iter(shlex.split(command.partition(" #")[0]))  # what stands behind it is prose
    name, options = "", []
    for word in words:
        if match := re.fullmatch(r"entrypoints/(\w+)\.py", word):
            name = match[1]
        elif word == "-e":
            name = next(words)
        elif word == "-P":
            key, equals, value = next(words).partition("=")
            assert equals, f"no value for {key}: {command}"
            options += [f"--{key}={value}"]
        elif word in OF_MLFLOW:
            next(words)
        elif word.startswith("--"):
            key, _, value = word.partition("=")
            value = value if value or key == "--help" else next(words)
            value = str(ROOT / value) if (ROOT / value).is_file() else value
            options += [f"{key}={value}" if value else key]
        elif word not in ("mlflow", "run", ".", "python"):
            assert name and "=" not in word, f"{word}: {command}"
            break  # what a program printed goes on behind a command
    return name, options


def started(name: str, options: list[str], root: Path = ROOT) -> None:
    """Run the file of an entry point in this process, as `mlflow run` would call it."""
    path = root / "entrypoints" / f"{name}.py"
    typed = sys.argv
    sys.argv = [str(path), "--config", str(root / "conf" / f"{name}.yaml"), *options]
    try:
        runpy.run_path(str(path), run_name="__main__")
    finally:
        sys.argv = typed


@cache
def trouble(name: str, options: tuple[str, ...]) -> str:
    """What the real parser of an entry point says against some options; empty if nothing."""
    parse = cli.parse

    def only_parse(typed: Any, argv: Any) -> Any:
        parse(typed, argv)
        raise Parsed

    said = io.StringIO()
    cli.parse, sys.stderr, before = only_parse, said, sys.stderr
    try:
        with redirect_stdout(io.StringIO()):
            started(name, list(options))
    except Parsed:
        return ""
    except SystemExit:
        return said.getvalue()
    finally:
        cli.parse, sys.stderr = parse, before
    return "" if "--help" in options else "it was not parsed"


def commands(path: Path) -> Iterator[str]:
    text = re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))
    for found in re.finditer(OURS, text):
        yield found[0].strip()


@pytest.mark.parametrize("path", TELLING, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_command_names_an_entry_point_and_options_that_exist(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for text in blocks(path, "yaml").values():
        if named := re.match(r"# (\w+\.yaml):", text):  # a file that a command of the page reads
            Path(named[1]).write_text(text, encoding="utf-8")
    presets = re.findall(r"(?:write_preset|tuned)=([\w/]+\.yaml)", path.read_text("utf-8"))
    if presets:  # that other commands of the page write
        monkeypatch.setattr(layers, "CONF", Path(shutil.copytree(ROOT / "conf", tmp_path / "conf")))
    for preset in map(Path, presets):
        preset.parent.mkdir(parents=True, exist_ok=True)
        preset.write_text("{}", encoding="utf-8")
    for command in commands(path):
        name, options = given(command)
        assert name in NAMES, command
        assert not (said := trouble(name, tuple(options))), f"{command}\n{said}"


def test_targets_of_make_that_pages_name_exist():
    made = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    for path in (*PAGES, ROOT / "README.md"):
        text = path.read_text(encoding="utf-8")
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M):
            assert target in made, f"{path.name}: make {target}"


def test_every_entry_point_is_explained_on_a_page_that_a_person_wrote():
    texts = [p.read_text(encoding="utf-8") for p in PAGES if p.stem != "reference"]
    for name in NAMES:
        row = re.compile(rf"^\| (`\w+`, )*`{name}`.* \||-e {name}\b", re.M)
        assert any(row.search(text) for text in texts), f"no page explains {name}"


@cache
def named_in(file: str) -> frozenset[str]:
    return frozenset(names_in(ROOT / "tests" / file))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_a_page_names_exist(page: Path):
    for file, test in TEST.findall(page.read_text(encoding="utf-8")):
        assert test in named_in(file), f"no test {test} in {file}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_be_filled_in(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"^[A-Z]{4,}$", text, re.MULTILINE)


# -- code ------------------------------------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The study that docs/adding_an_experiment.md writes out, as a part of this package."""
    from papertrail.tables import catalog

    for language in ("python", "yaml"):
        for name, text in blocks(EXAMPLE, language).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for folder in ("conf", "entrypoints"):
        shutil.copytree(ROOT / folder, tmp_path / folder, dirs_exist_ok=True)
    package = tmp_path / "src" / "papertrail"
    monkeypatch.setattr(papertrail, "__path__", [*papertrail.__path__, str(package)])
    monkeypatch.setattr(catalog, "PACKAGE", package)
    monkeypatch.setattr(layers, "CONF", tmp_path / "conf")
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("papertrail.pi")]:
        del sys.modules[name]


def test_the_example_of_an_experiment_passes_its_own_tests(
    example: Path, request: pytest.FixtureRequest
):
    names = runpy.run_path(str(example / "tests" / "test_pi.py"))
    tests = {name: test for name, test in names.items() if name.startswith("test_")}
    assert len(tests) == 3
    for test in tests.values():
        wanted = test.__code__.co_varnames[: test.__code__.co_argcount]
        test(**{name: request.getfixturevalue(name) for name in wanted})


def test_the_commands_of_the_example_run(
    example: Path, store: Any, capsys: pytest.CaptureFixture[str]
):
    for command in commands(EXAMPLE):
        started(*given(command), root=example)
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    [shown] = [text for text in blocks(EXAMPLE, "").values() if "Error ↓" in text]
    for line in shown.splitlines():  # how wide a table is depends on the terminal
        assert "─" in line or line.split() in printed, line


def test_the_stanza_of_the_example_is_that_of_every_entry_point():
    stanza = yaml.safe_load(blocks(EXAMPLE, "yaml")["MLproject"])["pi"]
    others = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))["entry_points"]
    assert str(stanza) == str(others["train"]).replace("train", "pi")


def defined(module: str) -> set[str]:
    """Top-level names of a module, without running it: some import torch."""
    found = find_spec(module)
    assert found and found.origin, f"no module {module}"
    names = set[str]()
    for node in ast.parse(Path(found.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        else:
            names |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_compiles_and_imports_what_exists(page: Path, example: Path):
    for title, text in blocks(page, "python").items():
        for node in ast.walk(ast.parse(text, f"{page.name}: {title}")):
            if isinstance(node, ast.Import):
                assert all(find_spec(name.name) for name in node.names), title
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("papertrail"):
                for name in node.names:
                    inside = find_spec(f"{node.module}.{name.name}") if _package(node) else None
                    assert inside or name.name in defined(str(node.module)), name.name


def _package(node: ast.ImportFrom) -> bool:
    found = find_spec(str(node.module))
    return found is not None and found.submodule_search_locations is not None
