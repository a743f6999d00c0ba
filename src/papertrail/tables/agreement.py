"""How far two runs of one question agree, metric by metric, and the audit that keeps it.

A relative difference is |a - b| / max(|a|, |b|): symmetric, 0 for equal numbers only, at most 2.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, NonNegativeInt

Number = float | str
"""A metric's value; NaN and infinity as words."""


class Frozen(BaseModel):
    """Written once, read as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Compared(Frozen):
    """One metric on both sides."""

    standing: Number | None
    """None where the run has no such metric."""
    recomputed: Number | None
    difference: float | None
    """Relative; None where there is none to tell: only one side is there, or is a number."""


class Worst(NamedTuple):
    """The metric in which two runs differ most."""

    metric: str
    compared: Compared

    def within(self, tolerance: int | float) -> bool:
        return self.compared.difference is not None and self.compared.difference <= tolerance


class Audited(Frozen):
    """One cell: the run that stands and what came out when it was computed again."""

    labels: dict[str, str | int]
    experiment: str
    identity: str
    run_id: str
    """The run that stands."""
    host: str
    """Where it was computed; empty where it does not say."""
    command: str
    why: str
    """Why it could not be computed again; empty where it was."""
    below: str
    """Where it differs: the run furthest upstream that differs too, if any does."""
    seconds: float
    """That the recomputation took, with those runs upstream that nobody had recomputed before."""
    metrics: dict[str, Compared]

    @property
    def title(self) -> str:
        return " ".join([self.experiment, *(f"{k}={v}" for k, v in self.labels.items())])

    @property
    def worst(self) -> Worst | None:
        return worst(self.metrics)

    def num_outside(self, tolerance: int | float) -> int:
        """Metrics that do not pass."""
        return sum(not Worst(key, one).within(tolerance) for key, one in self.metrics.items())

    def verdict(self, tolerance: int | float) -> Literal["reproduced", "differs", "failed"]:
        if self.why:
            return "failed"
        found = self.worst
        return "reproduced" if found is None or found.within(tolerance) else "differs"


class Audit(Frozen):
    """results/audit.json: which cells were drawn and how each agreed."""

    schema_version: Literal[1] = 1
    table: str
    num_standing: NonNegativeInt
    """Runs of the grid that stood: what was drawn from."""
    num_planned: NonNegativeInt
    """Runs of the grid."""
    num_computed: NonNegativeInt
    """Runs computed again, those upstream of the cells among them."""
    audit_seed: NonNegativeInt
    tolerance: float
    host: str
    """Where the cells were computed again."""
    cells: tuple[Audited, ...]

    @property
    def failures(self) -> list[Audited]:
        """Cells that did not reproduce, whichever way."""
        return [cell for cell in self.cells if cell.verdict(self.tolerance) != "reproduced"]

    @property
    def largest(self) -> tuple[Audited, Worst] | None:
        """The largest difference that is a number, and where it is; None if nothing compares."""
        found = [
            (cell, Worst(metric, compared))
            for cell in self.cells
            for metric, compared in cell.metrics.items()
            if compared.difference is not None
        ]
        return max(found, key=lambda one: one[1].compared.difference or 0.0, default=None)

    @property
    def num_incomparable(self) -> int:
        """Metrics that only one side has, or has as a number."""
        return sum(one.difference is None for cell in self.cells for one in cell.metrics.values())


def compare(
    standing: Mapping[str, Number], recomputed: Mapping[str, Number]
) -> dict[str, Compared]:
    """Every metric that either side has."""
    return {
        key: Compared(
            standing=(a := standing.get(key)),
            recomputed=(b := recomputed.get(key)),
            difference=relative(a, b),
        )
        for key in sorted(standing.keys() | recomputed.keys())
    }


def relative(a: Number | int | None, b: Number | int | None) -> float | None:
    """The relative difference of two values; None between a number and what is none."""
    if a == b:
        return 0.0
    if not isinstance(a, (int, float)) or not isinstance(b, (int, float)):
        return None
    largest = max(abs(a), abs(b))
    return abs(a / largest - b / largest)  # divided first: the difference itself may overflow


def worst(metrics: Mapping[str, Compared]) -> Worst | None:
    """The first of the metrics that do not compare, else the largest difference."""
    ranked = [Worst(metric, compared) for metric, compared in metrics.items()]

    def weight(one: Worst) -> float:
        difference = one.compared.difference
        return float("inf") if difference is None else difference

    return max(ranked, key=weight, default=None)
