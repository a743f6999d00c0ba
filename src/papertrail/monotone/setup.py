"""What is looked at before the study begins: the command, and the words of its answer.

The state of a machine is no pure function of a config, so this is a command and no experiment: it
is looked at anew each time, and nothing of it is kept. Imports neither torch nor mlflow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from papertrail.core.question.experiment import Command
from papertrail.monotone.schemas import StudyConfig

State = Literal["ok", "warning", "missing"]
FETCH = "-P fetch=true downloads it"


@dataclass(frozen=True)
class Check:
    """One thing that the study needs, and how it is about it."""

    name: str
    state: State
    """`missing` stops the study; a warning does not."""
    sentence: str
    """What is there, with its value, and what to do where it is not enough."""


@dataclass(frozen=True)
class Input:
    """Something from outside, and the way to get it where there is one."""

    check: Check
    fetch: Callable[[], object] | None = None
    """None where it is here already, or cannot be had."""
    num_bytes: float = 0.0
    """Of the download, roughly."""


def found(
    name: str,
    state: State,
    sentence: str,
    fetch: Callable[[], object] | None = None,
    num_bytes: float = 0.0,
) -> Input:
    """What a look at one input gave."""
    return Input(Check(name, state, sentence), fetch, num_bytes)


def amount(num_bytes: int | float) -> str:
    """Bytes as people say them: 50 kB, 83 MB, 45.6 GB."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes / 1e3:.3g} kB"


@dataclass(frozen=True, kw_only=True)
class SetupConfig(StudyConfig):
    """Looks at models, data, disk and memory, and says what the study will take."""

    fetch: bool = False
    """Download what the study will need and keep it in this user's caches."""
    json: str = ""
    """Write checks and stages to this file as well, for programs."""


SETUP = Command(
    name="setup", study="monotone", schema=SetupConfig, answer="papertrail.monotone.prepare:answer"
)
