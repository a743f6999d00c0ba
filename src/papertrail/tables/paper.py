"""A paper kept true: its numbers written as macros, or verified against what stands in the store.

A fill is a run as well, built on every run behind a number: an invalidation finds the lines by it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from papertrail.core import digests, progress
from papertrail.core.answering.require import voice_doubts
from papertrail.core.answering.standing import drifted, standing
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Experiment
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import connect, in_one_line
from papertrail.core.writing import track
from papertrail.core.writing.track import conclude
from papertrail.records.papers import PATH, Quote, Quotes
from papertrail.records.report import show as show_run
from papertrail.tables import manuscript, papers, tex, verify
from papertrail.tables.manuscript import Use
from papertrail.tables.papers import PaperOptions
from papertrail.tables.quoting import Drawn, drawn
from papertrail.tables.source import Paper, text_of
from papertrail.tables.tex import MARK, Defined


def answer(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Write the paper's numbers beside it; or, with verify, list what is not true and write none.

    Missing, which is exit code 1, if anything is not.
    """
    paper = papers.read(config)
    declared, uses = manuscript.declarations(paper), manuscript.uses(paper)
    if not config.verify and execution.mode == "read_only":
        raise BadInput("run.mode: read_only writes nothing (read_only); add verify=true")
    with in_one_line():
        found = verify.truth(paper, drawn(declared, connect()))
    for one in found.drawn:
        for planned in one.planned:
            if planned.standing.usable:
                voice_doubts(
                    planned.need.question.experiment, planned.standing, planned.standing.usable
                )
    if config.verify:
        fill = cli.command(experiment, replace(config, verify=False, unbacked=False))
        return _verify(paper, found, uses, config, fill)
    _print_lacking(found.drawn)
    changed = write(paper.results, found.written)
    print(f"{paper.results}: {'written' if changed else 'unchanged'}, {_counted(found, uses)}")
    with in_one_line():
        last = standing(experiment, config).usable
    anew = last is not None and bool(drifted(last))
    show_run(experiment, config, replace(execution, mode="force") if anew else execution)
    return None


def _verify(
    paper: Paper, found: verify.Truth, uses: Sequence[Use], config: PaperOptions, fill: str
) -> None:
    said = verify.findings(paper, found, uses, fill)
    for finding in said:
        print(finding)
    for remark in verify.remarks(paper, found, uses):
        progress.say(f"paper: {remark}")
    loose = list(manuscript.unbacked(paper, uses))
    if config.unbacked:
        for one in loose:
            print(f"{one.path}:{one.line}: no run is named behind {one.what}")
    elif loose:
        progress.say(
            f"paper: {len(loose)} decimals and percentages name no run; unbacked=true lists them"
        )
    with in_one_line():
        conclude(connect(), f"verified {config.tex}", f"{len(said)} findings")
    if said:
        raise Missing(f"{config.tex}: {len(said)} lines are not what the runs say")
    print(f"{config.tex}: true, {_counted(found, uses)}")


def _counted(found: verify.Truth, uses: Sequence[Use]) -> str:
    lines = len({(use.path, use.line) for use in uses})
    runs = {run for one in found.drawn for run in one.quoted.sheet.runs()}
    return f"{len(uses)} numbers quoted on {lines} lines, {len(runs)} runs"


def _print_lacking(found: Sequence[Drawn]) -> None:
    """Every run that a declared table misses, and the command that computes it, once."""
    said: set[str] = set()
    for one in found:
        for planned in one.lacking:
            if planned.digest not in said:
                print(f"# {planned.title} is {planned.standing.state}: {planned.cause}")
                print(f"{planned.command}\n")
            said.add(planned.digest)


def write(path: Path, text: str) -> bool:
    """Replace the file in one step; left alone, its time with it, where nothing changed.

    BadInput if it is not ours or cannot be written.
    """
    target = path.resolve()  # a link stays one
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if target.exists():
            old = text_of(target)
            if old and not old.startswith(MARK):
                raise BadInput(
                    f"{path}: was not written by papertrail; move it, or name another by results="
                )
            if target.read_bytes() == text.encode():
                return False
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror})") from None
    return True


# -- the verb --------------------------------------------------------------------------------------


def keep(config: PaperOptions) -> None:
    """The verb: keep the macros as written, and which lines print the numbers of which runs."""
    paper = papers.read(config)
    defined, open_run = tex.read_back(text_of(paper.results)), track.run()
    runs = dict.fromkeys(run for one in defined.values() for run in one.runs)
    if runs:
        open_run.built_on(*runs)
    quotes = [
        Quote(
            file=str(use.path.resolve()), line=use.line, written=use.written,
            runs=_behind(use.key, defined),
        )
        for use in manuscript.uses(paper)
    ]  # fmt: skip
    paths = [source.path.resolve() for source in paper.sources]
    found = Quotes(
        paper=str(paths[0]), quotes=quotes,
        files=dict(zip(map(str, paths), digests.of_each(paths), strict=True)),
    )  # fmt: skip
    open_run.artifact(paper.results)
    track.json_result("paper", found.model_dump())
    track.tags({PATH: found.paper})
    track.metrics({"paper/quotes": len(quotes), "paper/runs": len(runs)})
    track.describe(f"The numbers of {paths[0].name}: {len(quotes)} quoted, {len(runs)} runs.")


def _behind(key: str, defined: Mapping[str, Defined]) -> list[str]:
    return list(defined[key].runs) if key in defined else []


def show(record: Record, config: PaperOptions) -> None:
    """Where the numbers are used; nothing else is to be seen of a fill."""
    name = config.results
    print(rf"in the paper: \input{{{name}}}; verify it with -P tex={config.tex} -P verify=true")
