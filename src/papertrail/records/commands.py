"""What can be typed about runs that stand: why one is (not) reused, and verdicts on them.

Imports neither torch nor mlflow, so that a typo answers at once.
"""

import sys
from dataclasses import dataclass, make_dataclass, replace

from papertrail.core.errors import BadInput
from papertrail.core.question import cli, layers
from papertrail.core.question.experiment import Command, Experiment, experiments


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


@dataclass(frozen=True, kw_only=True)
class Registration(Why):
    """Gives a finished model a name and an alias: models:/NAME@ALIAS."""

    name: str = ""
    """Of the registered model; else STUDY.MODEL.WHICH. No / and no :, which MLflow refuses."""
    alias: str = ""
    """Points at this version; else its seed, as seed42."""
    move: bool = False
    """Take the alias from the run that it points at."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """A folder of runs that checks itself: BagIt with SHA-256."""

    folder: str = ""
    """Where it is, or will be."""
    plan: bool = False
    """Only say how many runs and bytes it is about."""


@dataclass(frozen=True, kw_only=True)
class Exporting(Archive):
    """Writes runs and everything that they were built on into a new folder."""

    study: str = ""
    """All runs of a study."""
    ids: tuple[str, ...] = ()
    """Instead of a study: these runs."""
    unusable: bool = False
    """Also those that are no answer: failed, interrupted, invalidated."""


@dataclass(frozen=True, kw_only=True)
class Sync:
    """Sends what waits on disk since the store was away, or since a process was killed."""

    plan: bool = False
    """Only say what waits."""
    run: str = ""
    """Only what this run left: its id."""


WHY = Command(
    name="why", study="records", schema=Why, answer="papertrail.records.explain:answer"
)  # fmt: skip
REGISTER = Command(
    name="register", study="records", schema=Registration,
    answer="papertrail.records.registry:answer",
)  # fmt: skip
EXPORT = Command(
    name="export", study="records", schema=Exporting, answer="papertrail.records.archive:export"
)  # fmt: skip
IMPORT = Command(
    name="import", study="records", schema=Archive, answer="papertrail.records.archive:import_"
)  # fmt: skip
SYNC = Command(
    name="sync", study="records", schema=Sync, answer="papertrail.records.syncing:sync"
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
    _launch_about(WHY)


def register() -> None:
    """Launch `register`, which can be told a run by the options that it answers."""
    _launch_about(REGISTER)


def _launch_about(command: Command) -> None:
    words = sys.argv[1:]
    asked = [word for word in words if word not in layers.HELP]
    try:
        # The stanza names our own conf file; the options mean what they mean to the experiment.
        options = {key: value for key, value in layers.paired(asked) if key != "config"}
        name = options.get("experiment")
        experiment = None if name is None else find(name)
    except BadInput as error:
        sys.exit(cli.complain(command.name, error, cli.USAGE))
    if experiment is None:
        return cli.launch(command)
    conf = f"--config={layers.CONF / f'{name}.yaml'}"
    helped = [word for word in words if word in layers.HELP]
    return cli.launch(
        _about(experiment, command), [conf, *(f"--{k}={v}" for k, v in options.items()), *helped]
    )


def _about(experiment: Experiment, command: Command) -> Command:
    bases = (experiment.schema, command.schema)
    schema = make_dataclass("AboutConfig", [], bases=bases, frozen=True, kw_only=True)
    return replace(command, study=experiment.study, schema=schema)


def find(name: str) -> Experiment:
    """The experiment of that name; BadInput listing all if there is none."""
    known = experiments()
    if name not in known:
        raise BadInput(f"experiment: none is called {name!r}; there are {', '.join(sorted(known))}")
    return known[name]
