"""A sheet as a LaTeX table that compiles in a plain article with booktabs.

Numbers keep the string of `Cell.shown`; math mode only turns its hyphen into a minus.
"""

import re
from textwrap import wrap
from typing import Any

from papertrail.tables.sheet import Cell, Column, Sheet, one_line

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "{''}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # after \\ or \midrule a bare [ opens an optional argument
    "]": "{]}",
    "*": "{*}",  # likewise \\*
    "\ufffd": "?",  # what `one_line` put for a control character
    "…": r"\ldots{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "≈": r"$\approx$",
    "→": r"$\rightarrow$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "−": "$-$",
    "∞": r"$\infty$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "δ": r"$\delta$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "π": r"$\pi$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
}

MANY_COLUMNS = 6  # from here on type and gaps are set smaller, to fit a page of one column
HEADING_CHARACTERS = 10  # a longer heading is stacked


def to_latex(sheet: Sheet) -> str:
    """A `table` float: value (mean ± std, n) with its interval on the line below, best in bold.

    Every row ends in a comment with its run ids. Text beyond Latin, Greek letters and common
    signs needs LuaLaTeX or XeLaTeX and a font that has it.
    """
    spec = "".join("l" if sheet.is_label(c) else "r" for c in sheet.columns)
    heads = " &\n    ".join(_heading(c, sheet.is_label(c)) for c in sheet.columns)
    title = escape(sheet.title.rstrip("."))
    caption = f"\\textbf{{{title}.}} {escape(sheet.caption)}".strip()
    lines = [
        f"% {one_line(sheet.name)}: generated, do not edit",
        *(f"% {one_line(key)}: {comment(value)}" for key, value in sheet.provenance.items()),
        r"\begin{table}[t]",
        r"  \centering",
        r"  \setlength{\belowcaptionskip}{6pt}",
        *_sizes(len(sheet.columns)),
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{re.sub(r'[^A-Za-z0-9_:-]+', '-', sheet.name)}}}",
        r"  \makebox[\linewidth]{%  wider than the text: over both margins alike",
        f"  \\begin{{tabular}}{{@{{}}{spec}@{{}}}}",
        r"    \toprule",
        f"    {heads} \\\\",
        r"    \midrule",
        *_body(sheet),
        r"    \bottomrule",
        r"  \end{tabular}}",
        *_notes(sheet),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _sizes(num_columns: int) -> tuple[str, str]:
    if num_columns < MANY_COLUMNS:
        return r"  \small", r"  \setlength{\tabcolsep}{5pt}"
    return r"  \footnotesize", r"  \setlength{\tabcolsep}{2.5pt}"


def escape(text: str) -> str:
    """`text` as LaTeX that prints exactly it, on one line."""
    plain = "".join(SPECIAL.get(character, character) for character in one_line(text))
    return re.sub(r"-(?=-)", "-{}", plain)  # "--scale" is no en dash


def comment(value: Any) -> str:
    """A provenance value on one line of a comment."""
    return one_line(" ".join(map(str, value)) if isinstance(value, list | tuple) else str(value))


def number(text: str) -> str:
    """A rounded number inside math mode: the same string, its exponent upright."""
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}\\mathrm{{e}}{{{exponent}}}" if e else mantissa


def _heading(column: Column, label: bool) -> str:
    arrow = {"lower": r"~$\downarrow$", "higher": r"~$\uparrow$", None: ""}[column.better]
    if column.latex is not None:
        return column.latex + arrow
    lines = [
        escape(x)
        for x in wrap(one_line(column.title), HEADING_CHARACTERS, break_long_words=False) or [""]
    ]
    lines[-1] += arrow
    if len(lines) == 1:
        return lines[0]
    stacked = r" \\ ".join(lines)  # a tabular, because \shortstack sets lines at uneven distances
    return f"\\begin{{tabular}}[b]{{@{{}}{'l' if label else 'r'}@{{}}}}{stacked}\\end{{tabular}}"


def _body(sheet: Sheet) -> list[str]:
    marks = sheet.marks()
    best = {column.key: sheet.best(column) for column in sheet.columns}
    lines = []
    for row in range(len(sheet.rows)):
        cells = [(c.key, sheet.cell(row, c.key)) for c in sheet.columns]
        heads = [_head(cell, marks, best[key] == row) for key, cell in cells]
        tails = [_below(cell) for _, cell in cells]
        last = row == len(sheet.rows) - 1
        lines.append(f"    {' & '.join(heads)} \\\\")
        if any(tails):
            gap = "" if last else r" \addlinespace"
            lines.append(f"    {' & '.join(tails)} \\\\{gap}")
        lines.append(f"    % runs: {one_line(' '.join(sheet.runs(row))) or 'none'}")
    return lines


def _head(cell: Cell, marks: dict[str, str], best: bool) -> str:
    mark = f"\\textsuperscript{{{marks[cell.footnote]}}}" if cell.footnote else ""
    shown = cell.shown()
    if shown is None:
        return (escape(cell.value) if isinstance(cell.value, str) else "---") + mark
    spread = f" \\pm {number(shown.spread)}" if shown.spread is not None else ""
    text = f"${number(shown.value)}{spread}${escape(cell.format.suffix)}"
    text = f"{{\\boldmath\\textbf{{{text}}}}}" if best else text  # \textbf alone spares math
    return text + mark


def _below(cell: Cell) -> str:
    shown = cell.shown()
    if shown is None:
        return ""
    parts = []
    if shown.low is not None and shown.high is not None:
        parts.append(f"$[{number(shown.low)}, {number(shown.high)}]$")
    parts += [f"$n={cell.n}$"] if cell.n is not None and shown.spread is not None else []
    return f"{{\\scriptsize {' '.join(parts)}}}" if parts else ""


def _notes(sheet: Sheet) -> list[str]:
    marked = [
        f"\\textsuperscript{{{m}}}\\,{escape(sentence)}" for sentence, m in sheet.marks().items()
    ]
    notes = [*marked, *map(escape, sheet.footnotes)]
    if not notes:
        return []
    body = " \\\\\n    ".join(notes)
    return [
        r"  \par\smallskip",
        r"  \begin{minipage}{\linewidth}\footnotesize\raggedright",
        f"    {body}",
        r"  \end{minipage}",
    ]
