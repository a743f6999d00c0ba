"""What a SLURM job is given: the part of a run's execution that only a cluster has.

Imported by the parser of every command: neither torch, nor mlflow, nor submitit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

EVERY = "default"
"""Stands for all experiments that are not named."""


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one run needs of a node."""

    gpus: NonNegativeInt = 0
    """GPUs."""
    cpus: PositiveInt = 1
    """CPU cores."""
    memory_gb: PositiveFloat = 4.0
    """Main memory in GB."""
    minutes: PositiveInt = 60
    """Time limit; a run that needs longer writes a checkpoint and is queued again."""


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """How runs are handed to SLURM."""

    partition: str = ""
    """Partition; empty for the cluster's default."""
    account: str = ""
    """Account that pays."""
    qos: str = ""
    """Quality of service."""
    resources: Mapping[str, Resources] = field(default_factory=dict)
    """Experiment -> what one run of it needs; `default` stands for all others."""
    options: Mapping[str, str | int] = field(default_factory=dict)
    """More options of sbatch, by their long names: {constraint: a100, mail-type: FAIL}."""
    max_jobs: PositiveInt = 200
    """Jobs of this command that are queued or run at one time; the others wait here."""
    pack: PositiveInt = 1
    """Runs that share the resources of one job, and its GPU."""
    requeues: NonNegativeInt = 20
    """How often a run that reached its time limit is queued again."""
    signal_seconds: PositiveInt = 120
    """Seconds before the time limit at which a run is asked to write its checkpoint."""
    poll_seconds: PositiveFloat = 5.0
    """Seconds between two looks at the queue."""

    def of(self, experiment: str) -> Resources:
        """What a run of this experiment is given."""
        return self.resources.get(experiment) or self.resources.get(EVERY) or Resources()
