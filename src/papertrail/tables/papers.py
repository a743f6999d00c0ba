"""What can be typed about a paper: which LaTeX file, and whether to fill or to verify it.

Imports neither torch nor mlflow, so that a typo answers at once.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import Experiment
from papertrail.tables import manuscript, source


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """A paper, and what to do with it."""

    tex: str = ""
    """The LaTeX file with \\documentclass; what it reads by \\input is read too."""
    results: str = "results.tex"
    """File beside it that defines its numbers; the paper reads it by \\input{results.tex}."""
    verify: bool = False
    """Write nothing; list every number that is stale, has no run behind it, or is still to come."""
    unbacked: bool = False
    """With verify: also list the decimals and percentages that no run backs."""


def read(config: PaperOptions) -> source.Paper:
    """All files of the paper; BadInput where one cannot be read."""
    if not config.tex:
        raise BadInput("tex: not given; write -P tex=PATH")
    if Path(config.results).name != config.results or not config.results.endswith(".tex"):
        raise BadInput(f"results: no name ending in .tex ({config.results}); it lies by the paper")
    return source.read(Path(config.tex), config.results)


def digests(config: PaperOptions) -> Mapping[str, str]:
    """Of the paper as it stands: every file, where it lies, and its numbers."""
    paper, total = read(config), hashlib.sha256()
    manuscript.declarations(paper)  # a paper without one is a typo: it answers at once
    paths = [one.path for one in paper.sources]
    for path in [*paths, *([paper.results] if paper.results.is_file() else [])]:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.resolve()}\0{content}\0".encode())
    return {"tex": total.hexdigest()}


PAPER = Experiment(
    name="paper",
    study="records",
    schema=PaperOptions,
    verb="papertrail.tables.paper:keep",
    show="papertrail.tables.paper:show",
    answer="papertrail.tables.paper:answer",
    label=lambda config: Path(config.tex).name,
    stays=True,
    infrastructure=("verify", "unbacked"),
    data=digests,
)
"""Its run keeps which numbers a paper prints on which lines: how an invalidation finds them."""
