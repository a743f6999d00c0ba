"""The space of a sweep over the options of its target: what is refused, and what a point means.

A point is option -> value: a number, or the text of a choice. Imports no optuna.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from papertrail.core.errors import BadInput
from papertrail.core.question import cli, layers
from papertrail.core.question.canonical import arms
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import annotation, by_option, spelled
from papertrail.sweep.options import Dimension

Value = int | float | str
Point = Mapping[str, Value]


def check(target: Experiment, config: Any) -> None:
    """BadInput for whatever makes a sweep senseless, in one line and before its first trial."""
    if not config.space:
        raise BadInput("space: nothing is varied; give -P sweep=PRESET, or -P space={OPTION: ...}")
    if not config.objectives:
        raise BadInput("objectives: none; give -P objectives={METRIC: minimize}")
    _check_options(target, config.space)
    _check_values(target, config.space)
    _check_method(target, config)
    _check_places(config)


def point(target: Experiment, base: Any, chosen: Point) -> Any:
    """The target's config at a point; BadInput where the target refuses the combination."""
    words = [f"--{option}={typed(value)}" for option, value in chosen.items()]
    return cli.parse(target, [*cli.arguments(base), *words])[0]


def standing(target: Experiment, base: Any, dimensions: Mapping[str, Dimension]) -> Point | None:
    """The point at which the options of the target stand; None if that is not in the space."""
    values = by_option(base)
    found: dict[str, Value] = {}
    for option, dimension in dimensions.items():
        value = _taken(target, option, dimension, values[option])
        if value is None:
            return None
        found[option] = value
    return found


def grid(target: Experiment, dimensions: Mapping[str, Dimension]) -> list[dict[str, Value]]:
    """Every point of a space of steps and choices, the first option slowest."""
    lists = [list(_values(target, option, one)) for option, one in sorted(dimensions.items())]
    return [
        dict(zip(sorted(dimensions), values, strict=True)) for values in itertools.product(*lists)
    ]


def choices(dimension: Dimension) -> list[str]:
    """Its choices as they are typed."""
    return [typed(choice) for choice in dimension.choices]


def whole(target: Experiment, option: str) -> bool:
    """Whether an option takes whole numbers only."""
    return float not in arms(annotation(target, option))


def typed(value: Any) -> str:
    """A value as a person types it; 3.0 is 3, which an option of whole numbers takes as well."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return spelled(value)


def _check_options(target: Experiment, dimensions: Mapping[str, Dimension]) -> None:
    known = [name for name in cli.options_of(target) if not name.startswith("run.")]
    for option, one in dimensions.items():
        if option.startswith("run."):
            raise BadInput(f"space: {option} says how runs are computed, not what; drop it")
        layers.check_known(option, known, "space: ")
        above = {option.rsplit(".", n)[0] for n in range(option.count(".") + 1)}
        if above & set(target.infrastructure):
            raise BadInput(
                f"space: {option} does not decide what comes out of {target.name}; drop it"
            )
        if one.problem:
            raise BadInput(f"space: {option}: {one.problem}")
        if not one.choices and not {int, float} & set(arms(annotation(target, option))):
            raise BadInput(f"space: {option} is no number; give choices in place of low and high")


def _check_values(target: Experiment, dimensions: Mapping[str, Dimension]) -> None:
    ends = [
        (option, typed(value))
        for option, one in dimensions.items()
        for value in one.choices or (one.low, one.high)
    ]
    try:
        cli.check_values(target, ends)
    except BadInput as error:
        raise BadInput(f"space: {error}") from None
    for option, one in dimensions.items():
        if one.step is not None:
            _check_steps(target, option, one)


def _check_steps(target: Experiment, option: str, one: Dimension) -> None:
    assert one.low is not None and one.high is not None and one.step is not None
    if whole(target, option) and not one.step.is_integer():
        raise BadInput(f"space: {option} takes whole numbers; its step must be one ({one.step:g})")
    low, high, step = (Decimal(repr(number)) for number in (one.low, one.high, one.step))
    if (high - low) % step:
        last = low + (high - low) // step * step
        raise BadInput(
            f"space: {option}: high is not low plus a multiple of step ({one.high:g}); "
            f"try high={float(last):g}"
        )


def _check_method(target: Experiment, config: Any) -> None:
    pruner, sampler = config.pruner.name, config.sampler.name
    if pruner != "none" and len(config.objectives) > 1:
        raise BadInput(f"pruner.name: {pruner} compares one objective; set pruner.name=none")
    if config.write_preset and len(config.objectives) > 1:
        raise BadInput(
            f"write_preset: several objectives have no one best ({config.write_preset}); leave it "
            "out and take a preset from the run's artifacts"
        )
    if sampler == "grid":
        _check_grid(target, config)


def _check_grid(target: Experiment, config: Any) -> None:
    sizes = [_num_values(target, option, one) for option, one in config.space.items()]
    if math.prod(sizes) > config.trials:
        raise BadInput(
            f"trials: the grid has {math.prod(sizes)} points ({config.trials}); "
            f"set trials={math.prod(sizes)} or shrink the space"
        )


def _num_values(target: Experiment, option: str, one: Dimension) -> int:
    if one.choices:
        return len(one.choices)
    if one.log or (one.step is None and not whole(target, option)):
        raise BadInput(f"space: a grid needs a step or choices ({option}); give one")
    assert one.low is not None and one.high is not None
    step = Decimal(repr(one.step if one.step is not None else 1.0))
    return int((Decimal(repr(one.high)) - Decimal(repr(one.low))) // step) + 1


def _values(target: Experiment, option: str, one: Dimension) -> Iterator[Value]:
    if one.choices:
        yield from choices(one)
        return
    assert one.low is not None
    low, step = Decimal(repr(one.low)), Decimal(repr(one.step if one.step is not None else 1.0))
    for number in range(_num_values(target, option, one)):
        value = float(low + number * step)
        yield int(value) if whole(target, option) else value


def _taken(target: Experiment, option: str, one: Dimension, value: Any) -> Value | None:
    """`value` as this dimension has it; None if it has not."""
    if one.choices:
        return typed(value) if typed(value) in choices(one) else None
    if not isinstance(value, (int, float)) or not _between(one, value):
        return None
    return int(value) if whole(target, option) else float(value)


def _between(one: Dimension, value: int | float) -> bool:
    assert one.low is not None and one.high is not None
    if not one.low <= value <= one.high:
        return False
    on_step = one.step is None or not (Decimal(repr(value)) - Decimal(repr(one.low))) % Decimal(
        repr(one.step)
    )
    return bool(on_step)


def _check_places(config: Any) -> None:
    """Where the study is kept and where the preset goes."""
    if config.write_preset and not config.write_preset.endswith((".yaml", ".yml")):
        raise BadInput(f"write_preset: must end in .yaml ({config.write_preset})")
    if not config.storage:
        return
    try:
        parts = urlsplit(config.storage)
    except ValueError:
        raise BadInput(f"storage: no address ({config.storage}); see --help") from None
    if parts.password:
        raise BadInput("storage: has a password in it; set PGPASSWORD in its place")
    if parts.scheme.partition("+")[0] not in SCHEMES:
        raise BadInput(f"storage: must begin with postgresql:// or sqlite:/// ({config.storage})")


SCHEMES: Sequence[str] = ("postgresql", "sqlite")
