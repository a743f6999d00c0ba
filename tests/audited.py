"""A table of toys for tests of audits. Also the entry points of its experiments and of its audit.

What the environment says in TOYS changes what comes out while the question stays the same, as code
that drifted does, or chance: drift, wait, or chance:FACTOR and raise:FACTOR of one cell.
"""

import os
import random
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from papertrail.core.question.experiment import Experiment, Question
from papertrail.tables.catalog import Need, Table

if TYPE_CHECKING:
    import pandas as pd

    from papertrail.tables.sheet import Sheet


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """What all cells build on."""

    size: int = 3
    """How large."""


@dataclass(frozen=True, kw_only=True)
class TimesConfig:
    """One cell."""

    size: int = 3
    """How large."""
    factor: int = 1
    """How many times."""


@dataclass(frozen=True, kw_only=True)
class ToysConfig:
    """A whole table."""

    size: int = 3
    """How large."""
    factors: tuple[int, ...] = (1, 2, 3)
    """One cell each."""


def base(config: BaseConfig) -> None:
    from papertrail.core.writing import track

    said = os.environ.get("TOYS", "")
    if said == "wait":
        time.sleep(60)
    track.metrics({"size": config.size * (1.01 if said == "drift" else 1)})


def times(config: TimesConfig) -> None:
    from papertrail.core.answering.require import require
    from papertrail.core.writing import track

    said = os.environ.get("TOYS", "").split()
    if f"raise:{config.factor}" in said:
        raise RuntimeError("the cell broke")
    record = require(BASE, BaseConfig(size=config.size))
    track.metrics(
        {
            "product": config.factor * record.metrics["size"],
            "undefined": float("nan"),
            "zero": 0.0,
            "times/seconds": time.monotonic(),
            "chance": random.SystemRandom().random() if f"chance:{config.factor}" in said else 0.5,
        }
    )


def upstream(config: TimesConfig) -> Mapping[str, Question]:
    return {"base": Question(BASE, BaseConfig(size=config.size))}


def cells(config: ToysConfig) -> list[Need]:
    return [
        Need({"factor": factor}, Question(TIMES, TimesConfig(size=config.size, factor=factor)))
        for factor in config.factors
    ]


def drawn(frame: "pd.DataFrame") -> "Sheet":
    from papertrail.tables.sheet import Cell, Column, Sheet

    rows = tuple({"product": Cell(value=float(value))} for value in frame["product"])
    return Sheet(name="toys", title="Toys", columns=(Column(key="product", title="P"),), rows=rows)


BASE = Experiment(name="base", study="toys", schema=BaseConfig, verb="audited:base")
TIMES = Experiment(
    name="times", study="toys", schema=TimesConfig, verb="audited:times", upstream=upstream
)
TOYS = Table(name="toys", study="toys", schema=ToysConfig, needs=cells, draw=drawn)


def entry_points(folder: Path, paths: list[Path]) -> None:
    """Write what a person would type to a folder of its own."""
    (folder / "entrypoints").mkdir()
    for name in ("base", "times", "audit"):
        (folder / "entrypoints" / f"{name}.py").write_text(
            f"import sys\nsys.path[:0] = {list(map(str, paths))!r}\n"
            f"import audited\naudited.main({name!r}, {str(folder)!r})\n"
        )


def main(name: str, folder: str) -> None:
    from papertrail.core.question import cli
    from papertrail.tables import auditing, catalog

    if name != "audit":
        return cli.launch({"base": BASE, "times": TIMES}[name])
    from papertrail.core.answering import processes

    catalog.tables = lambda: {"toys": TOYS}
    processes.ROOT = Path(folder)
    auditing.main()
    sys.exit(0)
