"""What can be typed about runs that stand: why one is (not) reused, and verdicts on them.

Imports neither torch nor mlflow, so that a typo answers at once.
"""

import sys
from dataclasses import dataclass, make_dataclass

from papertrail.core import cli
from papertrail.core.errors import BadInput
from papertrail.core.experiment import Command, Experiment, experiments


@dataclass(frozen=True, kw_only=True)
class Why:
    """Explains one run, or what an experiment's options ask for."""

    run: str = ""
    """Id of a run."""
    experiment: str = ""
    """Instead of a run: an experiment, whose options can then be given as for itself."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What somebody decided about a run, and why."""

    reason: str = ""
    """Kept with every run that it concerns."""
    run: str = ""
    """Id of the run."""
    yes: bool = False
    """Do not ask, where a person could be asked."""


@dataclass(frozen=True, kw_only=True)
class Invalidation(Verdict):
    """Makes a run, and all that was built on it, no answer any more."""

    undo: bool = False
    """Take an invalidation back; both reasons are kept."""


@dataclass(frozen=True, kw_only=True)
class Acceptance(Verdict):
    """Keeps results although the code behind them changed."""

    experiment: str = ""
    """Instead of one run: all usable runs of an experiment."""


WHY = Command(
    name="why", study="records", schema=Why, answer="papertrail.records.explain:answer"
)  # fmt: skip
INVALIDATE = Command(
    name="invalidate", study="records", schema=Invalidation,
    answer="papertrail.records.verdict:invalidate",
)  # fmt: skip
ACCEPT = Command(
    name="accept", study="records", schema=Acceptance, answer="papertrail.records.verdict:accept"
)  # fmt: skip


def why() -> None:
    """Launch `why`: the options of an experiment are options of the question about it."""
    words = sys.argv[1:]
    asked = [word for word in words if word not in cli.HELP]
    try:
        # The stanza names conf/why.yaml; the options mean what they mean to the experiment itself.
        options = {key: value for key, value in cli.paired(asked) if key != "config"}
        name = options.get("experiment")
        experiment = None if name is None else find(name)
    except BadInput as error:
        sys.exit(cli.complain("why", error, cli.USAGE))
    if experiment is None:
        return cli.launch(WHY)
    conf = f"--config={cli.CONF / f'{name}.yaml'}"
    helped = [word for word in words if word in cli.HELP]
    return cli.launch(
        _about(experiment), [conf, *(f"--{k}={v}" for k, v in options.items()), *helped]
    )


def _about(experiment: Experiment) -> Command:
    schema = make_dataclass(
        "WhyConfig", [], bases=(experiment.schema, Why), frozen=True, kw_only=True
    )
    return Command(name="why", study=experiment.study, schema=schema, answer=WHY.answer)


def find(name: str) -> Experiment:
    """The experiment of that name; BadInput listing all if there is none."""
    known = experiments()
    if name not in known:
        raise BadInput(f"experiment: none is called {name!r}; there are {', '.join(sorted(known))}")
    return known[name]
