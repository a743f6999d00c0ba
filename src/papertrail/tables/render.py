"""One sheet, four formats: terminal text, CSV with every digit, LaTeX (`latex`), HTML (`html`).

All of them print a number as `Cell.shown` rounded it.
"""

import csv
import sys
from io import StringIO
from typing import TYPE_CHECKING, Literal, NamedTuple

from papertrail.tables.html import to_html
from papertrail.tables.latex import to_latex
from papertrail.tables.sheet import Cell, Column, Sheet, one_line

if TYPE_CHECKING:
    import rich.box
    import rich.console
    import rich.table
    import rich.text

__all__ = ["print_table", "to_csv", "to_html", "to_latex", "to_text"]

ARROWS = {"lower": " ↓", "higher": " ↑", None: ""}
PADDING = 2  # characters between two columns of a terminal table
EDGES = 2  # characters of its two outer edges
LONGEST_LABEL = 24  # a longer label is folded


def to_csv(sheet: Sheet) -> str:
    """Unrounded numbers; `KEY.low` and the like stand beside `KEY` where any cell has them.

    `pandas.read_csv` (3.1 and newer) gives back exactly these floats. Where there is no value the
    field is empty and `KEY.state` and `KEY.note` say why.
    """
    fields = [(c.key, _csv_fields(sheet.column(c.key))) for c in sheet.columns]
    file = StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(f"{key}.{name}" if name else key for key, names in fields for name in names)
    for row in range(len(sheet.rows)):
        cells = [(sheet.cell(row, key), names) for key, names in fields]
        writer.writerow(_csv_values(cell)[name] for cell, names in cells for name in names)
    return file.getvalue()


def _csv_values(cell: Cell) -> dict[str, str | int | float | None]:
    value = one_line(cell.value) if isinstance(cell.value, str) else cell.value
    return {
        "": value,
        "low": cell.low,
        "high": cell.high,
        "std": cell.spread,
        "n": cell.n,
        "runs": " ".join(cell.runs) or None,
        "state": cell.state,
        "note": one_line(cell.note) or None,
    }


def _csv_fields(cells: list[Cell]) -> list[str]:
    rows = [_csv_values(cell) for cell in cells]
    plain = {"state": "ok"}  # a column of states that are all ok says nothing
    return [""] + [
        name
        for name in ("low", "high", "std", "n", "runs", "state", "note")
        if any(row[name] not in (None, plain.get(name)) for row in rows)
    ]


class Entry(NamedTuple):
    """One field of a terminal table: value and footnote mark, interval and n under it."""

    head: str
    tail: str
    mark: str


def entry(cell: Cell, marks: dict[str, str]) -> Entry:
    """A cell in words and digits."""
    mark = f" ({marks[cell.footnote]})" if cell.footnote else ""
    shown = cell.shown()
    if shown is None:
        return Entry(one_line(cell.value) if isinstance(cell.value, str) else cell.state, "", mark)
    spread = f" ± {shown.spread}" if shown.spread is not None else ""
    num = f"n={cell.n}" if cell.n is not None and shown.spread is not None else ""
    interval = f"[{shown.low}, {shown.high}]" if shown.low is not None else ""
    below = " ".join(part for part in (interval, num) if part)
    return Entry(f"{shown.value}{spread}{cell.format.suffix}", below, mark)


def to_text(sheet: Sheet, width: int = 80) -> str:
    """The table as plain text for a terminal of `width` columns, without any escape code."""
    from rich.console import Console

    file = StringIO()
    console = Console(
        file=file, width=width, force_terminal=False, force_jupyter=False, color_system=None,
        legacy_windows=False,
    )  # fmt: skip
    print_table(sheet, console)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def print_table(sheet: Sheet, console: "rich.console.Console | None" = None) -> None:
    """Print to the terminal: best in bold, values linked to their run where terminals can.

    Too many columns for the width go into further blocks that repeat the first column; nothing
    is ever cut off.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console(file=sys.stdout)
    marks = sheet.marks()
    console.print(Text(one_line(sheet.title), style="bold"))
    if sheet.caption:
        console.print(Text(one_line(sheet.caption), style="dim"))
    for block in blocks(sheet, marks, console.width):
        console.print(_block(sheet, marks, block))
    for sentence, mark in marks.items():
        console.print(Text(f"({mark}) {sentence}", style="dim"))
    for sentence in sheet.footnotes:
        console.print(Text(one_line(sentence), style="dim"))


def blocks(sheet: Sheet, marks: dict[str, str], width: int) -> list[dict[str, int]]:
    """Columns that fit side by side -> their widths; headings on one line where all fit so."""
    first, *others = sheet.columns
    wide = {c.key: _column_width(sheet, c, marks, wrap=False) for c in sheet.columns}
    if sum(wide.values()) + PADDING * (len(wide) - 1) + EDGES <= width:
        return [wide]
    narrow = {c.key: _column_width(sheet, c, marks, wrap=True) for c in sheet.columns}
    found = [{first.key: narrow[first.key]}]
    for column in others:
        used = EDGES + sum(found[-1].values()) + PADDING * len(found[-1])
        if len(found[-1]) > 1 and used + narrow[column.key] > width:
            found.append({first.key: narrow[first.key]})
        found[-1][column.key] = narrow[column.key]
    return found


def _column_width(sheet: Sheet, column: Column, marks: dict[str, str], wrap: bool) -> int:
    from rich.cells import cell_len

    title = one_line(column.title) + ARROWS[column.better]
    entries = [entry(cell, marks) for cell in sheet.column(column.key)]
    lines = [line for e in entries for line in (e.head + e.mark, e.tail)]
    words = max((cell_len(word) for word in title.split()), default=1)
    widest = max([1, *map(cell_len, lines)])
    if not wrap:
        return max(cell_len(title), widest)
    return max(words, min(widest, LONGEST_LABEL) if sheet.is_label(column) else widest)


def _block(sheet: Sheet, marks: dict[str, str], widths: dict[str, int]) -> "rich.table.Table":
    from rich.table import Table
    from rich.text import Text

    columns = [column for column in sheet.columns if column.key in widths]
    table = Table(box=_booktabs(), show_edge=True, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        title = Text(one_line(column.title) + ARROWS[column.better], style="bold")
        justify: Literal["left", "right"] = "left" if sheet.is_label(column) else "right"
        width = widths[column.key]
        table.add_column(title, justify=justify, width=width, vertical="top", overflow="fold")
    best = {column.key: sheet.best(column) for column in columns}
    for row in range(len(sheet.rows)):
        table.add_row(
            *(_text(sheet, sheet.cell(row, c.key), marks, best[c.key] == row) for c in columns)
        )
    return table


def _text(sheet: Sheet, cell: Cell, marks: dict[str, str], best: bool) -> "rich.text.Text":
    from rich.style import Style
    from rich.text import Text

    head, tail, mark = entry(cell, marks)
    url = sheet.link(cell.runs[0]) if len(cell.runs) == 1 else None
    text = Text(head, style=Style(bold=best, dim=cell.state != "ok", link=url))
    text = Text().append(text).append(mark, style="dim")
    return text.append("\n" + tail, style="dim") if tail else text


def _booktabs() -> "rich.box.Box":
    from rich.box import Box

    return Box(" ━━ \n    \n ── \n    \n    \n    \n    \n ━━ \n")
