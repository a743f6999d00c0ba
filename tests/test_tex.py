"""The macros of a paper in real TeX: captions, headings, bookmarks, math, hostile packages."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from sheets import attacks

from papertrail.core.errors import Missing
from papertrail.core.question.cli import Execution
from papertrail.core.storage.store import Store
from papertrail.tables import paper, tex
from papertrail.tables.papers import PAPER, PaperOptions
from papertrail.tables.sheet import Cell, Column, Sheet, measured
from papertrail.tables.tex import Quoted

ENGINES = [name for name in ("pdflatex", "lualatex", "xelatex") if shutil.which(name)]
needs_tex = pytest.mark.skipif(not ENGINES, reason="needs a TeX engine")
ACTIVE = (
    r"\begingroup\lccode`\~=`\_\lowercase{\endgroup\def~{u}}"
    r"\AtBeginDocument{\catcode`\_=13 }"
)
DOCUMENT = r"""\documentclass{article}
PACKAGES
\input{results.tex}
\begin{document}
\tableofcontents \listoffigures
\section{Success \pt{main.baseline.hotflip} and \pt{main.monotone.dnll}}
Plain: \pt{main.baseline.hotflip}. Math: $x = \pt{main.monotone.dnll} < 1$.
\begin{figure}\caption{A gap of \pt{main.baseline.ppl} $\pm$ \pt{main.baseline.ppl.std}}
\end{figure}
\begin{tabular}{lr} a & \pt{main.baseline.hotflip.interval} \\ \pt{main.baseline.transfer} & b
\end{tabular}
\MakeUppercase{up \pt{main.baseline.hotflip.n}} \textbf{\pt{main.under_score.x}}
\ptcheck{main.baseline.hotflip}{63.5\,\%} \edef\x{\pt{main.baseline.hotflip.bare}} \x
\pt{main.no_such.number}
\pttable{main}
See Table~\ref{tab:main}.
\end{document}
"""


def results() -> str:
    """The macros of a table like the real one, and of one with an underscore in its key."""
    columns = (Column(key="a", title="A"), Column(key="x", title="X"))
    under = Sheet(name="u", title="U_1", columns=columns,
                  rows=({"a": Cell(value="under_score"), "x": measured(4.25)},))  # fmt: skip
    text = tex.to_file([Quoted("main", attacks(), "attacks", "id")], "paper.tex")
    return text + tex.to_file([Quoted("main", under, "under", "id")], "paper.tex").replace(
        "table:main", "table:under"
    )


def compiled(folder: Path, engine: str, packages: str) -> str:
    """The log of the second run, from which references are right; the PDF lies in `folder`."""
    (folder / "results.tex").write_text(results())
    (folder / "t.tex").write_text(DOCUMENT.replace("PACKAGES", packages))
    return tex_runs(folder / "t.tex", engine)


def tex_runs(path: Path, engine: str) -> str:
    """What the engine says of a document when it reads it for the second time."""
    command = [engine, "-interaction=nonstopmode", "-halt-on-error", path.name]
    for _ in range(2):
        done = subprocess.run(command, cwd=path.parent, capture_output=True, timeout=120)
        log = done.stdout.decode(errors="replace")
        assert done.returncode == 0, log[-1500:]
    return log


def bookmarks(path: Path) -> str:
    """What a PDF viewer shows: UTF-16 in octal, as hyperref writes it."""
    octal = re.sub(r"\\(\d{3})", lambda code: chr(int(code[1], 8)), path.read_text("latin-1"))
    return octal.replace("\0", "")


@needs_tex
@pytest.mark.parametrize(
    ("engine", "packages"),
    [
        *((engine, r"\usepackage{booktabs,hyperref}") for engine in ENGINES),
        ("pdflatex", r"\usepackage{booktabs}"),
        # Where _ is an active character when the paper is read, and was not before.
        ("pdflatex", r"\usepackage{booktabs,hyperref}" + ACTIVE),
    ],
)
def test_macros_work_wherever_a_number_stands(tmp_path: Path, engine: str, packages: str):
    if shutil.which(engine) is None:
        pytest.skip(f"no {engine}")
    log = compiled(tmp_path, engine, packages)
    assert "no number for main.no_such.number" in log.replace("\n", "")
    assert log.replace("\n", "").count("papertrail: no number for") == 1
    assert r"Success 63.5\%" in (tmp_path / "t.toc").read_text()
    if "hyperref" in packages:
        assert "Token not allowed" not in log
        assert "Success 63.5% and -0.600" in bookmarks(tmp_path / "t.out")


@pytest.mark.skipif(
    not (ENGINES and shutil.which("pdftotext")), reason="needs a TeX engine and pdftotext"
)
def test_the_page_shows_the_numbers_of_the_table(tmp_path: Path):
    compiled(tmp_path, ENGINES[0], r"\usepackage{booktabs}")
    subprocess.run(["pdftotext", "-layout", "t.pdf"], cwd=tmp_path, check=True)
    text = " ".join((tmp_path / "t.txt").read_text().replace("\N{MINUS SIGN}", "-").split())
    for words in ("Plain: 63.5%.", "Math: x = -0.600 < 1", "of 24.30 ± 0.21", "UP 200", "4.25",
                  "63.5 % 63.5", "??main.no_such.number??", "See Table 1."):  # fmt: skip
        assert words in text, words


def test_the_file_holds_nothing_that_another_machine_or_day_would_write_otherwise():
    assert results() == results()
    assert not any(word in results().lower() for word in ("/tmp", "2026", "http"))


def test_a_macro_ends_where_its_line_ends():
    """A space or a newline after a definition would be typeset in the body of a paper."""
    for line in results().splitlines():
        if line.startswith(r"\papertraildefine{") and not line.endswith("%"):
            assert "}% runs: " in line, line


# -- the example -----------------------------------------------------------------------------------


@pytest.fixture
def example(tmp_path: Path, text_file: Path) -> Path:
    """The example paper at a scale whose data are here."""
    text = (ROOT / "examples" / "paper" / "paper.tex").read_text(encoding="utf-8")
    assert text.count("scale=quick") == 2
    path = tmp_path / "paper.tex"
    path.write_text(text.replace("scale=quick", f"scale=smoke data.text={text_file}"))
    return path


def test_the_example_quotes_nothing_but_numbers_of_its_tables(
    example: Path, store: Store, capsys: pytest.CaptureFixture[str]
):
    paper.answer(PAPER, PaperOptions(tex=str(example)), Execution())
    said = capsys.readouterr().out
    assert "mlflow run . -e hotflip" in said and "mlflow run . -e perplexity" in said
    with pytest.raises(Missing, match="lines are not what the runs say"):
        paper.answer(PAPER, PaperOptions(tex=str(example), verify=True), Execution())
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 15
    for line in lines:  # nothing was computed, and that is all that is wrong with it
        assert "no run behind it: missing: " in line or "of its cells lack runs" in line, line


@needs_tex
def test_the_example_compiles_with_every_gap_in_sight(example: Path, store: Store):
    paper.answer(PAPER, PaperOptions(tex=str(example)), Execution())
    log = tex_runs(example, ENGINES[0])
    assert log.replace("\n", "").count("papertrail: no number for main.monotone.hotflip ") >= 2
