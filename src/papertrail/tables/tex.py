"""One TeX macro per number of a sheet, and the file that defines them all.

A key is NAME.ROW.COLUMN, followed by `.low` and the like for what stands around a value. The macros
expand (no \\protect needed): captions, section titles, bookmarks and math take them as they are.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from papertrail.tables.latex import comment, escape, number, to_latex
from papertrail.tables.sheet import Cell, Column, Format, Sheet, one_line, rounded

MARK = "% written by papertrail:"
"""How the first line of every such file begins; no other file is ever overwritten."""
FRACTION_DIGITS = 2  # 98.8 % has one digit after the point, 0.988 three
WORDS = {"+": "plus", "<": "lt", ">": "gt", "=": "eq", "%": "percent", "|": "abs", "*": "star"}
SPELLED = {"interval", "bare", "abs", "fraction", "low", "high", "std", "n"}
"""What can follow the key of a cell."""
PREAMBLE = r"""
\long\def\papertraildefine#1#2{%
  \expandafter\def\csname papertrail@\detokenize{#1}\endcsname{#2}}
\def\papertrail#1{%
  \ifcsname papertrail@\detokenize{#1}\endcsname
    \csname papertrail@\detokenize{#1}\endcsname
  \else
    \papertrailgap{#1}%
  \fi}
\protected\def\papertrailgap#1{%
  \GenericWarning{}{papertrail: no number for \detokenize{#1}}%
  \texttt{??\detokenize{#1}??}}
\def\pttable#1{\papertrail{table:#1}}
\long\def\ptcheck#1#2{#2}
\ifdefined\pt\else\let\pt\papertrail\fi
""".strip()


@dataclass(frozen=True)
class Entry:
    """One number, or why there is none."""

    cell: Cell
    part: str = ""
    """One of SPELLED; empty for the value itself."""
    latex: str = ""
    """What the macro typesets; empty where there is no number."""


@dataclass(frozen=True)
class Defined:
    """A macro as a written file has it."""

    latex: str
    runs: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class Quoted:
    """A sheet under the name that a paper gave it."""

    name: str
    sheet: Sheet
    order: str
    """What the paper declared."""
    identity: str
    """Of the rendering that was ordered."""

    def entries(self) -> dict[str, Entry]:
        """Every key with its number; cells without one have the key of their value alone."""
        found: dict[str, Entry] = {}
        for row, label in enumerate(row_keys(self.sheet)):
            if label is None:
                continue
            for column, key in zip(self.sheet.columns, column_keys(self.sheet), strict=True):
                cell, stem = self.sheet.cell(row, column.key), f"{self.name}.{label}.{key}"
                for part, latex in parts(cell):
                    found[f"{stem}.{part}" if part else stem] = Entry(cell, part, latex)
        return found

    def twins(self) -> list[int]:
        """Rows that no label tells apart: none of them can be quoted."""
        return [row for row, label in enumerate(row_keys(self.sheet)) if label is None]


def slug(text: str) -> str:
    """A label as part of a key: ASCII letters, digits, `_` and `-`; never empty."""
    words = "".join(map(_ascii, unicodedata.normalize("NFKD", text)))
    return re.sub(r"[^a-z0-9_]+", "-", words.lower()).strip("-") or "row"


def _ascii(character: str) -> str:
    if character.isascii():
        return f" {WORDS[character]} " if character in WORDS else character
    if unicodedata.combining(character):
        return ""  # the accent that NFKD set apart from its letter
    name = unicodedata.name(character, "-")
    return f" {re.sub(r'.* LETTER ', '', name)} "


def row_keys(sheet: Sheet) -> list[str | None]:
    """The label of each row, read from as many columns of words as tell all rows apart.

    None for rows that are alike in all of them: to count them would name another number as soon as
    the order changes.
    """
    first, *others = sheet.columns
    used, found = [first], _labels(sheet, [first])
    for column in filter(sheet.is_label, others):
        if len(set(found)) == len(found):
            break
        if all(isinstance(cell.value, str) for cell in sheet.column(column.key)):
            used.append(column)
            found = _labels(sheet, used)
    counts = Counter(found)
    return [label if counts[label] == 1 else None for label in found]


def _labels(sheet: Sheet, columns: Sequence[Column]) -> list[str]:
    return [
        ".".join(_label(sheet.cell(row, column.key)) for column in columns)
        for row in range(len(sheet.rows))
    ]


def _label(cell: Cell) -> str:
    shown = cell.shown()
    text = f"{shown.value}{cell.format.suffix}" if shown else str(cell.value or cell.state)
    return slug(text.replace(".", "p") if shown else text)


def column_keys(sheet: Sheet) -> list[str]:
    """The columns' own keys where TeX can take them."""
    keys = [re.sub(r"[^A-Za-z0-9_-]+", "-", column.key).strip("-") for column in sheet.columns]
    assert len(set(keys)) == len(keys), f"{sheet.name}: columns {keys} are alike in TeX"
    return keys


def parts(cell: Cell) -> Iterator[tuple[str, str]]:
    """What can be quoted of a cell: (suffix of the key, LaTeX), as `Cell.shown` rounded it."""
    shown, value = cell.shown(), cell.number
    if shown is None or value is None:
        yield "", escape(cell.value) if isinstance(cell.value, str) else ""
        return
    suffix = escape(cell.format.suffix).replace(" ", "~", 1)
    yield "", math(shown.value) + suffix
    yield "bare", math(shown.value)
    yield "abs", math(shown.value.lstrip("+-")) + suffix
    if cell.format.percent:
        plain = replace(cell.format, percent=False, digits=cell.format.digits + FRACTION_DIGITS)
        yield "fraction", math(rounded(value, plain))
    if shown.low is not None and shown.high is not None:
        yield "low", math(shown.low) + suffix
        yield "high", math(shown.high) + suffix
        yield "interval", rf"\ensuremath{{[{number(shown.low)}, {number(shown.high)}]}}"
    if shown.spread is not None:
        yield "std", math(shown.spread) + suffix
    if cell.n is not None:
        yield "n", rounded(cell.n, Format(digits=0))


def math(text: str) -> str:
    """A rounded number that is right in text and in math: digits alone keep the text's figures."""
    return text if re.fullmatch(r"[\d.]+", text) else rf"\ensuremath{{{number(text)}}}"


# -- the file --------------------------------------------------------------------------------------


def to_file(quoted: Sequence[Quoted], paper: str) -> str:
    """All macros of a paper. Nothing in it but the numbers changes: no date, no machine."""
    lines = [f"{MARK} the numbers of {one_line(paper)}; do not edit, order them anew", PREAMBLE]
    for one in quoted:
        lines += ["", f"% {one.name} = {comment(one.order)}", f"% identity {one.identity}"]
        lines += [_line(key, entry) for key, entry in one.entries().items()]
        lines += [f"% a row that no label tells apart: {row + 1}" for row in one.twins()]
        table = to_latex(replace(one.sheet, name=one.name, provenance={})).rstrip("\n")
        lines += [rf"\papertraildefine{{table:{one.name}}}{{%", f"{table}%", "}"]
    return "\n".join(lines) + "\n"


def _line(key: str, entry: Entry) -> str:
    if entry.cell.state != "ok":
        return f"% {key}: {entry.cell.footnote}{_runs(entry.cell.runs)}"
    return rf"\papertraildefine{{{key}}}{{{entry.latex}}}%{_runs(entry.cell.runs)}"


def _runs(runs: Iterable[str]) -> str:
    words = one_line(" ".join(runs))
    return f" runs: {words}" if words else ""


def read_back(text: str) -> dict[str, Defined]:
    """The macros that a written file defines, whole tables with all runs of their rows."""
    found: dict[str, Defined] = {}
    one = re.compile(r"\\papertraildefine\{([^{}]+)\}\{(.*)\}%(?: runs: (.*))?")
    for line, words in enumerate(text.splitlines(), 1):
        if match := one.fullmatch(words):
            found[match[1]] = Defined(match[2], tuple((match[3] or "").split()), line)
    for match in re.finditer(
        r"^\\papertraildefine\{(table:[^{}]+)\}\{%\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL
    ):
        rows = re.findall(r"^ *% runs: (.*)$", match[2], re.MULTILINE)
        runs = dict.fromkeys(run for row in rows for run in row.split() if row != "none")
        found[match[1]] = Defined(match[2], tuple(runs), text.count("\n", 0, match.start()) + 1)
    return found


def all_entries(quoted: Sequence[Quoted]) -> Mapping[str, Entry]:
    """The keys of a whole paper."""
    return {key: entry for one in quoted for key, entry in one.entries().items()}
