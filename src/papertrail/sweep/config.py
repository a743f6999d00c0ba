"""The sweep as an experiment: its options are those of its target and its own. Imports no optuna.

A sweep is typed as its target would be (`-P scale=smoke -P data.text=...`), with `target`, `space`
and what else `options.Sweep` has: what an option of the target means, and which presets there are,
is said in one place.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, make_dataclass
from typing import Any

from papertrail.core.errors import BadInput
from papertrail.core.question import cli, layers
from papertrail.core.question.experiment import Experiment, experiments, load, narrow
from papertrail.core.question.identity import identify
from papertrail.sweep import space
from papertrail.sweep.options import HOW, Sweep

NAME = "sweep"
WORKER = "--worker="
"""Begins the words of a process that tries points of a study: its number and the study follow."""


def find(name: str) -> Experiment:
    """The experiment of that name, or at that address; BadInput listing all if there is none."""
    known = experiments()
    if ":" in name:
        return _at(name)
    if name not in known:
        raise BadInput(f"target: no experiment ({name}); there are {', '.join(sorted(known))}")
    return known[name]


def _at(address: str) -> Experiment:
    try:
        found: object = load(address)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(
            f"target: nothing at {address} ({error}); give PACKAGE.MODULE:NAME"
        ) from None
    if not isinstance(found, Experiment):
        raise BadInput(f"target: a {type(found).__name__} is no experiment ({address})")
    return found


def sweeping(target: Experiment) -> Experiment:
    """The experiment whose run is a sweep over `target`; BadInput if their options clash."""
    own, theirs = ({f.name for f in fields(one)} for one in (Sweep, target.schema))
    if taken := sorted((own & theirs) - {"plan"}):
        raise BadInput(f"target: {target.name} has options {taken} of its own; choose another")
    return Experiment(
        name=NAME,
        study=target.study,
        schema=_schema(target),
        verb="papertrail.sweep.study:sweep",
        stays=True,
        show="papertrail.sweep.answer:show",
        answer="papertrail.sweep.answer:answer",
        label=lambda config: f"{target.name} over {' '.join(sorted(config.space))}",
        infrastructure=tuple(dict.fromkeys((*target.infrastructure, *HOW))),
        neutral=target.neutral,
        data=lambda config: _answered_by(target, config),
    )


def _schema(target: Experiment) -> type:
    """Options of the target and of a sweep; --help opens with what a sweep is."""
    bases, told = (target.schema, Sweep), {"__doc__": Sweep.__doc__}
    return make_dataclass("SweepConfig", [], bases=bases, namespace=told, frozen=True, kw_only=True)


def base(target: Experiment, config: Any) -> Any:
    """The target's config as its options stand, the swept ones among them."""
    plan = {"plan": False} if "plan" in {f.name for f in fields(target.schema)} else {}
    return narrow(config, target.schema, **plan)


def _answered_by(target: Experiment, config: Any) -> Mapping[str, str]:
    """The target with all that decides its answers: its data, its revision, what it builds on.

    BadInput for a space that it cannot take: whoever asks for the identity of a sweep hears it
    before anything runs.
    """
    plain = base(target, config)
    space.check(target, config)
    question = f"{target.name}:{identify(target, plain).digest}"
    return {**target.data(plain), "target": question}


def parsed(words: Sequence[str]) -> tuple[Experiment, Any]:
    """The target and the config of a sweep that was spelled out in full."""
    target = find(dict(layers.paired(words))["target"])
    return target, cli.parse(sweeping(target), words)[0]


def main() -> None:
    """Launch the sweep of the target that `--target`, or else its preset, names."""
    words = sys.argv[1:]
    if words and words[0].startswith(WORKER):
        load("papertrail.sweep.worker:main")(words[0].removeprefix(WORKER), words[1:])
        return
    try:
        preset = layers.peek_preset(NAME, NAME, words)
        experiment = sweeping(find(layers.peek(NAME, "target", words, preset)))
        _refuse_unknown(preset, experiment)
    except BadInput as error:
        if layers.HELP & set(words):
            print(f"targets: {', '.join(sorted(experiments()))}\n--target=NAME --help has options")
            return
        sys.exit(cli.complain(NAME, error, cli.USAGE))
    cli.launch(experiment)


def _refuse_unknown(preset: Mapping[str, Any], experiment: Experiment) -> None:
    """A scale speaks of a whole study, so what an experiment lacks is passed over; a sweep's preset
    speaks of one target."""
    known = [f.name for f in fields(experiment.schema)]
    for key in preset:
        if key not in known:
            raise BadInput(f"sweep: its preset sets {key}, which is no option; see --help")
