"""Tables as printed: the same number in four formats, every bit in CSV, no gap left blank."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sheets import ARBITRARY, FINITE, FORMATS, Page, attacks, sheet_of

from papertrail.tables.render import print_table, to_csv, to_html, to_latex, to_text
from papertrail.tables.sheet import (
    Cell,
    Sheet,
    measured,
    one_line,
)


def ansi(sheet: Sheet, width: int = 100) -> str:
    file = io.StringIO()
    print_table(
        sheet, Console(file=file, force_terminal=True, width=width, color_system="truecolor")
    )
    return file.getvalue()


def plain_latex(latex: str) -> str:
    body = re.sub(r"(?<!\\)%.*", "", latex)
    return re.sub(r"\\mathrm\{e\}\{([^}]*)\}", r"e\1", body).replace(r"\%", "%").replace("$", "")


@given(x=FINITE, spread=FINITE.map(abs), format=FORMATS)
def test_a_number_is_the_same_string_in_text_csv_latex_and_html(x, spread, format):
    cell = Cell(value=x, spread=spread, n=3, format=format)
    sheet, shown = sheet_of(cell, better=None), cell.shown()
    back = pd.read_csv(io.StringIO(to_csv(sheet)))
    again = Cell(value=float(back["x"][0]), spread=float(back["x.std"][0]), format=format)
    assert again.shown() == shown
    assert f" {shown.value} ± {shown.spread}{format.suffix}\n" in to_text(sheet, 120) + "\n"
    assert f"& {shown.value} \\pm {shown.spread}{format.suffix} \\\\" in plain_latex(
        to_latex(sheet)
    )
    assert f"r0{shown.value} ± {shown.spread}{format.suffix}" in Page(to_html(sheet)).text()


@given(ends=st.lists(FINITE, min_size=2, max_size=2).map(sorted), x=FINITE, format=FORMATS)
def test_an_interval_is_the_same_string_in_text_latex_and_html(ends, x, format):
    cell = Cell(value=x, low=ends[0], high=ends[1], format=format)
    sheet, shown = sheet_of(cell, better=None), cell.shown()
    interval = f"[{shown.low}, {shown.high}]"
    assert f" {interval}\n" in to_text(sheet, 120)
    assert interval in plain_latex(to_latex(sheet))
    assert interval in Page(to_html(sheet)).text()


def test_best_is_bold_in_every_format_when_it_is_clear_of_the_noise():
    sheet = sheet_of(measured(1.0, spread=0.1, n=3), measured(2.0, spread=0.1, n=3))
    assert r"{\boldmath\textbf{$1.00 \pm 0.10$}}" in to_latex(
        sheet
    ) and r"\textbf{$2" not in to_latex(sheet)
    assert "<strong>1.00" in to_html(sheet) and "<strong>2" not in to_html(sheet)
    assert "\x1b[1m1.00" in ansi(sheet) and "\x1b[1m2" not in ansi(sheet)


def test_a_gap_is_a_word_or_a_dash_with_its_reason_below_never_blank_or_zero():
    text, latex, page = to_text(attacks()), to_latex(attacks()), Page(to_html(attacks())).text()
    assert "missing (a)" in text and "(a) missing: no gap to itself" in text
    assert "refused (c)" in text
    assert "(c) refused: success falls between 5 and 6 flips" in text
    assert latex.count(r"---\textsuperscript{") == 2
    assert r"\textsuperscript{c}\,refused: success falls between 5 and 6 flips" in latex
    assert "a missing: no gap to itself" in page and "c refused: success falls" in page


def test_a_row_that_does_not_mention_a_column_is_missing_there():
    sheet = sheet_of(measured(1.0), rows=({"model": Cell(value="m")},))
    assert "missing (a)" in to_text(sheet) and "no usable run" in to_text(sheet)


@given(x=FINITE, std=FINITE.map(abs), ends=st.lists(FINITE, min_size=2, max_size=2).map(sorted))
def test_csv_reads_back_every_bit(x, std, ends):
    cell = Cell(value=x, spread=std, low=ends[0], high=ends[1], n=5, runs=("a", "b"))
    back = pd.read_csv(io.StringIO(to_csv(sheet_of(cell))))
    row = back.iloc[0]
    assert (row["x"], row["x.std"], row["x.low"], row["x.high"]) == (x, std, *ends)
    assert (row["x.n"], row["x.runs"]) == (5, "a b")


def test_csv_has_an_empty_field_and_a_state_where_there_is_no_number():
    back = pd.read_csv(io.StringIO(to_csv(attacks())))
    assert back["query"].isna().tolist() == [False, True]
    assert back["query.state"].tolist() == ["ok", "refused"]
    assert back["gap.state"].tolist() == ["missing", "ok"]
    assert back["gap.note"].tolist() == ["no gap to itself", "n = 3 of 5 seeds"]
    assert "ppl.state" not in back and "ppl.low" not in back


@given(label=ARBITRARY.filter(one_line), note=ARBITRARY)
def test_csv_keeps_its_shape_with_any_label_and_note(label, note):
    cell = Cell(value=label, note=note)
    rows = len(pd.read_csv(io.StringIO(to_csv(sheet_of(cell, cell))), keep_default_na=False))
    assert rows == 2


def test_text_fits_any_width_and_breaks_no_number():
    whole = ["24.30 ± 0.21", "63.5%", "[56.5, 70.5]", "[22.7, 35.1]", "-0.600 ± 0.100", "31.0%"]
    for width in range(40, 130):
        lines = to_text(attacks(), width).splitlines()
        assert max(map(len, lines)) <= width
        assert all(any(number in line for line in lines) for number in whole), width


@given(note=ARBITRARY, label=ARBITRARY.filter(one_line))
def test_text_off_a_terminal_has_no_escape_code_whatever_a_note_holds(note, label):
    sheet = sheet_of(
        Cell(value=label, note="\x1b[31m" + note), measured(1.0), title="\x1b[2J" + note
    )
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", to_text(sheet))


def test_a_terminal_gets_a_link_to_the_run_behind_a_value():
    assert "\x1b]8;" in ansi(attacks()) and "http://host:5000/#/runs/0d" in ansi(attacks())
    assert "http" not in to_text(attacks())


def test_importing_the_renderers_imports_nothing_heavy():
    heavy = "{'torch', 'pandas', 'mlflow', 'matplotlib', 'numpy', 'rich'}"
    code = f"import sys, papertrail.tables.render; print(sorted({heavy} & set(sys.modules)))"
    src = str(Path(__file__).parents[1] / "src")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": src}, timeout=60)  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
