"""What missing runs will cost, with what they build on, and what a budget pays for.

What no finished run tells stays unknown; it is never 0.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from papertrail.core.answering.standing import standings
from papertrail.core.progress import duration
from papertrail.core.storage.store import Store
from papertrail.tables.catalog import Need
from papertrail.tables.history import Cost, Options, histories, options_of, predicted, upstream
from papertrail.tables.planned import Planned


@dataclass(frozen=True)
class Total:
    """The predicted time of several runs, one after the other."""

    num_runs: int
    num_unknown: int
    seconds: float
    """Of those that are known."""
    siblings: frozenset[str]

    def __str__(self) -> str:
        unknown = f"{runs(self.num_unknown)} {'has' if self.num_unknown == 1 else 'have'}"
        if self.num_runs == self.num_unknown:
            return f"unknown: {unknown} no finished sibling"
        known = f"about {duration(self.seconds)} on 1 worker, predicted from "
        known += runs(len(self.siblings))
        return known if not self.num_unknown else f"{known}; {unknown} no finished sibling"


@dataclass(frozen=True)
class Forecast:
    """The runs that a grid lacks, with all that they build on, and what each will cost."""

    missing: Mapping[str, Planned]
    """Identity -> every run that would be computed."""
    costs: Mapping[str, Cost]
    built_on: Mapping[str, tuple[str, ...]]
    """Identity -> identities of the missing runs that it builds on directly."""

    def closure(self, digest: str) -> set[str]:
        """A missing run and everything missing below it."""
        found: set[str] = set()
        waiting = [digest] if digest in self.missing else []
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += self.built_on[one]
        return found

    def below(self, planned: Sequence[Planned]) -> list[Planned]:
        """The missing runs that the grid itself does not name, but builds on."""
        named = {one.digest for one in planned}
        return [one for digest, one in self.missing.items() if digest not in named]

    def total(self, digests: Iterable[str] | None = None) -> Total:
        """The time of these runs, or of all; each is counted once."""
        chosen = set(self.costs if digests is None else digests)
        costs = [self.costs[digest] for digest in chosen]
        known = [cost.seconds for cost in costs if cost.seconds is not None]
        siblings = frozenset(run_id for cost in costs for run_id in cost.siblings)
        return Total(len(costs), len(costs) - len(known), math.fsum(known), siblings)

    def within(self, wanted: Sequence[Planned], hours: float) -> list[Planned]:
        """Those that a budget pays for: in reading order, each one that fits in what is left.

        A run that builds on missing runs brings their cost along, unless one before it paid. One
        whose cost is unknown fits in no budget.
        """
        left, paid = hours * 3600, set[str]()
        chosen = []
        for one in wanted:
            more = self.closure(one.digest) - paid
            total = self.total(more)
            if total.num_unknown == 0 and total.seconds <= left:
                left, paid = left - total.seconds, paid | more
                chosen.append(one)
        return chosen


def forecast(planned: Sequence[Planned], store: Store) -> Forecast:
    """What the missing runs of a plan will cost, with the missing runs that they build on."""
    missing, built_on = _missing_below(planned, store)
    past = histories([one.need.question for one in missing.values()], store)
    known: dict[tuple[str, Options], Cost] = {}
    costs = {}
    for digest, one in missing.items():
        question = one.need.question
        key = question.experiment.name, options_of(question.config)
        if key not in known:  # seeds of one setting cost the same
            known[key] = predicted(key[1], past[key[0]])
        costs[digest] = known[key]
    return Forecast(missing, costs, built_on)


def failed(planned: Sequence[Planned], store: Store) -> list[Planned]:
    """The runs that failed or were interrupted, among these and below; the lowest first."""
    missing, _ = _missing_below(planned, store)
    return [one for one in reversed(missing.values()) if one.standing.state == "failed"]


def _missing_below(
    planned: Sequence[Planned], store: Store
) -> tuple[dict[str, Planned], dict[str, tuple[str, ...]]]:
    """Every run without a result, down to what stands, and what each builds on directly.

    One look at the store per level.
    """
    missing: dict[str, Planned] = {}
    built_on: dict[str, tuple[str, ...]] = {}
    level = list(planned)
    while level:
        new = {one.digest: one for one in level if _costs(one) and one.digest not in missing}
        missing |= new
        needs = {digest: upstream(one.need.question) for digest, one in new.items()}
        asked = [need for some in needs.values() for need in some]
        found = standings(asked, store)
        level = [Planned(Need({}, need), one) for need, one in zip(asked, found, strict=True)]
        looked_up = iter(level)
        for digest, some in needs.items():
            below = [next(looked_up) for _ in some]
            built_on[digest] = tuple(dict.fromkeys(one.digest for one in below if _costs(one)))
    return missing, built_on


def _costs(one: Planned) -> bool:
    """Whether it would be computed: what another process computes costs us nothing."""
    return one.standing.state not in ("finished", "running")


# -- in words --------------------------------------------------------------------------------------


def runs(count: int) -> str:
    """1 run, 2 runs."""
    return f"{count} run" if count == 1 else f"{count} runs"
