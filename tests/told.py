"""An experiment with an option of every kind, and the identities of what it is told."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest

from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import identify


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    lr: float = 0.1
    device: int = 0
    """No infrastructure, though it is named like one."""


@dataclass(frozen=True, kw_only=True)
class Config:
    optimizer: Optimizer = field(default_factory=Optimizer)
    count: int = 7
    share: float = 0.5
    either: int | float = 3
    flag: bool = False
    text: str = ""
    maybe: float | None = None
    level: Literal[1, 2] = 1
    rates: tuple[float, ...] = ()
    pair: tuple[int, float] = (1, 0.5)
    names: set[str] = field(default_factory=set)
    numbers: dict[str, float] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"


EXPERIMENT = Experiment(
    name="told", study="s", schema=Config, verb="m:f", infrastructure=("device",)
)


def told(*argv: str) -> str:
    """Identity of what a command line means."""
    return identify(EXPERIMENT, cli.parse(EXPERIMENT, argv)[0]).digest


def held(**values: Any) -> str:
    """Identity of a config made in Python."""
    return identify(EXPERIMENT, replace(Config(), **values)).digest


def refusal(**values: Any) -> str:
    with pytest.raises(BadInput) as caught:
        held(**values)
    return str(caught.value)
