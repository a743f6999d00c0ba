"""The study as the stages of the original pipeline: what of it stands, and what the rest takes.

Time comes from finished runs of the same size; where there is none, from arithmetic, which says so.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from papertrail.core.answering.standing import Standing, standings
from papertrail.core.question.experiment import Question
from papertrail.core.question.identity import identify
from papertrail.core.storage.store import Store
from papertrail.core.writing import parts
from papertrail.data.config import CORPUS
from papertrail.monotone import estimate, footprint
from papertrail.monotone.config import MONOTONE
from papertrail.monotone.estimate import Size
from papertrail.monotone.schemas import StudyConfig
from papertrail.tables import cost
from papertrail.tables.catalog import Need
from papertrail.tables.cost import Forecast
from papertrail.tables.history import Cost, upstream
from papertrail.tables.planned import Planned

STAGES: Mapping[str, tuple[str, ...]] = {
    "0_setup": ("corpus", "pretrain"),
    "1_apply_monotonicity": ("monotonize",),
    "2_train_baseline": ("train baseline",),
    "3_train_monotonic": ("train",),
    "4_evaluate": ("weights", "perplexity", "benchmarks"),
    "5_uat": ("trigger", "uat"),
    "6_hotflip": ("attack", "transfer", "hotflip", "gcg", "pgd"),
    "7_aggregate": ("monotone",),
}
"""Flag of each stage -> the experiments whose runs it computes."""
SIZELESS = ("constraint.", "source.", "data.revision")
SIZELESS_ENDS = (".lr", ".warmup", ".decay", ".weight_decay", ".clip", ".protocol", ".threshold",
                 ".threshold_nats", ".checkpoint_seconds")  # fmt: skip
"""Options that hardly change how long a run takes."""
EFFICIENCY = 0.4
"""Share of the speed of a bare matrix product that a whole step reaches: 0.35 to 0.55 on two CPU
cores and the smallest model; published trainings on accelerators reach as much."""
START_SECONDS = 2.0  # of one run: opening it, loading a model, keeping artifacts
Source = Literal["finished runs", "arithmetic", "unknown"]


@dataclass(frozen=True)
class Price:
    """What one missing run takes alone."""

    source: Source
    seconds: float
    """0 where the source is unknown."""
    num_bytes: float | None
    """Of its artifacts; None where the model's size is not known."""


@dataclass(frozen=True)
class Stage:
    """The runs of one stage."""

    name: str
    states: Mapping[str, int]
    """finished, running, interrupted, failed, missing -> number of runs."""
    prices: tuple[Price, ...]
    """Of those that would be computed."""

    def seconds(self, source: Source) -> float:
        return math.fsum(price.seconds for price in self.prices if price.source == source)

    def count(self, source: Source) -> int:
        return sum(price.source == source for price in self.prices)

    @property
    def num_bytes(self) -> float | None:
        known = [price.num_bytes for price in self.prices if price.num_bytes is not None]
        return math.fsum(known) if len(known) == len(self.prices) else None


@dataclass(frozen=True)
class Plan:
    """Every run that the study needs, once, and what the store knew of it."""

    runs: tuple[Planned, ...]
    forecast: Forecast
    size: Size | None

    @property
    def missing(self) -> list[Planned]:
        """Those that would be computed, in the order of the stages."""
        chosen = [one for one in self.runs if one.digest in self.forecast.missing]
        return sorted(chosen, key=lambda one: list(STAGES).index(stage_of(one.need.question)))

    @cached_property
    def num_bytes(self) -> float | None:
        """Artifacts of all missing runs."""
        if self.size is None:
            return None
        return math.fsum(footprint.stored(one.need.question, self.size) for one in self.missing)

    @property
    def trains(self) -> bool:
        """Whether a model is still to be trained."""
        return any(one.need.question.experiment.name in ("train", "pretrain")
                   for one in self.missing)  # fmt: skip

    def corpus_run(self) -> str:
        """The run that prepared the text, or empty."""
        names = (one for one in self.runs if one.need.question.experiment is CORPUS)
        return next((one.answer for one in names), "")

    def price(self, one: Planned, operations_per_second: float | None) -> Price:
        """From finished runs of the same size if there are any, else by arithmetic."""
        question, told = one.need.question, self.forecast.costs.get(one.digest)
        num_bytes = None if self.size is None else footprint.stored(question, self.size)
        if told is not None and told.seconds is not None and _same_size(told, question):
            return Price("finished runs", told.seconds, num_bytes)
        operations = None if self.size is None else estimate.operations(question, self.size)
        if operations is None or operations_per_second is None:
            return Price("unknown", 0.0, num_bytes)
        seconds = START_SECONDS + operations / (EFFICIENCY * operations_per_second)
        return Price("arithmetic", seconds, num_bytes)

    def stages(self, operations_per_second: float | None = None) -> list[Stage]:
        """All eight, in order; without a measured speed no time comes from arithmetic."""
        priced = {one.digest: self.price(one, operations_per_second) for one in self.missing}
        return [self._stage(name, priced) for name in STAGES]

    def _stage(self, name: str, priced: Mapping[str, Price]) -> Stage:
        mine = [one for one in self.runs if stage_of(one.need.question) == name]
        states: dict[str, int] = {}
        for one in mine:
            state = state_of(one.standing)
            states[state] = states.get(state, 0) + 1
        prices = [priced[one.digest] for one in mine if one.digest in priced]
        return Stage(name, states, tuple(prices))

    def per_seed(self, operations_per_second: float | None) -> dict[int, list[Price]]:
        """Seed -> what its missing runs take; what all seeds share is in none."""
        found: dict[int, list[Price]] = {}
        for one in self.missing:
            seed = getattr(one.need.question.config, "seed", None)
            if seed is not None:
                found.setdefault(seed, []).append(self.price(one, operations_per_second))
        return found


def plan(config: StudyConfig, store: Store | None, size: Size | None = None) -> Plan:
    """One look at the store; None where there is no store yet, in which nothing stands."""
    everything = Question(MONOTONE, config)
    runs = _everything_below(everything, store)
    known = cost.forecast(runs[:1], store) if store else _all_missing(runs)
    wanted = [one for one in runs if one.standing.usable or one.standing.running
              or one.digest in known.missing]  # fmt: skip
    return Plan(tuple(wanted), known, size)


def _everything_below(top: Question, store: Store | None) -> list[Planned]:
    """`top` and all that it builds on, each run once; one look at the store for all of them."""
    asked: dict[tuple[str, Any], Question] = {}
    level = [top]
    while level:
        new = {(one.experiment.name, one.config): one for one in level}
        level = [need for key, one in new.items() if key not in asked for need in upstream(one)]
        asked |= new
    questions = list(asked.values())
    found = standings(questions, store) if store else [_never(one) for one in questions]
    runs = {
        one.identity.digest: Planned(Need({}, question), one)
        for question, one in zip(questions, found, strict=True)
    }
    return list(runs.values())


def _never(question: Question) -> Standing:
    return Standing(identify(question.experiment, question.config))


def _all_missing(runs: Sequence[Planned]) -> Forecast:
    missing = {one.digest: one for one in runs}
    return Forecast(missing, {digest: Cost(None) for digest in missing}, {})


def stage_of(question: Question) -> str:
    """The flag of the stage that computes a run."""
    name = question.experiment.name
    if name == "train" and question.config.constraint.kind == "none":
        name = "train baseline"
    return next(flag for flag, names in STAGES.items() if name in names)


def state_of(standing: Standing) -> str:
    """As the store calls it; interrupted is what failed or was stopped and can go on."""
    record = standing.interrupted
    if standing.state != "failed" or record is None:
        return standing.state
    folder = record.store.work / standing.identity.digest
    begun = any((folder / "checkpoints").glob("*.ckpt")) or parts.num_parts(folder)
    return "interrupted" if begun else "failed"


def _same_size(told: Cost, question: Question) -> bool:
    """Whether the finished runs differ only in what hardly changes the time."""
    searched = question.experiment.name == "train" and question.config.constraint.kind == "matched"
    return all(_sizeless(key) for key in told.differing) and not (
        searched and "constraint.kind" in told.differing
    )


def _sizeless(key: str) -> bool:
    return key.startswith(SIZELESS) or key.endswith(SIZELESS_ENDS)


def totals(prices: Iterable[Price]) -> Iterator[tuple[Source, int, float]]:
    """Source -> number of runs and their seconds, for those sources that there are."""
    found = list(prices)
    sources: tuple[Source, ...] = ("finished runs", "arithmetic", "unknown")
    for source in sources:
        of_it = [price.seconds for price in found if price.source == source]
        if of_it:
            yield source, len(of_it), math.fsum(of_it)
