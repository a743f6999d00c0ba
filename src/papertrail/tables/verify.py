"""Whether a paper says what its runs say: every line that does not, and why."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from papertrail.tables import manuscript, tex
from papertrail.tables.literal import disagreement, quantities, rewritten
from papertrail.tables.manuscript import Use
from papertrail.tables.quoting import Drawn
from papertrail.tables.source import Paper, text_of
from papertrail.tables.tex import SPELLED, Defined, Entry

COVERED = re.compile(r"n = \d+ of \d+ seeds")
"""How the note of a cell begins that averages fewer seeds than were ordered."""


@dataclass(frozen=True, order=True)
class Finding:
    """A line of a paper that is not true."""

    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Truth:
    """What the store says of the tables that a paper declares."""

    drawn: Sequence[Drawn]
    entries: Mapping[str, Entry]
    written: str
    """The results as they are to be written now."""
    defined: Mapping[str, Defined] | None
    """The results as they stand; None where there are none."""


def truth(paper: Paper, drawn: Sequence[Drawn]) -> Truth:
    """Both sides of the comparison."""
    quoted = [one.quoted for one in drawn]
    written = tex.to_file(quoted, paper.main.path.name)
    stands = paper.results.is_file()
    defined = tex.read_back(text_of(paper.results)) if stands else None
    return Truth(drawn, tex.all_entries(quoted), written, defined)


def findings(paper: Paper, found: Truth, uses: Sequence[Use], command: str) -> list[Finding]:
    """Everything that makes the paper untrue, in the order of its files and lines."""
    order = {source.path: n for n, source in enumerate(paper.sources)}
    said = [
        *_results(paper, found, uses, command),
        *(Finding(use.path, use.line, what) for use in uses if (what := problem(use, found))),
        *(
            Finding(one.path, one.line, f"a placeholder ({one.what}) where a number is to stand")
            for one in manuscript.placeholders(paper)
        ),
    ]
    return sorted(dict.fromkeys(said), key=lambda one: (order.get(one.path, -1), one.line))


def remarks(paper: Paper, found: Truth, uses: Sequence[Use]) -> Iterator[str]:
    """What an author may want to know and what makes nothing untrue."""
    names = {use.key.removeprefix("table:").partition(".")[0] for use in uses}
    for one in found.drawn:
        if one.lacking:
            yield (
                f"{one.declaration.where}: {len(one.lacking)} of {len(one.planned)} runs of "
                f"{one.declaration.name} have no result"
            )
        if one.declaration.name not in names:
            yield f"{one.declaration.where}: nothing quotes {one.declaration.name}"


def _results(paper: Paper, found: Truth, uses: Sequence[Use], command: str) -> Iterator[Finding]:
    """What is wrong with the file of macros: not there, not read, not what the store says."""
    needed = [use for use in uses if use.needs_macros]
    name = paper.results.name
    if needed and not paper.results_input:
        yield Finding(
            needed[0].path, needed[0].line, rf"{needed[0].written}: {name} is not read; write "
            rf"\input{{{name}}} above it"
        )  # fmt: skip
    if found.defined is None:
        if needed or paper.results_input:
            yield Finding(paper.results, 1, f"not there; write it with {command}")
        return
    old, new = text_of(paper.results).splitlines(), found.written.splitlines()
    if old == new:
        return
    changed = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    blocks = [block for block in changed if block[0] != "equal"]
    _, first, end, start, stop = blocks[0]
    was = old[first] if first < end else "nothing"
    now = new[start] if start < stop else "nothing"
    count = sum(max(b[2] - b[1], b[4] - b[3]) for b in blocks)
    yield Finding(
        paper.results, first + 1, f"stale, or edited by hand, in {count} lines; this one is "
        f"{was.strip()!r}, and the store says {now.strip()!r}; write it anew with {command}"
    )  # fmt: skip


def problem(use: Use, found: Truth) -> str:
    """Why one quoted number is not true; empty if it is."""
    what = use.problem or _behind(use, found)
    if not what and use.literal is None:
        what = _macro(use, found)
    elif not what:
        what = _literal(use.literal or "", found.entries[use.key])
    return f"{use.written}: {what}" if what else ""


def _behind(use: Use, found: Truth) -> str:
    """Why there is no number behind a key."""
    if use.key.startswith("table:"):
        return _table(use.key.removeprefix("table:"), found)
    entry = found.entries.get(use.key)
    if entry is None:
        return _unknown(use.key, found)
    if entry.cell.state != "ok":
        return f"no run behind it: {entry.cell.footnote}"
    if partly := COVERED.match(entry.cell.note):
        return f"not all runs behind it: {partly[0]} ({entry.cell.footnote})"
    return ""


def _table(name: str, found: Truth) -> str:
    drawn = next((one for one in found.drawn if one.declaration.name == name), None)
    if drawn is None:
        return f"no such table is declared{_near(name, [d.declaration.name for d in found.drawn])}"
    sheet = drawn.quoted.sheet
    cells = [sheet.cell(row, c.key) for row in range(len(sheet.rows)) for c in sheet.columns]
    gaps = [cell for cell in cells if cell.state == "missing" or COVERED.match(cell.note)]
    if not gaps:
        return ""
    return f"{len(gaps)} of its cells lack runs, the first: {gaps[0].footnote}"


def _unknown(key: str, found: Truth) -> str:
    stem, _, part = key.rpartition(".")
    entry = found.entries.get(stem)
    if entry is not None and part in SPELLED:
        if entry.cell.state != "ok":
            return f"no run behind it: {entry.cell.footnote}"
        has = [known.rpartition(".")[2] for known in found.entries if known.startswith(f"{stem}.")]
        return f"the cell has no {part}; it has {', '.join(has) or 'words alone'}"
    name = key.partition(".")[0]
    twins = [d for d in found.drawn if d.declaration.name == name and d.quoted.twins()]
    told = f"; {len(twins[0].quoted.twins())} rows of {name} have labels alike" if twins else ""
    return f"no table has this number{told}{_near(key, found.entries)}"


def _near(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _macro(use: Use, found: Truth) -> str:
    if found.defined is None or use.key.startswith("table:"):
        return ""  # said once, of the file
    entry, defined = found.entries[use.key], found.defined.get(use.key)
    if defined is not None and defined.latex == entry.latex:
        return ""
    prints = f"prints {defined.latex}" if defined else "is not defined yet"
    return f"stale: {prints}, and its runs say {entry.latex}"


def _literal(literal: str, entry: Entry) -> str:
    """Why a number that the paper itself prints is not its run's."""
    if isinstance(entry.cell.value, str):
        same = _words(literal) in (_words(entry.latex), " ".join(entry.cell.value.split()))
        return "" if same else f"stale: the table says {entry.cell.value!r}"
    numbers = quantities(literal)
    if len(numbers) != 1:
        return f"{len(numbers) or 'no'} numbers in it; print one"
    said = disagreement(numbers[0], entry.cell, entry.part)
    return f"stale: {said}" if said else ""


def _words(latex: str) -> str:
    return " ".join(rewritten(latex).split())
