"""What can be typed about the jobs of a store: what they do, and that they shall stop.

Imports neither torch, nor mlflow, nor submitit, so that a typo answers at once.
"""

from dataclasses import dataclass

from pydantic import PositiveFloat

from papertrail.core.question.experiment import Command


@dataclass(frozen=True, kw_only=True)
class Status:
    """Shows the SLURM jobs that compute runs of this store."""

    hours: PositiveFloat = 24.0
    """Jobs that ended are shown if they were handed over so recently."""


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """Stops SLURM jobs of this store, and what waits for them."""

    job: str = ""
    """A job, 12 or 12_3, or all of an array, 12."""
    all: bool = False
    """All of them; commands that wait for jobs hand no more over."""


STATUS = Command(
    name="status", study="cluster", schema=Status, answer="papertrail.cluster.jobs:status"
)  # fmt: skip
CANCEL = Command(
    name="cancel", study="cluster", schema=Cancellation, answer="papertrail.cluster.jobs:cancel"
)  # fmt: skip
