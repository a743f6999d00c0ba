"""The answer to `setup`: checks and stages on the terminal, downloads if asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from papertrail.core import machine, progress
from papertrail.core.errors import BadInput, Missing
from papertrail.core.progress import duration
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Command, narrow
from papertrail.monotone.checks import Sight, look
from papertrail.monotone.plan import EFFICIENCY, Price, Stage, totals
from papertrail.monotone.schemas import StudyConfig
from papertrail.monotone.setup import Check, Input, SetupConfig, amount
from papertrail.tables.cost import runs
from papertrail.tables.listing import PIPED_WIDTH

if TYPE_CHECKING:
    from rich.table import Table as Grid

COLOURS = {"ok": "green", "warning": "yellow", "missing": "red"}
SHOWN = ("finished", "running", "interrupted", "failed", "blocked", "missing")
BY_ARITHMETIC = "*"


def answer(command: Command, config: SetupConfig, execution: Execution) -> None:
    """Print what was found; Missing, which is exit code 1, where something stops the study."""
    if config.json and not Path(config.json).absolute().parent.is_dir():
        raise BadInput(f"json: no folder for the file ({config.json}); make it first")
    study = narrow(config, StudyConfig)
    sight = look(study)
    if config.fetch:
        fetch(sight.inputs)
        sight = look(study)
    speed = _speed(study, sight)
    stages = sight.plan.stages(speed)
    _print(_checks_grid(sight.checks))
    print(f"\nstudy: {_counts(stages)}")
    _print(_stages_grid(stages))
    for line in [*_total(stages), *_seeds(sight, speed), *_source(stages, speed)]:
        print(line)
    if config.json:
        tree = {"checks": [asdict(check) for check in sight.checks], "stages": _tree(stages)}
        Path(config.json).write_text(json.dumps(tree, indent=1), encoding="utf-8")
    if gone := [check.name for check in sight.missing()]:
        raise Missing(f"not ready: {', '.join(gone)}; the lines above say what to do")


def fetch(inputs: Iterable[Input]) -> None:
    """Download what can be had, one after the other; what cannot is said, and the rest goes on."""
    for one in inputs:
        if one.fetch is not None:
            progress.say(f"{one.check.name}: downloading")
            try:
                one.fetch()
            except (Missing, BadInput, OSError) as error:
                progress.say(f"{one.check.name}: {' '.join(str(error).split())[:300]}")


def _speed(config: StudyConfig, sight: Sight) -> float | None:
    """Operations per second of this model's largest matrix product; None where it is not wanted."""
    size = sight.plan.size
    if size is None or not sight.plan.missing:
        return None
    compute, schedule = config.compute, config.train
    kinds: dict[str, Literal["float32", "bfloat16", "float16"]] = {
        "bf16-mixed": "bfloat16", "16-mixed": "float16", "32-true": "float32",
    }  # fmt: skip
    rows = schedule.batch_size // compute.accumulate * schedule.window
    return machine.operations_per_second(
        max(1, rows), size.width, size.feed_forward, kinds[compute.precision]
    )


# -- in words --------------------------------------------------------------------------------------


def _print(grid: Grid) -> None:
    from rich.console import Console

    width = None if sys.stdout.isatty() else PIPED_WIDTH
    Console(width=width, highlight=False).print(grid)


def _empty(*headings: str) -> Grid:
    from rich.table import Table as Grid

    grid = Grid(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in headings:
        grid.add_column(heading, no_wrap=heading != "what", overflow="fold")
    return grid


def _checks_grid(checks: Sequence[Check]) -> Grid:
    from rich.text import Text

    grid = _empty("state", "needed", "what")
    for check in checks:
        state = Text(check.state, style=COLOURS[check.state])
        grid.add_row(state, Text(check.name), Text(check.sentence))
    return grid


def _counts(stages: Sequence[Stage]) -> str:
    total = {state: sum(stage.states.get(state, 0) for stage in stages) for state in SHOWN}
    told = ", ".join(f"{count} {state}" for state, count in total.items() if count)
    return f"{runs(sum(total.values()))}, {told}"


def _stages_grid(stages: Sequence[Stage]) -> Grid:
    from rich.text import Text

    seen = [state for state in SHOWN if any(stage.states.get(state) for stage in stages)]
    grid = _empty("stage", *seen, "time", "disk")
    for stage in stages:
        counts = [Text(str(stage.states.get(state) or "-")) for state in seen]
        disk = "unknown" if stage.num_bytes is None else amount(stage.num_bytes)
        time = spoken(stage.prices)
        grid.add_row(Text(stage.name), *counts, Text(time), Text(disk if stage.prices else "-"))
    return grid


def spoken(prices: Iterable[Price]) -> str:
    """Times by their source: what arithmetic gave is starred, what nothing tells is counted."""
    parts = []
    for source, count, seconds in totals(prices):
        if source == "unknown":
            parts.append(f"unknown for {runs(count)}")
        else:
            parts.append(duration(seconds) + (BY_ARITHMETIC if source == "arithmetic" else ""))
    return " + ".join(parts) or "-"


def _total(stages: Sequence[Stage]) -> Iterator[str]:
    prices = [price for stage in stages for price in stage.prices]
    if not prices:
        yield "nothing is left to compute"
        return
    known = [stage.num_bytes for stage in stages if stage.num_bytes is not None]
    disk = amount(sum(known)) if len(known) == len(stages) else "an unknown size"
    yield f"to compute: {runs(len(prices))} on 1 worker, {spoken(prices)}; {disk} of results"


def _seeds(sight: Sight, speed: float | None) -> Iterator[str]:
    """What each seed takes: one line where all take the same."""
    told = {seed: spoken(some) for seed, some in sight.plan.per_seed(speed).items()}
    if len(set(told.values())) == 1:
        seeds = ", ".join(map(str, told))
        yield f"per seed ({seeds}): {next(iter(told.values()))}"
    else:
        yield from (f"seed {seed}: {text}" for seed, text in told.items())


def _source(stages: Sequence[Stage], speed: float | None) -> Iterator[str]:
    reckoned = [stage.name for stage in stages if stage.count("arithmetic")]
    if speed is not None and reckoned:
        yield (
            f"{BY_ARITHMETIC} by arithmetic, as no run of this size has finished: operations at "
            f"{EFFICIENCY:.0%} of the {speed / 1e9:,.0f} GFLOP/s measured here just now"
            + ("; of 5_uat at most, a search stops early" if "5_uat" in reckoned else "")
        )


def _tree(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    return [
        {
            "stage": stage.name,
            "runs": dict(stage.states),
            "seconds": {source: seconds for source, _, seconds in totals(stage.prices)
                        if source != "unknown"},
            "runs_of_unknown_time": stage.count("unknown"),
            "bytes": stage.num_bytes,
        }
        for stage in stages
    ]  # fmt: skip
