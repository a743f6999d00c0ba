"""How a sweep is asked for and shown: its plan, its best trials, and what to type next."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from papertrail.core import progress
from papertrail.core.answering.standing import standing, standings
from papertrail.core.errors import BadInput
from papertrail.core.project import CONF
from papertrail.core.question.cli import Execution, command
from papertrail.core.question.experiment import Experiment, Question
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing import track
from papertrail.records import report
from papertrail.sweep import space
from papertrail.sweep.attempt import no_metric, shown
from papertrail.sweep.config import base, find
from papertrail.sweep.options import Dimension
from papertrail.sweep.results import Result, Tried, preset_name

SHOWN = 5


def answer(experiment: Experiment, config: Any, execution: Execution) -> None:
    """Print the plan if that is what was asked for; else have the sweep, and show it."""
    with in_one_line():
        store, target = connect(), find(config.target)
        _refuse_unknown_metric(target, config, store)
        if config.plan:
            lines = list(_plan(experiment, target, config, store))
            print("\n".join(lines))
            return track.conclude(store, f"sweep of {target.name} (plan)", "\n".join(lines))
    return report.answer(experiment, config, execution)


def _refuse_unknown_metric(target: Experiment, config: Any, store: Store) -> None:
    """What a run of the target logs is known if one stands: no trial is needed to find out."""
    stands = next(iter(query.usable(target.name, store, trials=True)), None)
    if stands and (set(config.objectives) - set(stands.metrics)):
        where = f"{target.name} (run {stands.run_id})"
        raise BadInput(no_metric(config.objectives, stands.metrics, where))


def _plan(experiment: Experiment, target: Experiment, config: Any, store: Store) -> Iterator[str]:
    goals = ", ".join(f"{how} {name}" for name, how in sorted(config.objectives.items()))
    yield f"{target.name}: {goals}; {config.sampler.name}, pruner {config.pruner.name}"
    for option, one in sorted(config.space.items()):
        yield f"  {option:<28} {_spelled(one)}"
    found = standing(experiment, config, store)
    if found.usable:
        yield f"finished: run {found.usable.run_id}"
    elif config.sampler.name == "grid":
        yield _of_grid(target, config, store)
    else:
        yield f"{config.trials} trials, chosen on the way; {_begun(found.interrupted)}"


def _begun(interrupted: Record | None) -> str:
    if interrupted is None:
        return "not begun"
    trials = query.tagged("mlflow.parentRunId", interrupted.run_id, interrupted.store)
    done = sum(one.status == "FINISHED" for one in trials)
    return f"begun in run {interrupted.run_id}: {done} runs of it are finished"


def _of_grid(target: Experiment, config: Any, store: Store) -> str:
    """All points of a grid are known, so what stands of each is known as well."""
    plain = base(target, config)
    asked = [space.point(target, plain, one) for one in space.grid(target, config.space)]
    found = standings([Question(target, one) for one in asked], store)
    num = sum(one.usable is not None for one in found)
    return f"{len(found)} points; {num} of their runs stand already"


def _spelled(one: Dimension) -> str:
    if one.choices:
        return ", ".join(space.choices(one))
    how = " (log)" if one.log else f" by {one.step:g}" if one.step is not None else ""
    return f"{one.low:g} .. {one.high:g}{how}"


def show(record: Record, config: Any) -> None:
    """The best trials, what mattered, and what to type to use the best."""
    found = Result.model_validate(record.json("sweep"))
    print("\n".join(_table(found)))
    print(
        f"\n{found.count('complete')} complete, {found.count('pruned')} pruned, "
        f"{found.count('failed')} failed attempts; "
        f"{sum(one.reused for one in found.trials)} answered by runs that stood"
    )
    for name, shares in found.importance.items():
        if shares:
            ranked = sorted(shares.items(), key=lambda one: -one[1])
            said = ", ".join(f"{option} {share:.2f}" for option, share in ranked)
            print(f"what decides {name}: {said}")
    if record.failed_gates:
        progress.say(f"failed gates: {record.failed_gates}")
    _say_how_to_use(record, found, config)


def _table(found: Result) -> Iterator[str]:
    """The best trials, or the whole front, and the first trial to compare with."""
    names, rows = sorted(found.objectives), _rows(found)
    options = sorted({option for one in rows for option in one.point})
    heads = ["trial", *names, *options, "run"]
    cells = [
        [
            str(one.number),
            *(f"{one.values[name]:.5g}" for name in names),
            *(shown(one.point[option]) for option in options),
            one.run_id[:8],
        ]
        for one in rows
    ]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    for line in [heads, *cells]:
        yield "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))


def _rows(found: Result) -> Sequence[Tried]:
    if len(found.objectives) > 1:
        return [found.of(number) for number in found.best]
    ((name, how),) = found.objectives.items()
    sign = 1 if how == "minimize" else -1
    complete = [one for one in found.trials if one.state == "complete"]
    return sorted(complete, key=lambda one: sign * one.values[name])[:SHOWN]


def _say_how_to_use(record: Record, found: Result, config: Any) -> None:
    target = find(config.target)
    one = found.of(found.best[0])
    print(
        f"\nthis run again: {command(target, space.point(target, base(target, config), one.point))}"
    )
    path = record.artifact(preset_name(found, one.number))
    if config.write_preset:
        path = _written(path, Path(config.write_preset))
    print(f"its options elsewhere: -P tuned={shlex.quote(_tuned(path))}")


def _written(preset: Path, to: Path) -> Path:
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(preset.read_text(encoding="utf-8"), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"write_preset: cannot be written ({error}); name another file") from None
    return to


def _tuned(path: Path) -> str:
    """As short as it can be typed: a preset of conf/tuned by its name."""
    mine = path.absolute().parent == (CONF / "tuned").absolute()
    return path.stem if mine else str(path)
