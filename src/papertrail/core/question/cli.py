"""argv -> one frozen config -> one run.

MLflow hands each `-P key=value` that MLproject does not declare to the command as `--key value`,
so the fields of a schema are the project's options and no second list exists. Whatever the order
typed, layers apply as: the schema's defaults, conf/NAME.yaml, presets, single values.
"""

import difflib
import os
import re
import secrets
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from pydantic import PositiveInt

from papertrail.core.errors import BadInput, Interrupted, Missing
from papertrail.core.project import CONF
from papertrail.core.question.experiment import Command, Experiment, load
from papertrail.core.question.identity import by_option, dumps, identify
from papertrail.core.question.resources import Slurm
from papertrail.core.question.wording import explain, readable

HELP = {"-h", "--help"}
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
    parser = _parser(typed)
    words = list(paired(argv))
    layered = _layers(typed, words, _options(parser))
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
    found = _presets(typed, "tracking").get(name)
    return str(_read(found[-1], must=True)["run"]["tracking"]) if found else name


def check_values(typed: Command, values: Sequence[tuple[str, str]]) -> None:
    """BadInput unless each option takes its text, whatever the others are."""
    parser = _parser(typed)
    for option, text in values:
        try:
            parser.parse_args([f"--{option}={text}"])
        except ArgumentError as error:
            raise BadInput(explain(str(error), {option: text})) from None


def launch(typed: Command, argv: Sequence[str] | None = None) -> None:
    """The last line of every file in entrypoints/; `argv` is what was typed, unless given."""
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault(ORDER, secrets.token_hex(6))
    if HELP & set(argv):
        return print_help(typed, [word for word in argv if word not in HELP])
    try:
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


def peek(name: str, key: str, argv: Sequence[str], below: Mapping[str, Any] | None = None) -> str:
    """The text of one option before its schema is known; BadInput if neither conf/NAME.yaml has it
    nor the preset `below`, which stands above that file."""
    typed = dict(paired([word for word in argv if word not in HELP]))
    conf = typed.get("config") or str(CONF / f"{name}.yaml")
    found = (_read(Path(conf), must=False) | dict(below or {}) | typed).get(key)
    if found is None:
        raise BadInput(f"{key}: not given; write --{key}=VALUE")
    return str(found)


def peek_preset(name: str, group: str, argv: Sequence[str]) -> dict[str, Any]:
    """What the preset of `group` sets, before the schema is known; empty if none is chosen."""
    try:
        chosen = peek(name, group, argv)
    except BadInput:
        return {}
    known = {path.stem: path for path in sorted((CONF / group).glob("*.yaml"))}
    path = Path(chosen) if chosen.endswith((".yaml", ".yml")) else known.get(chosen)
    if path is None or not path.is_file():
        raise BadInput(f"{group}: no preset ({chosen}); conf/{group} has {', '.join(known)}")
    return _read(path, must=True)


def command(typed: Command, config: Any) -> str:
    """The shortest `mlflow run` that means `config`, for people to copy."""
    wanted = by_option(config)
    ways = [[*start, *_differing(plain, wanted)] for start, plain in _starts(typed)]
    options = [f"-P {shlex.quote(f'{key}={text}')}" for key, text in min(ways, key=len)]
    return " ".join(["mlflow run . -e", typed.name, *options])


def _starts(typed: Command) -> "list[Start]":
    """What nothing typed means, and what each scale alone means."""
    key = (CONF, typed.name, typed.study, typed.schema)
    if key not in _STARTS:
        scales = [[("scale", name)] for name in _presets(typed, "scale")]
        _STARTS[key] = [
            (start, by_option(parse(typed, [f"--{k}={v}" for k, v in start])[0]))
            for start in ([], *scales)
        ]
    return _STARTS[key]


Start = tuple[list[tuple[str, str]], dict[str, Any]]  # options, and all values that they mean
_STARTS: dict[tuple[object, ...], list[Start]] = {}  # a plan asks for a thousand commands


def arguments(config: Any) -> list[str]:
    """Words for `parse` that mean exactly `config`, whatever conf/ says."""
    return [f"--{key}={_spelled(value)}" for key, value in by_option(config).items()]


def print_help(typed: Command, argv: Sequence[str]) -> None:
    """Every option with its meaning and the value it has under conf/NAME.yaml and `argv`."""
    parser = _parser(typed)
    layered = _layers(typed, list(paired(argv)), _options(parser))
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


def options_of(typed: Command) -> list[str]:
    """Dotted names of every option, those of the execution among them."""
    return _options(_parser(typed))


def _options(parser: ArgumentParser) -> list[str]:
    return list(parser.get_defaults().keys())


def paired(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(key, value) of each option; the word after --key is its value even if it begins with -."""
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            raise BadInput(f"unexpected word ({word}); options are --key=value")
        key, given, value = word[2:].partition("=")
        if not given:
            found = next(words, None)
            if found is None:
                raise BadInput(f"{key}: no value was given; write --{key}=VALUE")
            value = found
        yield key, value


def _layers(
    typed: Command, words: Sequence[tuple[str, str]], known: Sequence[str]
) -> dict[str, str]:
    """Option -> text after conf file, presets and single values have been laid over each other."""
    conf = dict(words).get("config") or str(CONF / f"{typed.name}.yaml")
    headline = _read(Path(conf), must="config" in dict(words))
    options = [(key, value) for key, value in words if key != "config"]
    groups = {key: value for key, value in headline.items() if isinstance(value, str)}
    groups = {k: v for k, v in groups.items() if k not in known and _is_group(k)}
    singles: dict[str, str] = {}
    for key, value in options:
        if _is_group(key) and key not in known:
            groups[key] = value
        else:
            check_known(key, known)
            singles[key] = value
    base = {k: v for k, v in headline.items() if k not in groups}
    layers = _flat(base, known, conf)
    # `scale` overlays several sections, so it goes under a preset that fills one; and it sorts
    # before `sweep` and `tuned`, which speak of few options.
    for group in sorted(groups, key=lambda name: (name in _sections(known), name)):
        layers |= _preset(typed, group, groups[group], known)
    return layers | singles


def _preset(typed: Command, group: str, name: str, known: Sequence[str]) -> dict[str, str]:
    """The options that a preset sets: of its own section, or of every section we have."""
    if name.endswith((".yaml", ".yml")):
        paths = [Path(name)]
        if not paths[0].is_file():
            raise BadInput(f"{group}: no such file ({name}); give a preset or a YAML file")
    else:
        presets = _presets(typed, group)
        if name not in presets:
            hint = f"; or set {group}.name={name}" if f"{group}.name" in known else ""
            near = ", ".join(presets) or "none"
            raise BadInput(f"{group}: no preset ({name}); conf/{group} has {near}{hint}")
        paths = presets[name]
    out: dict[str, str] = {}
    for path in paths:
        tree = _read(path, must=True)
        if group in _sections(known):
            tree = {group: tree}
        else:  # a scale speaks of a whole study; this experiment takes the sections it has
            tree = {k: v for k, v in tree.items() if k in _sections(known) or k in known}
        out |= _flat(tree, known, str(path))
    return out


def _presets(typed: Command, group: str) -> dict[str, list[Path]]:
    """Files of each preset of a group: what all studies share, then what this study adds."""
    found: dict[str, list[Path]] = {}
    for folder in (CONF / group, CONF / group / typed.study):
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, []).append(path)
    return found


def _is_group(key: str) -> bool:
    return bool(re.fullmatch(r"\w+", key)) and (CONF / key).is_dir()


def _sections(known: Sequence[str]) -> set[str]:
    return {name.partition(".")[0] for name in known if "." in name}


def _read(path: Path, must: bool) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must:
            raise BadInput(f"config: no such file ({path})") from None
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadInput(f"{path}: not readable as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree or {}, dict):
        raise BadInput(f"{path}: expected sections and options, got {type(tree).__name__}")
    return tree or {}


def _flat(tree: Mapping[str, Any], known: Sequence[str], source: str) -> dict[str, str]:
    """Leaves of a YAML tree as option -> text; BadInput for a key that is no option."""
    out: dict[str, str] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            key = f"{prefix}{name}"
            if isinstance(value, dict) and key not in known:
                walk(value, f"{key}.")
            else:
                check_known(key, known, f"{source}: ")
                try:
                    out[key] = _spelled(value)
                except (TypeError, ValueError):  # a date; NaN and infinity
                    raise BadInput(f"{source}: {key}: no finite number or text ({value})") from None

    walk(tree, "")
    return out


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)


def check_known(key: str, known: Sequence[str], where: str = "") -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=1)
    if not near and key in _sections(known):
        near = [name for name in known if name.startswith(f"{key}.")][:1]
    hint = f"did you mean {near[0]}?" if near else "--help lists the options"
    raise BadInput(f"{where}no option {key}; {hint}")


def _differing(plain: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key, _spelled(value)) for key, value in wanted.items() if plain.get(key) != value]
