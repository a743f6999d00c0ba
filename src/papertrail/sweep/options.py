"""What a sweep can be asked for, beside the options of its target. Imports no optuna."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import NonNegativeInt, PositiveInt

Percent = Annotated[float, Gt(0), Lt(100)]
Choice = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """The values that one option takes: from low to high, or one of several."""

    low: float | None = None
    """Smallest value of a number."""
    high: float | None = None
    """Largest value of a number."""
    log: bool = False
    """Whether numbers are drawn evenly on a logarithmic scale."""
    step: float | None = None
    """Numbers are `low` plus multiples of it; without one, whole numbers go by 1."""
    choices: tuple[Choice, ...] = ()
    """Values as they would be typed, in place of low and high."""

    @property
    def problem(self) -> str:
        """What is wrong with it whatever the option is, and what to do; empty if nothing is."""
        if self.choices:
            return self._of_choices()
        if self.low is None or self.high is None:
            return "has neither choices nor low and high; give one or the other"
        return self._of_range(self.low, self.high)

    def _of_choices(self) -> str:
        if (self.low, self.high, self.step, self.log) != (None, None, None, False):
            return "choices go without low, high, log and step; drop one or the other"
        spelled = [repr(choice) for choice in self.choices]
        twice = len(set(spelled)) < len(spelled)
        return f"a choice is there twice ({', '.join(spelled)}); leave one out" if twice else ""

    def _of_range(self, low: float, high: float) -> str:
        if low > high:
            return f"low is above high ({low:g} > {high:g}); swap them"
        if self.log and low <= 0:
            return f"log needs low above 0 ({low:g}); raise it or drop log"
        if self.step is not None and self.step <= 0:
            return f"step must be above 0 ({self.step:g})"
        if self.step is not None and self.log:
            return f"step and log exclude each other (step {self.step:g}); drop one"
        return ""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """How the next point is chosen."""

    name: Literal["tpe", "gp", "nsgaii", "random", "grid"] = "tpe"
    """tpe: tree-structured Parzen estimators; gp: a Gaussian process; nsgaii: a genetic algorithm
    for several objectives; random; grid: every point of the space once."""
    seed: NonNegativeInt = 0
    """Of the choice: with one worker, the same seed tries the same points."""
    startup: PositiveInt = 10
    """Random points before tpe and gp begin to learn; individuals of a generation of nsgaii."""


@dataclass(frozen=True, kw_only=True)
class Pruner:
    """Which trainings end before their last step. It needs a target that trains by itself, and one
    objective, which that training logs at its validations."""

    name: Literal["none", "median", "percentile", "hyperband"] = "none"
    """median: those worse than the median of the others at the same step; percentile: those not
    among the best; hyperband: successive halving with several first budgets."""
    startup: NonNegativeInt = 4
    """Complete trials before median and percentile prune any."""
    warmup: NonNegativeInt = 0
    """Optimizer steps in which nothing is pruned; hyperband's smallest budget, if not 0."""
    percentile: Percent = 25.0
    """Share of trials that percentile lets go on."""
    reduction: Annotated[int, Ge(2)] = 3
    """Hyperband lets one in so many go on."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Tries the target under many configs, each a run of its own, and finds the best."""

    target: str
    """The experiment that is tried, by name, or PACKAGE.MODULE:NAME where it is declared; what it
    has options for, the sweep has too."""
    space: Mapping[str, Dimension] = field(default_factory=dict)
    """Option of the target -> its values: {train.lr: {low: 1e-4, high: 1e-1, log: true}}, or
    {constraint.init: {choices: [abs, relu]}}."""
    objectives: Mapping[str, Literal["minimize", "maximize"]] = field(default_factory=dict)
    """Metric of the target's run -> minimize or maximize; several have a Pareto front."""
    sampler: Sampler = field(default_factory=Sampler)
    """Which points are tried."""
    pruner: Pruner = field(default_factory=Pruner)
    """Which trials end early."""
    trials: PositiveInt = 30
    """Trials that are to be complete or pruned; of a grid, at most as many as it has points."""
    baseline: bool = True
    """Begin with the target as its options stand, where that is a point of the space."""
    failures: PositiveInt = 10
    """Points that may fail, each retried twice, before the sweep gives up."""
    storage: str = ""
    """Address of the database that workers share, without a password (PGPASSWORD has it). Empty:
    the tracking store's, if that is PostgreSQL; else a SQLite file in the store's work folder."""
    write_preset: str = ""
    """Also write the best point here, as a preset: conf/tuned/NAME.yaml."""
    plan: bool = False
    """Print the space and what stands of the sweep, and stop."""


HOW = ("failures", "storage", "write_preset", "plan")
"""Options that do not decide what comes out."""
