"""Tables in a paper: any text compiles, run ids stay in comments."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from sheets import ARBITRARY, attacks, sheet_of

from papertrail.tables.latex import escape
from papertrail.tables.render import to_latex
from papertrail.tables.sheet import Cell, Column, measured


def braces_balance(latex: str) -> bool:
    depth = 0
    for brace in re.findall(r"(?<!\\)(?:\\\\)*([{}])", latex):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            return False
    return depth == 0


@given(ARBITRARY)
def test_no_special_character_reaches_latex_unescaped(text):
    escaped = escape(text)
    known = r"\\(text\w+|[a-z]+|Delta)\{\}|\\[{}$&#_%]|\$(\\\w+|-)\$|\{[\[\]*]\}|\{''\}|-\{\}"
    assert not re.search(r"[\\{}$&#_%~^<>|`\[\]*\n]", re.sub(known, "", escaped))
    assert braces_balance(escaped)


@given(ARBITRARY, ARBITRARY)
def test_nothing_but_comments_holds_run_ids_and_no_id_can_leave_its_comment(run, note):
    sheet = sheet_of(measured(1.0, runs=(f"RUN\nRUN{run}",), note=note), caption=note, title=note)
    latex = to_latex(sheet)
    assert all(line.lstrip().startswith("% ") for line in latex.splitlines() if "RUN" in line)
    uncommented = "\n".join(x for x in latex.splitlines() if not x.lstrip().startswith("% "))
    assert braces_balance(uncommented)


def test_each_latex_row_names_its_runs_in_a_comment():
    assert "% runs: 0a 0b 0c 0d\n" in to_latex(attacks())
    assert "% runs: 1a 1b 1c 1d 1e\n" in to_latex(attacks())


def test_latex_is_booktabs_with_std_n_and_interval():
    latex = to_latex(attacks())
    rules = [r"\toprule", r"\midrule", r"\bottomrule"]
    assert [latex.count(rule) for rule in rules] == [1, 1, 1]
    assert r"$25.30 \pm 0.21$" in latex and "$n=3$" in latex and "$[56.5, 70.5]$" in latex
    assert r"\label{tab:attack_success}" in latex and r"$\Delta$NLL" in latex


NASTY = r"""[x] \ { } $ & # _ % ~ ^ < > | " ` ' * -- 50% a_b ± × ≤ ≥ → Δ μ σ é ü ß"""


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs a TeX engine")
def test_latex_compiles_in_a_plain_article(tmp_path: Path):
    nasty = sheet_of(
        Cell(value=NASTY, note=NASTY), Cell(value="*[1]", note=NASTY), measured(1e-9, note="?`"),
        title=NASTY, caption=NASTY, name=NASTY, footnotes=(NASTY,), provenance={NASTY: NASTY},
        columns=(Column(key="x", title=NASTY), Column(key="model", title="[Model] a b c d")),
    )  # fmt: skip
    body = to_latex(attacks()) + to_latex(nasty)
    source = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\n{body}"
    (tmp_path / "t.tex").write_text(source + "\\end{document}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout[-1500:]
