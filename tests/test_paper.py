"""A paper whose numbers are runs: written as macros, and verified line by line.

Real runs of a toy in a real store, a table of them that only these tests know, real LaTeX.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import ROOT
from toy import Part, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Experiment, Question
from papertrail.core.reading import query
from papertrail.core.storage.store import Store
from papertrail.core.writing import track
from papertrail.records import explain, verdict
from papertrail.records.commands import INVALIDATE, WHY, Invalidation, Why
from papertrail.tables import paper
from papertrail.tables.catalog import Need, Table
from papertrail.tables.cells import over_seeds
from papertrail.tables.papers import PAPER, PaperOptions
from papertrail.tables.sheet import Cell, Column, Format, Sheet

RATES = {3: 0.98765, 4: 0.5}
LOGGED: dict[str, float] = {}
"""What the next run logs instead: under one identity any number can come out."""


def attacked(config: ToyConfig) -> None:
    rate = RATES[config.part.size]
    odd = config.do == "fail the gate"
    track.metrics({"rate": rate, "rate/low": rate - 0.05, "rate/high": rate + 0.01} | LOGGED)
    track.metrics({"ppl": 24.3 + config.seed, "drop": -0.3125})
    track.gate("control", not odd, "random is as good")


ATTACKED = Experiment(name="attacked", study="toys", schema=ToyConfig, verb="test_paper:attacked")


@dataclass(frozen=True, kw_only=True)
class ArmsConfig:
    """Which arms the table shows."""

    sizes: tuple[int, ...] = (3, 4)
    """One row each."""
    seeds: tuple[int, ...] = (0,)
    """Averaged."""
    do: str = "finish"
    """What the runs do."""


def needs(config: ArmsConfig) -> list[Need]:
    return [
        Need(
            {"arm": {3: "base_line", 4: "W ≥ 0"}[size], "seed": seed},
            Question(ATTACKED, ToyConfig(part=Part(size=size), seed=seed, do=config.do)),
        )
        for size in config.sizes
        for seed in config.seeds
    ]


def draw(frame: pd.DataFrame) -> Sheet:
    columns = (
        Column(key="arm", title="Arm"),
        Column(key="ppl", title="PPL", better="lower"),
        Column(key="rate", title="Success"),
        Column(key="drop", title="Drop"),
        Column(key="gap", title="Gap"),
    )
    rows = tuple(
        {
            "arm": Cell(value=arm),
            "ppl": over_seeds(some, "ppl", Format(digits=1)),
            "rate": over_seeds(some, "rate", Format(digits=1, percent=True)),
            "drop": over_seeds(some, "drop", Format(digits=2, sign=True)),
            "gap": Cell(value="reference"),
        }
        for arm, some in frame.groupby("arm", sort=False)
    )
    return Sheet(name="arms", title="Arms", caption="Toys.", columns=columns, rows=rows)


ARMS = Table(name="arms", study="toys", schema=ArmsConfig, needs=needs, draw=draw)
BODY = r"""
\pt{main.base_line.rate} of \pt{main.w-greater-than-or-equal-to-0.ppl}
"""
PAPER_TEX = r"""\documentclass{article}
\usepackage{booktabs}
% papertrail: main = arms
\input{results.tex}
\begin{document}
%BODY%
\end{document}
"""


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("papertrail.tables.catalog.tables", lambda: {"arms": ARMS})
    LOGGED.clear()


@pytest.fixture
def runs(store: Store) -> list[str]:
    """Ids of the runs of the whole table."""
    return [computed(size) for size in RATES]


def computed(size: int, seed: int = 0, do: str = "finish") -> str:
    return require(ATTACKED, ToyConfig(part=Part(size=size), seed=seed, do=do)).run_id


def written(folder: Path, body: str = BODY, declared: str = "main = arms") -> Path:
    """A paper with that body."""
    path = folder / "paper.tex"
    text = PAPER_TEX.replace("%BODY%", body).replace("main = arms", declared)
    path.write_text(text, encoding="utf-8")
    return path


def fill(path: Path, **options: Any) -> str:
    """Fill the paper; its macros."""
    paper.answer(PAPER, PaperOptions(tex=str(path), **options), Execution())
    return (path.parent / "results.tex").read_text()


Said = Callable[..., list[str]]


@pytest.fixture
def verified(capsys: pytest.CaptureFixture[str]) -> Said:
    """What `verify` finds, one line each, without the folder; empty if the paper is true."""

    def said(path: Path, **options: Any) -> list[str]:
        capsys.readouterr()
        config = PaperOptions(tex=str(path), verify=True, **options)
        try:
            paper.answer(PAPER, config, Execution())
        except Missing:
            out = capsys.readouterr().out
            assert out.strip(), "exit code 1 without a finding"
            return [line.replace(f"{path.parent}/", "") for line in out.splitlines()]
        return []

    return said


def found(line: str, lines: list[str]) -> bool:
    return any(line in one for one in lines)


# -- filling ---------------------------------------------------------------------------------------


def test_every_number_of_a_table_is_a_macro_with_its_runs(tmp_path: Path, runs: list[str]):
    text = fill(written(tmp_path))
    [rate] = [
        x for x in text.splitlines() if x.startswith(r"\papertraildefine{main.base_line.rate}")
    ]
    assert rate == rf"\papertraildefine{{main.base_line.rate}}{{98.8\%}}% runs: {runs[0]}"
    for line in (
        r"{main.base_line.rate.bare}{98.8}",
        r"{main.base_line.rate.fraction}{0.988}",
        r"{main.base_line.rate.low}{93.8\%}",
        r"{main.base_line.rate.high}{99.8\%}",
        r"{main.base_line.rate.interval}{\ensuremath{[93.8, 99.8]}}",
        r"{main.base_line.drop}{\ensuremath{-0.31}}",
        r"{main.base_line.drop.abs}{0.31}",
        r"{main.base_line.gap}{reference}",
        r"{main.w-greater-than-or-equal-to-0.ppl}{24.3}",
    ):
        assert rf"\papertraildefine{line}%" in text, line
    assert "% main = arms\n% identity " in text and r"\papertraildefine{table:main}" in text
    assert r"\label{tab:main}" in text


def test_means_over_seeds_carry_std_and_n(tmp_path: Path, store: Store):
    for size in RATES:
        for seed in (0, 1):
            computed(size, seed)
    text = fill(written(tmp_path, declared="main = arms seeds=[0,1]"))
    assert r"{main.base_line.ppl}{24.8}%" in text and r"{main.base_line.ppl.std}{0.7}%" in text
    assert r"{main.base_line.ppl.n}{2}%" in text


def test_what_did_not_change_is_not_written_again(tmp_path: Path, runs: list[str]):
    path = written(tmp_path)
    fill(path)
    results = tmp_path / "results.tex"
    os.utime(results, ns=(1, 1))
    fill(path)
    assert results.stat().st_mtime_ns == 1
    assert {one.name for one in tmp_path.iterdir()} >= {"paper.tex", "results.tex"}
    assert not list(tmp_path.glob(".*part"))


def test_a_fill_computes_nothing_and_names_the_commands_that_do(
    tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
):
    computed(3)
    text = fill(written(tmp_path))
    said = capsys.readouterr().out
    assert "mlflow run . -e attacked -P part.size=4" in said and "part.size=3" not in said
    assert len(query.usable("attacked")) == 1
    key = "main.w-greater-than-or-equal-to-0.ppl"
    assert f"% {key}: missing: never computed" in text and f"{{{key}}}" not in text


def test_a_file_that_is_not_ours_is_never_overwritten(tmp_path: Path, runs: list[str]):
    path = written(tmp_path)
    (tmp_path / "results.tex").write_text("mine\n")
    with pytest.raises(BadInput, match="was not written by papertrail"):
        fill(path)
    assert (tmp_path / "results.tex").read_text() == "mine\n"
    assert r"\papertraildefine" not in (tmp_path / "results.tex").read_text()


def test_a_results_file_that_is_a_link_stays_one(tmp_path: Path, runs: list[str]):
    path = written(tmp_path)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "real.tex").touch()
    (tmp_path / "results.tex").symlink_to(tmp_path / "shared" / "real.tex")
    fill(path)
    assert (tmp_path / "results.tex").is_symlink()
    assert "papertraildefine" in (tmp_path / "shared" / "real.tex").read_text()


def test_the_same_paper_and_numbers_are_one_run(tmp_path: Path, runs: list[str]):
    path = written(tmp_path)
    fill(path)
    fill(path)
    assert len(query.usable("paper")) == 1
    path.write_text(path.read_text().replace(" of ", " and "))
    fill(path)
    assert len(query.usable("paper")) == 2


# -- verifying -------------------------------------------------------------------------------------


def test_a_paper_that_was_just_filled_is_true(tmp_path: Path, runs: list[str], verified: Said):
    path = written(tmp_path, BODY + r"\pttable{main} \pt{main.base_line.gap}")
    fill(path)
    before = (tmp_path / "results.tex").stat().st_mtime_ns
    assert verified(path) == []
    assert (tmp_path / "results.tex").stat().st_mtime_ns == before


def test_a_number_that_changed_in_the_store_is_stale_where_it_is_printed(
    tmp_path: Path, runs: list[str], verified: Said
):
    path = written(tmp_path)
    fill(path)
    verdict.invalidate(INVALIDATE, Invalidation(run=runs[0], reason="r", yes=True), None)
    lines = verified(path)
    assert found("paper.tex:7: \\pt{main.base_line.rate}: no run behind it: missing: ", lines)
    assert found("it was invalidated (r", lines)
    LOGGED["rate"] = 0.97
    computed(3)
    lines = verified(path)
    assert found(r"paper.tex:7: \pt{main.base_line.rate}: stale: prints 98.8\%, and its", lines)
    assert found("results.tex:20: stale, or edited by hand, in 15 lines; this", lines)
    assert len(lines) == 2  # the perplexity is the same number of another run
    fill(path)
    assert verified(path) == []


def test_a_macro_edited_by_hand_is_found_by_line(tmp_path: Path, runs: list[str], verified: Said):
    path = written(tmp_path)
    text = fill(path)
    (tmp_path / "results.tex").write_text(text.replace(r"{98.8\%}", r"{99.8\%}", 1))
    lines = verified(path)
    number = next(n for n, x in enumerate(text.splitlines(), 1) if r"rate}{98.8\%}" in x)
    assert found(f"results.tex:{number}: stale, or edited by hand, in 1 lines; this", lines)
    assert found(r"paper.tex:7: \pt{main.base_line.rate}: stale: prints 99.8\%", lines)


def test_results_that_are_not_there_or_not_read_are_found(
    tmp_path: Path, runs: list[str], verified: Said
):
    path = written(tmp_path)
    assert found("results.tex:1: not there; write it with mlflow run . -e paper", verified(path))
    fill(path)
    path.write_text(path.read_text().replace("\\input{results.tex}\n", ""))
    assert found("results.tex is not read; write \\input{results.tex}", verified(path))


def test_a_refused_cell_is_no_number(tmp_path: Path, store: Store, verified: Said):
    for size in RATES:
        computed(size, do="fail the gate")
    path = written(tmp_path, declared='main = arms do="fail the gate"')
    fill(path)
    assert found("no run behind it: refused: control: random is as good", verified(path))


def test_fewer_seeds_than_declared_are_no_number(tmp_path: Path, store: Store, verified: Said):
    computed(3, 0), computed(3, 1), computed(4, 0), computed(4, 1)
    path = written(tmp_path, declared="main = arms seeds=[0,1,2]")
    fill(path)
    assert found("not all runs behind it: n = 2 of 3 seeds", verified(path))


def test_numbers_without_a_run_are_counted_and_listed_on_demand(
    tmp_path: Path, runs: list[str], verified: Said, capsys: pytest.CaptureFixture[str]
):
    body = "We see 12.5\\% and 3 of 0.5\\linewidth in 2.5pt, \\cite{a1.5}, 98.8\\% %pt "
    path = written(tmp_path, body + "main.base_line.rate\nand 4.25 too")
    fill(path)
    assert verified(path) == []
    paper.answer(PAPER, PaperOptions(tex=str(path), verify=True), Execution())
    assert "1 decimals and percentages name no run" in capsys.readouterr().err
    paper.answer(PAPER, PaperOptions(tex=str(path), verify=True, unbacked=True), Execution())
    assert "paper.tex:7: no run is named behind 4.25" in capsys.readouterr().out


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("main = arsm", "paper.tex:3: name: no table (arsm); there are arms"),
        ("main = arms\n% papertrail: main = arms", "paper.tex:4: declared twice (main, before at"),
        ("main = arms sizs=[3]", "paper.tex:3: no option sizs; did you mean sizes?"),
        ("main = arms sizes=many", "paper.tex:3: sizes: "),
        ("main = arms quick", "paper.tex:3: unexpected word (quick)"),
        ("main = arms run_missing=true", "paper.tex:3: run_missing: a paper only reads"),
        ("main = arms run.workers=2", "paper.tex:3: run.workers: a paper only reads"),
        ("main arms", "paper.tex:3: no declaration (main arms)"),
        ("ma in = arms", "paper.tex:3: no declaration (ma in = arms)"),
        ("main =", "paper.tex:3: no declaration (main =)"),
        ("main = arms do='x", "paper.tex:3: no closing quotation"),
        ("main = arms seeds=[0,0]", "paper.tex:3: arms: 2 runs are labelled"),
    ],
)
def test_a_wrong_declaration_is_one_line(tmp_path: Path, store: Store, declared: str, words: str):
    path = written(tmp_path, declared=declared)
    with pytest.raises(BadInput) as caught:
        fill(path)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert said.startswith(words) and "\n" not in said
    assert not (tmp_path / "results.tex").exists()


def typed(*words: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "entrypoints" / "paper.py"), *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def bad_papers(folder: Path) -> dict[str, str]:
    (folder / "latin.tex").write_bytes(b"% papertrail: m = attack_success\ncaf\xe9\n")
    (folder / "none.tex").write_text("no declaration\n")
    (folder / "results.tex").write_text("% papertrail: m = attack_success\n")
    return {
        "": "paper: tex: not given; write -P tex=PATH",
        str(folder / "nowhere.tex"): "paper: tex: cannot read it (",
        str(folder): "paper: tex: cannot read it (",
        str(folder / "latin.tex"): f"paper: {folder}/latin.tex:2: not UTF-8 (byte 0xe9)",
        str(folder / "none.tex"): f"paper: {folder}/none.tex: no table is declared",
        str(folder / "results.tex"): "paper: results: it would replace the paper",
    }


@pytest.mark.parametrize("number", range(6))
def test_a_paper_that_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, store: Store, number: int
):
    tex, line = list(bad_papers(tmp_path).items())[number]
    done = typed(f"--tex={tex}", "--verify=true")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(line) and done.stderr.count("\n") == 1


def test_findings_are_exit_code_1_and_stand_on_stdout(tmp_path: Path, store: Store):
    path = written(tmp_path, r"\pt{main.x.y} \todo", declared="main = perplexity_gap scale=smoke")
    path.write_text(path.read_text(), encoding="utf-8")
    done = typed(f"--tex={path}", "--verify=true")
    assert done.returncode == 1, done.stderr
    assert f"{path}:6: \\pt{{main.x.y}}: " in done.stdout and f"{path}:6: a place" in done.stdout
    assert "lines are not what the runs say" in done.stderr.splitlines()[-1]


# -- the blast radius ------------------------------------------------------------------------------


def test_invalidating_a_run_names_the_macros_and_lines_that_print_it(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
):
    body = "\\pt{main.base_line.rate}\n\\pt{main.w-greater-than-or-equal-to-0.rate}\n"
    path = written(tmp_path, body + "98.8\\% %pt main.base_line.rate\n\n\\pttable{main}")
    fill(path)
    capsys.readouterr()
    explain.answer(WHY, Why(run=runs[0]), None)
    said = capsys.readouterr().out
    assert f"printed in {path}:6: \\pt{{main.base_line.rate}}\n" in said
    assert f"{path}:7: " not in said
    verdict.invalidate(INVALIDATE, Invalidation(run=runs[0], reason="r", yes=True), None)
    told = capsys.readouterr().err
    assert "(1 attacked, 1 paper)" in told and "printed by 3 lines of papers" in told
    for line in (
        r"6: \pt{main.base_line.rate}",
        "8: %pt main.base_line.rate",
        r"10: \pttable{main}",
    ):
        assert f"{path}:{line}\n" in told


def test_only_the_newest_fill_of_a_paper_counts(
    tmp_path: Path, runs: list[str], capsys: pytest.CaptureFixture[str]
):
    path = written(tmp_path, r"\pt{main.base_line.rate}")
    fill(path)
    written(tmp_path, "\n\n" + r"\pt{main.base_line.rate}")
    fill(path)
    verdict.invalidate(INVALIDATE, Invalidation(run=runs[0], reason="r", yes=True), None)
    told = capsys.readouterr().err
    assert f"{path}:8: " in told and f"{path}:6: " not in told


def test_the_options_of_a_paper_are_those_of_its_command(tmp_path: Path):
    config, _ = cli.parse(PAPER, [f"--tex={tmp_path}/a b.tex", "--verify=true"])
    assert config == PaperOptions(tex=f"{tmp_path}/a b.tex", verify=True)
