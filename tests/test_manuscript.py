"""What is read in a LaTeX paper, and what is not: no store, a table that is made up here."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papertrail.tables import literal, manuscript, source, tex, verify
from papertrail.tables.latex import number
from papertrail.tables.literal import agrees, disagreement, quantities
from papertrail.tables.manuscript import Declaration
from papertrail.tables.quoting import Drawn
from papertrail.tables.sheet import Cell, Column, Format, Sheet, measured, missing, refused
from papertrail.tables.source import parse
from papertrail.tables.tex import Quoted

PERCENT = Format(digits=1, percent=True)


def arms() -> Sheet:
    """Two arms: an interval, a std, a negative number, a word, and two gaps."""
    columns = tuple(Column(key=k, title=k) for k in ("arm", "ppl", "rate", "drop", "gap"))
    base = {
        "arm": Cell(value="base_line"),
        "ppl": measured(24.3456, spread=0.21, n=3),
        "rate": measured(0.98765, interval=(0.93765, 0.99765), n=200, format=PERCENT),
        "drop": measured(-0.3125, format=Format(digits=2, sign=True)),
        "gap": Cell(value="reference"),
    }
    other = {
        "arm": Cell(value="W ≥ 0"),
        "ppl": missing("never computed"),
        "rate": refused("control: random is as good"),
        "drop": measured(0.1, note="n = 2 of 3 seeds"),
    }
    return Sheet(name="arms", title="Arms", columns=columns, rows=(base, other))


def written(folder: Path, body: str) -> source.Paper:
    path = folder / "paper.tex"
    path.write_text(f"\\input{{results}}\n\\begin{{document}}\n{body}\n\\end{{document}}\n")
    return source.read(path, "results.tex")


def said(paper: source.Paper) -> list[str]:
    """What verification says of the text, as FILE:LINE: what."""
    declared = Declaration(paper.main.path, 1, "main", "arms", ())
    drawn = [Drawn(declared, (), Quoted("main", arms(), "arms", "id"))]
    paper.results.write_text(tex.to_file([drawn[0].quoted], "paper.tex"))
    found = verify.truth(paper, drawn)
    lines = verify.findings(paper, found, manuscript.uses(paper), "COMMAND")
    folder = f"{paper.main.path.parent}/"
    return [str(line).replace(folder, "") for line in lines]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (r"\pt{main.base_lin.rate}", "no table has this number; did you mean main.base_line.rate?"),
        (r"\pt{other.base_line.rate}", "no table has this number"),
        (r"\pttable{man}", "no such table is declared; did you mean main?"),
        (r"\pt{main.base_line.ppl.low}", "the cell has no low; it has bare, abs"),
        (r"\pt{ main.base_line.rate}", "no table has this number"),
        (r"\newcommand{\r}[1]{\pt{main.#1.rate}}", "its key has an argument of a macro"),
        (r"\ptcheck{main.base_line.rate}{98.7\%}", "stale: prints 98.7, its run says 98.8"),
        (r"\ptcheck{main.base_line.ppl}{$24.3 \pm 0.3$}", "prints ± 0.3, its run says ± 0.2"),
        (r"\ptcheck{main.base_line.drop}{$-0.3 \pm 0.3$}", "prints ± 0.3, and its run has none"),
        (
            r"\ptcheck{main.base_line.rate}{99 [93.7, 99.8]}",
            "low end 93.7, its run says low end 93.8",
        ),
        (r"\ptcheck{main.base_line.ppl}{24.3\%}", "is printed in percent, and its run's"),
        (r"\ptcheck{main.base_line.rate}{high}", "no numbers in it"),
        (r"\ptcheck{main.base_line.rate}{98.8\% or 98.9\%}", "2 numbers in it"),
        (r"\ptcheck{main.base_line.gap}{refe}", "stale: the table says 'reference'"),
        (r"98.7\% %pt main.base_line.rate", "stale: prints 98.7, its run says 98.8"),
        (r"none %pt main.base_line.rate", "1 keys, and 0 numbers before them on the line"),
    ],
)
def test_a_number_without_a_true_run_is_found(tmp_path: Path, body: str, what: str):
    [line] = said(written(tmp_path, body))
    assert line.startswith("paper.tex:3: ") and what in line


@pytest.mark.parametrize(
    "body",
    [
        r"\ptcheck{main.base_line.rate}{98.8\,\%}",
        r"\ptcheck{main.base_line.rate}{99\%}",
        r"\ptcheck{main.base_line.rate}{98.77\% [93.8, 99.8]}",
        r"\ptcheck{main.base_line.rate.fraction}{$0.988$}",
        r"\ptcheck{main.base_line.rate.interval}{$[93.8\%,\,99.8\%]$}",
        r"\ptcheck{main.base_line.drop}{$-0.31$}",
        r"\ptcheck{main.base_line.drop}{$-$0.313}",
        r"\ptcheck{main.base_line.drop.abs}{0.312}",
        r"\ptcheck{main.base_line.gap}{reference}",
        r"fell by \textbf{98.8}\,\%, %pt main.base_line.rate",
        r"base & 24.3 & $-0.31$ \\ %pt main.base_line.ppl main.base_line.drop",
        r"base & 24.3 & 7 & $-0.31$ \\ %pt main.base_line.ppl - main.base_line.drop",
        r"In 2020, on 3 texts, it was 98.8\% %pt main.base_line.rate",
        r"as Table~\ref{tab:7} of \cite{x2020} says, 98.8\% %pt main.base_line.rate",
    ],
)
def test_a_literal_that_its_run_backs_is_true_and_stays_as_it_is(tmp_path: Path, body: str):
    assert said(written(tmp_path, body)) == []


@pytest.mark.parametrize(
    "body",
    [
        r"\textcolor{red}{98}",
        r"{\color{red} 98}",
        r"\textcolor[named]{red}{9}",
        r"\textcolor{red!80!black}{9}",
        r"\todo{number}",
        "TODO",
        r"XX.X\%",
        r"XX\%",
        "X.XX",
        "it is ?? percent",
        "\\newcommand{\\new}[1]{\\textcolor{red}{#1}}\n\\new{98}",
        "\\def\\new#1{\\textcolor{red}{#1}}\n\\new{98}",
        "\\newcommand{\\acc}{XX.X}",
    ],
)
def test_a_placeholder_is_found(tmp_path: Path, body: str):
    [line] = said(written(tmp_path, body))
    assert re.match(rf"paper.tex:{2 + len(body.splitlines())}: a placeholder \(", line)


@pytest.mark.parametrize(
    "body",
    [
        "% TODO: \\pt{nowhere} XX.X",
        r"50\% of red wine, XX century, \textcolor{blue}{x}, what? \textbf{XXIX.}",
        "\\begin{verbatim}\n\\todo \\pt{no.where} XX.X\n\\end{verbatim}",
        r"\verb|\todo \pt{x}| and \url{http://x.org/a%20TODO}",
        "\\iffalse\n\\todo \\ifx a b \\fi TODO\n\\fi",
        "\\end{document}\nTODO \\pt{x}",
        r"\newcommand{\new}[1]{\textcolor{red}{#1}}",
        r"\begin{lstlisting}[language=C]" + "\nTODO ??\n" + r"\end{lstlisting}",
        r"\todos and \ptx{main} and \ptsize",
    ],
)
def test_what_tex_does_not_typeset_is_not_read(tmp_path: Path, body: str):
    assert said(written(tmp_path, body)) == []


def test_an_escaped_backslash_does_not_hide_a_comment(tmp_path: Path):
    [line] = said(written(tmp_path, "a \\\\% TODO\n5\\% TODO"))
    assert line.startswith("paper.tex:4: ")


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (r"\pt{main.w-greater-than-or-equal-to-0.ppl}", "missing: never computed"),
        (r"\pt{main.w-greater-than-or-equal-to-0.ppl.std}", "missing: never computed"),
        (r"1 %pt main.w-greater-than-or-equal-to-0.rate", "refused: control: random is as good"),
        (r"\pt{main.w-greater-than-or-equal-to-0.drop}", "n = 2 of 3 seeds"),
        (r"\pttable{main}", "3 of its cells lack runs, the first: missing: never computed"),
    ],
)
def test_a_gap_is_no_number_however_it_is_quoted(tmp_path: Path, body: str, what: str):
    [line] = said(written(tmp_path, body))
    assert line.startswith("paper.tex:3: ") and what in line


def test_a_macro_of_the_authors_called_pt_is_left_alone(tmp_path: Path):
    body = "\\newcommand{\\pt}[1]{p_T}\n$\\pt{x}$ \\papertrail{main.base_line.rate}"
    assert said(written(tmp_path, body)) == []


def test_files_are_read_once_in_the_order_of_the_paper(tmp_path: Path):
    body = "\\input{parts/one}\n\\include{parts/two}\n\\input{glyphtounicode} TODO"
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "one.tex").write_text("\n\\pt{main.x.y}\\input{paper}\\input{parts/one}")
    (tmp_path / "parts" / "two.tex").write_text("% papertrail: more = arms\r\nTODO")
    paper = written(tmp_path, body)
    assert [re.sub(":.*", "", line) for line in said(paper)] == [
        "paper.tex", "parts/one.tex", "parts/two.tex",
    ]  # fmt: skip
    assert [one.where for one in manuscript.declarations(paper)] == [f"{tmp_path}/parts/two.tex:1"]


@pytest.mark.parametrize("spelled", [r"\input{results}", r"\input results", r'\input{"results"}'])
def test_results_are_read_however_input_is_spelled(tmp_path: Path, spelled: str):
    paper = written(tmp_path, "")
    for text, is_read in ((spelled, True), (f"% {spelled}", False), ("", False)):
        paper.main.path.write_text(text)
        assert source.read(paper.main.path, "results.tex").results_input == is_read


# -- numbers ---------------------------------------------------------------------------------------

ROUND = st.integers(0, 4)
NUMBERS = st.floats(-1e6, 1e6).map(lambda x: x + 0.0)


@settings(deadline=None)  # machines that are shared are slow at times
@given(x=NUMBERS, digits=ROUND, percent=st.booleans())
def test_any_rounding_of_a_number_agrees_with_it_and_the_next_number_does_not(x, digits, percent):
    scaled = x * 100 if percent else x
    printed = Decimal(f"{scaled:.{digits}f}")
    assert agrees(printed, x, percent)
    unit = Decimal(1).scaleb(-digits)
    assert not agrees(printed + 2 * unit, x, percent)
    assert not agrees(printed - 2 * unit, x, percent)
    # One unit off agrees in one case alone: a half, which is rounded either way.
    for other in (printed + unit, printed - unit):
        assert agrees(other, x, percent) <= (
            abs(abs(other - Decimal(scaled)) / unit - Decimal("0.5")) < Decimal("1e-6")
        )


@pytest.mark.parametrize(
    ("printed", "x", "percent", "same"),
    [
        ("0.12", 0.125, False, True),
        ("0.13", 0.125, False, True),
        ("2.68", 2.675, False, True),  # stored as 2.67499...
        ("2.67", 2.675, False, True),
        ("98.8", 0.98746, True, False),  # 98.75 rounded again
        ("98.7", 0.98746, True, True),
        ("-0.3", -0.3125, False, True),
        ("0.3", -0.3125, False, False),
        ("0", -0.0, False, True),
        ("1e5", 98765.4, False, True),
        ("1200", 1234, False, False),
        ("12345678901234567890", 12345678901234567890, False, True),
    ],
)
def test_a_number_is_compared_at_the_precision_it_is_printed_with(printed, x, percent, same):
    assert agrees(Decimal(printed), x, percent) is same


WRAPS = ["{}", "${}$", r"\textbf{{{}}}", r"{{\boldmath\textbf{{${}$}}}}", r"\num{{{}}}"]
GROUPS = [",", "{,}", "", r"\,"]


@settings(deadline=None)
@given(
    x=st.integers(0, 10**9), digits=ROUND, sign=st.sampled_from(["", "-", "+", "$-$"]),
    group=st.sampled_from(GROUPS), wrap=st.sampled_from(WRAPS),
    percent=st.sampled_from(["", r"\%", r"\,\%", r"~\%", r" \%"]),
    around=st.sampled_from(["{}", "({})", "[{}]"]),
)  # fmt: skip
def test_a_number_reads_back_however_it_is_set(x, digits, sign, group, wrap, percent, around):
    value = Decimal(x).scaleb(-digits)
    text = f"{value:,f}".replace(",", group)
    [found] = quantities(f"about {around.format(wrap.format(sign + text) + percent)}, see")
    assert found.value == (-value if "-" in sign else value)
    assert found.percent == bool(percent)


@pytest.mark.parametrize(
    ("latex", "words"),
    [
        (r"$24.3 \pm 0.2$", "24.3 ± 0.2"),
        (r"24.3{\scriptsize$\pm$0.2}\%", "24.3 ± 0.2 %"),
        (r"63.5\% [56.5, 70.5]", "63.5 % [56.5, 70.5]"),
        (r"$63.5\,[56.5;\,70.5]$", "63.5 [56.5, 70.5]"),
        (r"$[-0.3, 1.2]$", "[-0.3, 1.2]"),
        (r"(56.5\% to 70.5\%)", "% [56.5, 70.5]"),
        (r"$1.2 \times 10^{-3}$", "0.0012"),
        (r"$1.2\mathrm{e}{-05}$", "0.000012"),
        (r"$10^{4}$", "1E+4"),
        (r"98{,}8\,\%", "98.8 %"),
        (r"12{,}345", "12345"),
        (r"3--5", "3; 5"),
        (r"GPT-2, 1.4B, v1.2.3, x2, \alpha", ""),
        (r"5\approx 6", "5; 6"),
        ("(1,234)", "1234"),
        ("(1,234,567)", "1234567"),
        ("[93.3,99.8]", "[93.3, 99.8]"),
        (".5", "0.5"),
    ],
)
def test_what_is_read_of_a_number(latex: str, words: str):
    def spelled(one: literal.Quantity) -> str:
        pair = "" if one.low is None else f"[{one.low}, {one.high}]"
        spread = "" if one.spread is None else f"± {one.spread}"
        value = "" if one.value is None else str(one.value)
        return " ".join(filter(None, [value, spread, "%" if one.percent else "", pair]))

    assert "; ".join(map(spelled, quantities(latex))) == words


@settings(deadline=None)
@given(
    x=st.floats(-1e9, 1e9),
    spread=st.floats(0, 1e9),
    digits=ROUND,
    percent=st.booleans(),
    sign=st.booleans(),
)
def test_every_macro_prints_what_verification_accepts(x, spread, digits, percent, sign):
    form = Format(digits=digits, percent=percent, sign=sign)
    cell = Cell(value=x, spread=spread, low=min(x, 0), high=max(x, 0), n=3, format=form)
    for part, latex in tex.parts(cell):
        [found] = quantities(latex)
        assert disagreement(found, cell, part) == "", (part, latex)
    shown = cell.shown()
    ends = rf"$[{number(shown.low)}, {number(shown.high)}]$"
    whole = rf"${number(shown.value)} \pm {number(shown.spread)}$ {ends}"
    [found] = quantities(whole)
    assert disagreement(found, cell, "") == "" and found.spread is not None


# -- keys and files --------------------------------------------------------------------------------

LABELS = st.text(min_size=1, max_size=12).filter(
    lambda text: " ".join(text.split()) and text.isprintable()
)


@settings(deadline=None)
@given(st.text())
def test_a_label_becomes_a_key_that_tex_can_take(text: str):
    assert re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_]+)*|[a-z0-9_-]+", tex.slug(text))


@pytest.mark.parametrize(
    ("label", "key"),
    [
        ("sign_frozen", "sign_frozen"), ("W<0", "w-lt-0"),
        ("W ≥ 0", "w-greater-than-or-equal-to-0"),
        ("Naïve, 5 %", "naive-5-percent"), ("ε=0.1", "epsilon-eq-0-1"), ("--", "row"),
    ],
)  # fmt: skip
def test_keys_are_readable(label: str, key: str):
    assert tex.slug(label) == key


def rows_of(*labels: tuple[str, str]) -> Sheet:
    columns = tuple(Column(key=k, title=k) for k in ("arm", "attack", "x"))
    rows = tuple(
        {"arm": Cell(value=a), "attack": Cell(value=b), "x": measured(n, runs=(f"r{n}", "s"))}
        for n, (a, b) in enumerate(labels)
    )
    return Sheet(name="t", title="T", columns=columns, rows=rows)


def test_rows_take_as_many_labels_as_tell_them_apart():
    assert tex.row_keys(rows_of(("a", "x"), ("b", "x"))) == ["a", "b"]
    assert tex.row_keys(rows_of(("a", "x"), ("a", "y"), ("b", "x"))) == ["a.x", "a.y", "b.x"]


def test_rows_that_no_label_tells_apart_cannot_be_quoted():
    sheet = rows_of(("a", "x"), ("a", "x"), ("b", "x"))
    assert tex.row_keys(sheet) == [None, None, "b.x"]
    assert not any(".a." in key for key in Quoted("m", sheet, "t", "id").entries())


@settings(deadline=None)
@given(st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=5))
def test_what_is_written_reads_back_key_by_key(labels: list[tuple[str, str]]):
    quoted = Quoted("m", rows_of(*labels), "t a=b", "id")
    text = tex.to_file([quoted], "paper.tex")
    back = tex.read_back(text)
    assert {k: d.latex for k, d in back.items() if k != "table:m"} == {
        key: entry.latex for key, entry in quoted.entries().items()
    }
    for key, entry in quoted.entries().items():
        assert back[key].runs == entry.cell.runs
        assert text.splitlines()[back[key].line - 1].startswith(rf"\papertraildefine{{{key}}}")
    assert set(back["table:m"].runs) == set(quoted.sheet.runs())


PIECES = st.sampled_from(
    ["%", "\\", "\\%", "\n", "{", "}", "\\verb|", "|", "\\begin{verbatim}", "\\end{verbatim}", "x",
     "\\iffalse", "\\fi", "\\url{", "\\end{document}", " ", "\\pt{a.b.c}", "\\input{x}", "%pt "]
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_what_is_hidden_is_blanked_and_never_moves_a_line(text: str):
    found = parse(Path("p.tex"), text)
    assert len(found.text) == len(text)
    assert [n for n, c in enumerate(found.text) if c == "\n"] == [
        n for n, c in enumerate(text) if c == "\n"
    ]
    assert all(a == b or a == " " for a, b in zip(found.text, text, strict=True))
    assert "%" not in re.sub(r"\\.", "", found.text, flags=re.DOTALL)
    for comment in found.comments:
        assert text[comment.offset :].startswith(comment.text)
