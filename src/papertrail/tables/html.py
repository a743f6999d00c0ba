"""A sheet as one HTML page: every value leads to its runs, every gap says why it is one.

No script and no outside resource, so the file can be an artifact, a mail or an appendix.
"""

import json
import math
from collections.abc import Mapping
from html import escape
from typing import Any

from papertrail.tables.sheet import Cell, Column, Sheet, one_line
from papertrail.tables.style import CSS

DIRECTIONS = {"lower": ("↓", "lower is better"), "higher": ("↑", "higher is better")}
SPAN_MARGIN = 0.04  # of a column's range, left free at both ends of its bars


def to_html(sheet: Sheet) -> str:
    """The page; every text in it is escaped, and links are web addresses or left out."""
    title, caption = text(sheet.title), text(sheet.caption)
    heads = "".join(_heading(sheet, column) for column in sheet.columns)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{CSS}</style>
</head>
<body>
<main>
<div class="scroll" tabindex="0" role="region" aria-label="{title}">
<table>
<caption><span class="title">{title}</span>{f"<p>{caption}</p>" if caption else ""}</caption>
<thead><tr>{heads}</tr></thead>
<tbody>
{_body(sheet)}
</tbody>
</table>
</div>
{_notes(sheet)}{_provenance(sheet)}</main>
</body>
</html>
"""


def text(value: str) -> str:
    """`value` on one line and harmless, in content and in quoted attributes."""
    return escape(one_line(value))


def number(rounded: str) -> str:
    """A rounded number with a real minus sign, which is as wide as its digits."""
    return text(rounded).replace("-", "\N{MINUS SIGN}")


def _heading(sheet: Sheet, column: Column) -> str:
    *words, last = text(column.title).split() or [""]
    if column.better is not None:
        sign, meaning = DIRECTIONS[column.better]
        last += f'&nbsp;<span class="arrow" role="img" aria-label="{meaning}">{sign}</span>'
    tip = f' title="{text(column.help)}"' if column.help else ""
    kind = ' class="label"' if sheet.is_label(column) else ""
    num = shared_n(sheet.column(column.key))
    below = f'<span class="n">n&nbsp;=&nbsp;{num}</span>' if num is not None else ""
    return f'<th scope="col"{kind}{tip}>{" ".join([*words, last])}{below}</th>'


def shared_n(cells: list[Cell]) -> int | None:
    """The n of a column if all its numbers have the same one: then its heading says it once."""
    found = {cell.n for cell in cells if cell.number is not None}
    return found.pop() if len(found) == 1 else None


def _body(sheet: Sheet) -> str:
    columns = [_fields(sheet, column) for column in sheet.columns]
    return "\n".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))


def _fields(sheet: Sheet, column: Column) -> list[str]:
    cells, marks, best = sheet.column(column.key), sheet.marks(), sheet.best(column)
    common, shared = span(cells), shared_n(cells)
    tag = 'th scope="row"' if column == sheet.columns[0] else "td"
    fields = []
    for row, cell in enumerate(cells):
        inside = _value(sheet, cell, marks, row == best) + _interval(cell, common)
        if cell.n is not None and shared is None:
            inside += f'<span class="n">n&nbsp;=&nbsp;{cell.n}</span>'
        if len(cell.runs) == 1 and sheet.link(cell.runs[0]) is None:
            inside += f'<code class="run">{text(cell.runs[0])}</code>'
        kind = "label" if sheet.is_label(column) and cell.state == "ok" else cell.state
        fields.append(f'<{tag} class="{kind}">{inside}</{tag[:2]}>')
    return fields


def _value(sheet: Sheet, cell: Cell, marks: Mapping[str, str], best: bool) -> str:
    core = _core(cell)
    core = f"<strong>{core}</strong>" if best else core
    tip = f' title="{text(cell.footnote)}"' if cell.state != "ok" else ""
    return f'<span class="value"{tip}>{_linked(sheet, cell, core)}{_mark(cell, marks)}</span>'


def _core(cell: Cell) -> str:
    shown = cell.shown()
    if shown is None:
        return text(cell.value) if isinstance(cell.value, str) else cell.state
    spread = f'<span class="spread"> ± {number(shown.spread)}</span>' if shown.spread else ""
    unit = f"&nbsp;{text(cell.format.unit)}" if cell.format.unit else text(cell.format.suffix)
    return f"{number(shown.value)}{spread}{unit}"


def _mark(cell: Cell, marks: Mapping[str, str]) -> str:
    mark = marks.get(cell.footnote)
    return f'<sup><a href="#note-{mark}">{mark}</a></sup>' if mark else ""


def _linked(sheet: Sheet, cell: Cell, core: str) -> str:
    if len(cell.runs) > 1:
        runs = "".join(f"<li>{_run(sheet, run)}</li>" for run in cell.runs)
        return (
            f'<details><summary title="{len(cell.runs)} runs">{core}</summary>'
            f"<ol>{runs}</ol></details>"
        )
    if not cell.runs:
        return core
    run = cell.runs[0]
    url = sheet.link(run)
    if url is None:  # the id stands under the value instead
        return core
    return f'<a href="{escape(url)}" title="run {text(run)}">{core}</a>'


def _run(sheet: Sheet, run: str) -> str:
    url = sheet.link(run)
    short = f"<code>{text(run)}</code>"
    return f'<a href="{escape(url)}" title="run {text(run)}">{short}</a>' if url else short


def span(cells: list[Cell]) -> tuple[float, float] | None:
    """What the bars of a column stretch over: all of 0 to 100 % for rates, else its own range."""
    found = [cell for cell in cells if cell.low is not None]
    numbers = [x for c in found for x in (c.low, c.high, c.number) if x is not None]
    if not numbers or min(numbers) == max(numbers):
        return None
    first, last = float(min(numbers)), float(max(numbers))
    if all(cell.format.percent for cell in found) and first >= 0 and last <= 1:
        return 0.0, 1.0  # the same in every column of rates: attack and control compare by eye
    margin = SPAN_MARGIN * (last / 2 - first / 2) * 2
    return (first - margin, last + margin) if math.isfinite(last - first + 2 * margin) else None


def _interval(cell: Cell, span: tuple[float, float] | None) -> str:
    shown = cell.shown()
    if shown is None or shown.low is None or shown.high is None:
        return ""
    ends = f'<span class="ci">[{number(shown.low)}, {number(shown.high)}]</span>'
    return ends + (_bar(cell, span) if span else "")


def _bar(cell: Cell, span: tuple[float, float]) -> str:
    assert cell.low is not None and cell.high is not None and cell.number is not None

    def at(x: float | int) -> float:
        return 100 * ((x - span[0]) / (span[1] - span[0]))

    low, high, value = at(cell.low), at(cell.high), at(cell.number)
    zero = f'<i class="zero" style="left:{at(0):.1f}%"></i>' if span[0] < 0 < span[1] else ""
    return (
        f'<span class="bar" aria-hidden="true">{zero}'
        f'<i class="range" style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<i class="dot" style="left:{value:.1f}%"></i></span>'
    )


def _notes(sheet: Sheet) -> str:
    marked = [
        f'<li id="note-{mark}"><sup>{mark}</sup> {text(sentence)}</li>'
        for sentence, mark in sheet.marks().items()
    ]
    notes = marked + [f"<li>{text(sentence)}</li>" for sentence in sheet.footnotes]
    return f'<ul class="notes" aria-label="Notes">{"".join(notes)}</ul>\n' if notes else ""


def _provenance(sheet: Sheet) -> str:
    helps = [(c.title, text(c.help)) for c in sheet.columns if c.help]
    runs = [_run(sheet, run) for run in sheet.runs()]
    facts = [("table", f"<code>{text(sheet.name)}</code>")]
    facts += [(key, text(_plain(value))) for key, value in sheet.provenance.items()]
    facts += [(f"{len(runs)} runs", " ".join(runs))] if runs else []
    return _folded("What the columns mean", helps) + _folded("Where this table comes from", facts)


def _folded(summary: str, facts: list[tuple[str, str]]) -> str:
    if not facts:
        return ""
    rows = "".join(f"<dt>{text(name)}</dt><dd>{inside}</dd>" for name, inside in facts)
    return f'<details class="about"><summary>{summary}</summary><dl>{rows}</dl></details>\n'


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
