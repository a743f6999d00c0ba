"""The noun that everything else turns on: a named, frozen question and the verb that answers it.

Declared without importing torch or mlflow, so that a typo answers at once: the verb is named by
its address ("papertrail.monotone.train:train") and loaded when it is called.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from types import MappingProxyType
from typing import Any, TypeVar

from papertrail.core.project import PACKAGE

C = TypeVar("C")


@dataclass(frozen=True)
class Question:
    """An experiment under a config: what one run answers, what another builds on."""

    experiment: "Experiment"
    config: Any


def _no_upstream(config: Any) -> Mapping[str, Question]:
    return {}


def _no_data(config: Any) -> Mapping[str, str]:
    return {}


def _no_horizon(config: Any) -> str:
    return ""


def _none_unused(config: Any) -> tuple[str, ...]:
    return ()


def _seed_label(config: Any) -> str:
    return f"seed {config.seed}" if hasattr(config, "seed") else ""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a person can type: a name, the schema of its options, and who answers."""

    name: str
    """Entry point, MLproject stanza and conf file carry this name."""
    study: str
    """The paper it belongs to; also where its presets are looked up."""
    schema: type[Any]
    """Frozen keyword-only dataclass: the one list of options."""
    answer: str
    """`package.module:function`, called as f(command, config, execution) by `cli.launch`."""


@dataclass(frozen=True, kw_only=True)
class Experiment(Command):
    """A command whose answer is a run: its verb `f(config) -> None` logs to the open run."""

    verb: str
    """`package.module:function`, imported when the experiment runs."""
    show: str = "papertrail.records.report:headline"
    """`package.module:function`, prints what a person wants to see of a finished run."""
    label: Callable[[Any], str] = _seed_label
    """What tells its runs apart at a glance, behind its name in the UI."""
    answer: str = "papertrail.records.report:answer"
    """Gets the result and shows it."""
    revision: int = 1
    """Raised by hand when the code changes what a run means; every older run is then void."""
    infrastructure: tuple[str, ...] = ()
    """Dotted paths of options that say where or how fast, not what; left out of the identity."""
    neutral: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Option added later -> the value at which it changes nothing; left out at that value."""
    unused: Callable[[Any], tuple[str, ...]] = _none_unused
    """Dotted paths of options or sections that decide nothing under this very config."""
    upstream: Callable[[Any], Mapping[str, Question]] = _no_upstream
    """The runs that `config` builds on, by role."""
    data: Callable[[Any], Mapping[str, str]] = _no_data
    """Dotted path of an option that names data -> digest of that data's content."""

    code: tuple[str, ...] = ()
    """Modules that the verb looks up by name: its imports do not show that it depends on them."""
    stays: bool = False
    """Whether it stays in the process of who typed it, even if that has a cluster: a study, which
    asks for other runs, or a table, which draws them."""
    horizon: Callable[[Any], str] = _no_horizon
    """Dotted path of the option that counts optimizer steps, where a longer run continues a shorter
    one; empty where the schedule depends on how long the run is."""

    def title(self, config: Any) -> str:
        """Name of a run in the UI."""
        return " ".join(filter(None, [self.name, self.label(config)]))

    def __call__(self, config: Any) -> None:
        """Run the verb in the open run."""
        load(self.verb)(config)


def load(address: str) -> Callable[..., Any]:
    """The function at `package.module:function`."""
    module, _, function = address.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def narrow(config: Any, to: type[C], **changes: Any) -> C:
    """The part of `config` that schema `to` also has, with `changes` laid over it.

    How one experiment asks for another: the sections that both declare are handed on as they are.
    """
    shared = {f.name: getattr(config, f.name) for f in fields(to) if hasattr(config, f.name)}  # type: ignore[arg-type]
    return to(**(shared | changes))


def experiments() -> dict[str, Experiment]:
    """Every experiment of every study, by name: a package declares them in its config module."""
    found: dict[str, Experiment] = {}
    for path in sorted(PACKAGE.glob("*/config.py")):
        module = import_module(f"papertrail.{path.parent.name}.config")
        declared = (value for value in vars(module).values() if isinstance(value, Experiment))
        found |= {experiment.name: experiment for experiment in declared}
    return found
