"""One run that a table needs, as the store knew it when the plan was made."""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from papertrail.core.answering.standing import Standing
from papertrail.core.question import cli
from papertrail.core.reading.record import Record
from papertrail.tables.catalog import NEVER, Need


@dataclass(frozen=True)
class Planned:
    """One need and what the store knew of it when the plan was made."""

    need: Need
    standing: Standing

    @property
    def digest(self) -> str:
        return self.standing.identity.digest

    @property
    def title(self) -> str:
        """Experiment and labels; for a run that the grid does not name, its name in the UI."""
        question = self.need.question
        if not self.need.labels:
            return question.experiment.title(question.config)
        labels = (f"{key}={value}" for key, value in self.need.labels.items())
        return " ".join([question.experiment.name, *labels])

    @property
    def answer(self) -> str:
        """Id of the run that gives the numbers; empty where there are none."""
        return self.standing.usable.run_id if self.standing.usable else ""

    @property
    def run_id(self) -> str:
        record = self.standing.usable or self.standing.running
        return record.run_id if record else ""

    @property
    def cause(self) -> str:
        """Why there is no result, in one clause; empty where there is one."""
        if self.standing.usable:
            return ""
        if self.standing.running:
            return f"run {self.run_id} is still being computed"
        return self.standing.why or self.standing.blocked or NEVER

    @property
    def doubts(self) -> list[str]:
        """What speaks against the run although it answers."""
        return list(filter(None, (self.standing.doubled, self.standing.orphaned)))

    @cached_property
    def metrics(self) -> Mapping[str, float]:
        """The numbers of the run, infinity among them."""
        return _metrics(self.standing.usable) if self.standing.usable else {}

    @property
    def failed_gates(self) -> str:
        """Sentences of the controls that did not hold; a gate that reads NaN did not hold."""
        said = self.standing.usable.failed_gates if self.standing.usable else ""
        unsaid = [
            f"{name}: reads {value:g}, which is not passed"
            for name, value in self.metrics.items()
            if name.startswith("gate/") and value != 1 and f"{name[5:]}: " not in said
        ]
        return "; ".join(filter(None, [said, *unsaid]))

    @property
    def command(self) -> str:
        """What a person types to compute this run alone."""
        return cli.command(self.need.question.experiment, self.need.question.config)


def _metrics(record: Record) -> dict[str, float]:
    # MLflow's SQL stores keep infinity as the largest float there is.
    return {
        key: math.copysign(math.inf, value) if abs(value) >= sys.float_info.max else value
        for key, value in record.metrics.items()
    }
