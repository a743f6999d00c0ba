"""What the study still has to compute, stage by stage, and what that will take."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import fsum
from typing import Any

from papertrail.core.answering.standing import standings
from papertrail.core.digests import one_look
from papertrail.core.progress import duration
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Experiment, Question, narrow
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import track
from papertrail.records import report
from papertrail.tables import cost
from papertrail.tables.catalog import Need
from papertrail.tables.planned import Planned
from papertrail.world.config import (
    BASE,
    WORLD,
    WORLD_DATA,
    study_evaluations,
    study_representations,
    study_trainings,
)
from papertrail.world.schemas import DataConfig, StudyConfig


@dataclass(frozen=True)
class Stage:
    """Runs of one kind, what stands of them, and the time that the others take alone."""

    name: str
    states: Counter[str]
    seconds: float
    num_unknown: int
    """Missing runs of which no finished run tells how long they take."""

    def __str__(self) -> str:
        done, total = self.states["finished"], self.states.total()
        if done == total:
            return f"{self.name:<16}{total:>6} finished"
        return (
            f"{self.name:<16}{done:>6} of {total} finished; {price(self.seconds, self.num_unknown)}"
        )


def price(seconds: float, num_unknown: int) -> str:
    """What is predicted, and of how many runs nothing is: that is not 0 seconds."""
    unknown = f"{cost.runs(num_unknown)} of unknown cost"
    if not num_unknown:
        return duration(seconds)
    return f"{duration(seconds)} + {unknown}" if seconds else unknown


def answer(experiment: Experiment, config: StudyConfig, execution: Execution) -> None:
    """Print the plan, and unless that is all that was asked for, compute what is missing."""
    store = connect()
    found = stages(config, store)
    print("\n".join(map(str, found)), flush=True)
    if not config.plan:
        return report.answer(experiment, config, execution)
    total = price(fsum(stage.seconds for stage in found), sum(one.num_unknown for one in found))
    print(f"all of it, on one worker: {total}; leave out plan to compute it")
    track.conclude(store, "world (plan)", "\n".join(map(str, found)))
    return None


def stages(config: StudyConfig, store: Store) -> list[Stage]:
    """Every stage in the order in which it is computed."""
    named = list(_named(config))
    with one_look():  # thousands of questions share what they build on
        found = standings([question for _, question in named], store)
        planned = [Planned(Need({}, q), one) for (_, q), one in zip(named, found, strict=True)]
        costs = cost.forecast(planned, store).costs
    by_stage: dict[str, list[Planned]] = {}
    for (name, _), one in zip(named, planned, strict=True):
        by_stage.setdefault(name, []).append(one)
    return [_stage(name, runs, costs) for name, runs in by_stage.items()]


def _stage(name: str, planned: list[Planned], costs: Any) -> Stage:
    predicted = [costs[one.digest].seconds for one in planned if one.digest in costs]
    return Stage(
        name=name,
        states=Counter(one.standing.state for one in planned),
        seconds=fsum(seconds for seconds in predicted if seconds is not None),
        num_unknown=predicted.count(None),
    )


def _named(config: StudyConfig) -> Iterator[tuple[str, Question]]:
    yield "cities and rows", Question(WORLD_DATA, narrow(config, DataConfig))
    trainings = [(_kind(str(labels["model"])), q) for labels, q in study_trainings(config)]
    for kind in ("base models", "specialists", "pairs"):
        yield from (one for one in trainings if one[0] == kind)
    yield from (("evaluations", question) for _, question in study_evaluations(config))
    yield from (("representations", question) for _, question in study_representations(config))
    yield "tables", Question(WORLD, config)


def _kind(model: str) -> str:
    return "base models" if model == BASE else "pairs" if "+" in model else "specialists"
