"""Hook of mkdocs: writes the reference from the schemas, and puts drawings into their pages.

The parser of each entry point is the one that a command meets; no option is listed by hand.
"""

import argparse
import ast
import io
import re
import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from papertrail.core.question import cli, layers  # noqa: E402 (its folder is known only now)
from papertrail.core.question.experiment import Command  # noqa: E402
from papertrail.core.question.identity import dumps  # noqa: E402
from papertrail.core.question.wording import readable  # noqa: E402

MARK = "<!-- entry points -->"
DRAWING = re.compile(r'<img alt="([^"]*)" src="(images/[\w-]+\.svg)" ?/?>')
Row = tuple[str, str, str, str]  # option, type, value, meaning


@dataclass(frozen=True)
class Section:
    """Options that belong together, with the values that they have under one conf file."""

    name: str
    """Empty for the options that stand in no section."""
    rows: tuple[Row, ...]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The reference, where its page has the mark."""
    return markdown.replace(MARK, reference()) if MARK in markdown else markdown


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """A drawing becomes part of its page, where it takes the colours of the page."""

    def drawn(found: re.Match[str]) -> str:
        return (ROOT / "docs" / found[2]).read_text(encoding="utf-8")

    return DRAWING.sub(drawn, html)


def names() -> list[str]:
    """Every entry point, in the order of MLproject."""
    tree = yaml.safe_load((ROOT / "MLproject").read_text(encoding="utf-8"))
    return list(tree["entry_points"])


def typed_as(name: str) -> Command:
    """What the file of an entry point launches when it is asked for help."""
    found: list[Command] = []
    shown, words = cli.print_help, sys.argv
    cli.print_help = lambda typed, argv: found.append(typed)
    path = ROOT / "entrypoints" / f"{name}.py"
    sys.argv = [str(path), "--config", str(layers.CONF / f"{name}.yaml"), "--help"]
    try:
        with redirect_stdout(io.StringIO()):
            runpy.run_path(str(path), run_name="__main__")
    finally:
        cli.print_help, sys.argv = shown, words
    return found[0]


def sections(typed: Command) -> list[Section]:
    """The options of a command as its parser has them, under its own conf file."""
    parser = cli._parser(typed)
    conf = f"--config={layers.CONF / f'{typed.name}.yaml'}"
    parser.set_defaults(layers.layered(typed, list(layers.paired([conf])), cli._options(parser)))
    defaults = parser.get_defaults()
    rows: dict[str, list[Row]] = {}
    for action in parser._actions:
        if row := _row(parser, action, defaults):
            rows.setdefault(row[0].rpartition(".")[0], []).append(row)
    return [Section(name, tuple(some)) for name, some in rows.items()]


def _row(parser: Any, action: argparse.Action, defaults: Any) -> Row | None:
    """None for --help, and for the option that reads a whole section from a file."""
    named = [word.removeprefix("--") for word in action.option_strings]
    if not named or "help" in action.dest.split(".") or action.metavar == "CONFIG":
        return None
    told = readable(parser._get_formatter()._expand_help(action))
    found = re.fullmatch(
        r"(.*?) ?\((?:required, )?type: (.*?)(?:, default: .*)?\)", told, re.DOTALL
    )
    assert found, f"help of {named[0]} names no type: {told}"
    return named[0], found[2], _spelled(defaults[action.dest]), found[1]


def _spelled(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else dumps(_plain(value))


def _plain(value: Any) -> Any:
    """Sections inside lists and dictionaries come from the parser as objects of its own."""
    if isinstance(value, (Namespace, Mapping)):
        inner = vars(value) if isinstance(value, Namespace) else value
        return {key: _plain(one) for key, one in inner.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def reference() -> str:
    """All entry points; a section that several have in common is written once."""
    known: dict[Section, str] = {}
    users: dict[Section, list[str]] = {}
    parts = []
    for name in names():
        mine = sections(typed_as(name))
        for section in mine:
            if section.name:
                known.setdefault(section, _anchor(section, known))
                users.setdefault(section, []).append(name)
        parts.append(_entry(name, mine, known))
    shared = [_shared(section, anchor, users[section]) for section, anchor in known.items()]
    return "\n".join(["## Entry points\n", *parts, "## Sections\n", *shared])


def _anchor(section: Section, known: Mapping[Section, str]) -> str:
    """section-data; the second section of that name is section-data-2."""
    same = sum(other.name == section.name for other in known)
    return f"section-{section.name.replace('.', '-')}" + (f"-{same + 1}" if same else "")


def _entry(name: str, mine: list[Section], known: Mapping[Section, str]) -> str:
    text = (ROOT / "entrypoints" / f"{name}.py").read_text(encoding="utf-8")
    about = (ast.get_docstring(ast.parse(text)) or "").partition("\n\n")
    lines = [f"### {name} {{ #{name} }}\n", about[0].replace("\n", " ") + "\n"]
    if about[2]:
        lines.append(f"```bash\n{about[2]}\n```\n")
    links = [f"[`{one.name}`](#{known[one]})" for one in mine if one.name]
    if links:
        lines.append(f"Sections: {', '.join(links)}.\n")
    lines += [_table(one.rows) for one in mine if not one.name and one.rows]
    return "\n".join(lines)


def _shared(section: Section, anchor: str, users: list[str]) -> str:
    used = ", ".join(f"[{name}](#{name})" for name in users)
    return f"### {section.name} {{ #{anchor} }}\n\nOf {used}.\n\n{_table(section.rows)}"


def _table(rows: tuple[Row, ...]) -> str:
    lines = ["| option | takes | value | |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> Iterator[str]:
    option, kind, value, meaning = (_cell(text) for text in row)
    yield f"`{option}`"
    yield f"`{_kind(kind)}`"
    yield f"`{value}`" if value else ""
    yield meaning


def _kind(text: str) -> str:
    """Literal['a', 'b'] as the words themselves, tuple[int, ...] as it is typed."""
    words = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", ""), text)
    return words.replace("tuple[", "[")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
