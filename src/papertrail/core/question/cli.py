"""argv -> one frozen config -> one run.

MLflow hands each `-P key=value` that MLproject does not declare to the command as `--key value`,
so the fields of a schema are the project's options and no second list exists. Whatever the order
typed, layers apply as: the schema's defaults, conf/NAME.yaml, presets, single values.
"""

import os
import secrets
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from pydantic import PositiveInt

from papertrail.core.errors import BadInput, Interrupted, Missing
from papertrail.core.question import layers
from papertrail.core.question.experiment import Command, Experiment, load
from papertrail.core.question.identity import as_given, by_option, identify, spelled
from papertrail.core.question.resources import Slurm
from papertrail.core.question.wording import explain, readable

USAGE, FAILURE = 2, 1  # exit codes: what was typed cannot be used; what was asked for failed
ORDER = "PAPERTRAIL_ORDER"
"""Environment variable: names the command that somebody typed, in every process it started."""
set_parsing_settings(docstring_parse_attribute_docstrings=True)


Mode = Literal["reuse", "force", "retry_failed", "read_only"]


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is executed; none of it is part of what the run is."""

    tracking: str = ""
    """Address of the store of runs; local: the one beside the code; empty: what the environment
    says."""
    mode: Mode = "reuse"
    """reuse what stands, resume what was interrupted, compute the rest; force a new computation;
    retry_failed computes only what failed, afresh; read_only never computes."""
    workers: PositiveInt = 1
    """Runs computed side by side on this machine, each in a process of its own."""
    launcher: Literal["local", "slurm"] = "local"
    """Whether runs are computed on this machine or as jobs of a SLURM cluster."""
    slurm: Slurm = field(default_factory=Slurm)
    """How they are handed to SLURM."""


def parse(typed: Command, argv: Sequence[str]) -> tuple[Any, Execution]:
    """The config and execution that `argv` means; BadInput naming the option otherwise."""
    parser = _kept_parser(typed)
    words = list(layers.paired(argv))
    layered = layers.layered(typed, words, _options(parser))
    try:
        chosen = parser.parse_args([f"--{key}={text}" for key, text in layered.items()])
        made = parser.instantiate(chosen)
    except ArgumentError as error:
        raise BadInput(explain(str(error), layered)) from None
    except ValueError as error:  # a rule between options, from a schema's __post_init__
        raise BadInput(" ".join(str(error).split())) from None
    if isinstance(typed, Experiment):
        execution = made.pop("run")
    else:
        execution = Execution(tracking=_tracking(typed, made.pop("tracking")))
    names = [field.name for field in fields(typed.schema)]
    return typed.schema(**{name: made[name] for name in names}), execution


def _tracking(typed: Command, name: str) -> str:
    """The address that a preset names, or that was given itself."""
    found = layers.preset_files(typed, "tracking").get(name)
    return str(layers.read(found[-1], must=True)["run"]["tracking"]) if found else name


def check_values(typed: Command, values: Sequence[tuple[str, str]]) -> None:
    """BadInput unless each option takes its text, whatever the others are."""
    parser = _kept_parser(typed)
    for option, text in values:
        try:
            parser.parse_args([f"--{option}={text}"])
        except ArgumentError as error:
            raise BadInput(explain(str(error), {option: text})) from None


def launch(typed: Command, argv: Sequence[str] | None = None) -> None:
    """The last line of every file in entrypoints/; `argv` is what was typed, unless given."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault(ORDER, secrets.token_hex(6))
    try:
        if layers.HELP & set(argv):
            return print_help(typed, [word for word in argv if word not in layers.HELP])
        config, execution = parse(typed, argv)
        if isinstance(typed, Experiment):
            identify(typed, config)  # reads the data it names: a wrong path is a typo as well
        # mlflow takes seconds to load: a typo above did not wait for it
        answer = load(typed.answer)
        if execution.tracking:
            with load("papertrail.core.answering.elsewhere:kept_in")(execution.tracking):
                answer(typed, config, execution)
        else:
            answer(typed, config, execution)
    except BadInput as error:
        sys.exit(complain(typed.name, error, USAGE))
    except (Missing, Interrupted) as error:
        sys.exit(complain(typed.name, error, FAILURE))
    except KeyboardInterrupt:  # before a run was open: nothing is lost
        sys.exit(complain(typed.name, Interrupted("SIGINT"), FAILURE))


def complain(name: str, error: BaseException, code: int) -> int:
    """Say on one line what was wrong; the exit code is handed through."""
    print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def command(typed: Command, config: Any) -> str:
    """The shortest `mlflow run` that means `config`, for people to copy."""
    wanted, given = by_option(config), as_given(config)
    ways = [[*start, *_differing(plain, wanted, given)] for start, plain in _starts(typed)]
    options = [f"-P {shlex.quote(f'{key}={text}')}" for key, text in min(ways, key=len)]
    return " ".join(["mlflow run . -e", typed.name, *options])


def _starts(typed: Command) -> "list[Start]":
    """What nothing typed means, and what each scale alone means."""
    key = (layers.CONF, typed.name, typed.study, typed.schema)
    if key not in _STARTS:
        scales = [[("scale", name)] for name in layers.preset_files(typed, "scale")]
        _STARTS[key] = [
            (start, by_option(parse(typed, [f"--{k}={v}" for k, v in start])[0]))
            for start in ([], *scales)
        ]
    return _STARTS[key]


Options = Mapping[str, Any]
Start = tuple[list[tuple[str, str]], dict[str, Any]]  # options, and all values that they mean
_STARTS: dict[tuple[object, ...], list[Start]] = {}  # a plan asks for a thousand commands


def arguments(config: Any) -> list[str]:
    """Words for `parse` that mean exactly `config`, whatever conf/ says."""
    return [f"--{key}={spelled(value)}" for key, value in as_given(config).items()]


def print_help(typed: Command, argv: Sequence[str]) -> None:
    """Every option with its meaning and the value it has under conf/NAME.yaml and `argv`."""
    parser = _parser(typed)
    layered = layers.layered(typed, list(layers.paired(argv)), _options(parser))
    parser.set_defaults(layered)
    print(readable(parser.format_help()))


def _parser(typed: Command) -> ArgumentParser:
    # allow_abbrev: argparse would take --model.dep for --model.depth.
    parser = ArgumentParser(
        prog=f"mlflow run . -e {typed.name}",
        description="Options are given as -P key=value, or as --key=value to the entry point.",
        exit_on_error=False,
        allow_abbrev=False,
        usage=f"mlflow run . -e {typed.name} [-P key=value ...]",
    )
    parser.add_class_arguments(typed.schema)
    if isinstance(typed, Experiment):
        parser.add_class_arguments(Execution, "run")
    else:  # nothing is executed, but the runs that it speaks of are somewhere
        said = "A preset of conf/tracking, or the address of the store of runs."
        parser.add_argument("--tracking", type=str, default="", help=said)
    return parser


def _kept_parser(typed: Command) -> ArgumentParser:
    """The same, made once: nobody changes it. Making one takes longer than using it."""
    key = (typed.name, typed.schema, isinstance(typed, Experiment))
    if key not in _PARSERS:
        _PARSERS[key] = _parser(typed)
    return _PARSERS[key]


_PARSERS: dict[tuple[object, ...], ArgumentParser] = {}


def options_of(typed: Command) -> list[str]:
    """Dotted names of every option, those of the execution among them."""
    return _options(_kept_parser(typed))


def _options(parser: ArgumentParser) -> list[str]:
    return list(parser.get_defaults().keys())


def _differing(plain: Options, wanted: Options, given: Options) -> list[tuple[str, str]]:
    changed = [key for key, value in wanted.items() if plain.get(key) != value]
    return [(key, spelled(given[key])) for key in changed]
