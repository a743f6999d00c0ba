"""What missing runs will cost, predicted from finished runs of the same experiments.

The time of a run is its own: from start to end, without what was computed as its children
meanwhile. What no finished run tells stays unknown; it is never 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from papertrail.core import query
from papertrail.core.experiment import Question
from papertrail.core.identity import canonical, dumps, flat
from papertrail.core.query import Record
from papertrail.core.standing import Standing, standings
from papertrail.core.store import Store

if TYPE_CHECKING:
    from papertrail.tables.grid import Planned

NEAREST = 5  # siblings at the same distance: their median forgives one that was interrupted
SETTLED = ("finished", "running")  # costs us nothing: it stands, or another process computes it
Options = frozenset[tuple[str, str]]
Span = tuple[int, int]
"""Start and end in ms, as the store keeps them."""


@dataclass(frozen=True)
class Cost:
    """The predicted time of one run alone."""

    seconds: float | None
    """None where no finished run of its experiment tells."""
    siblings: tuple[str, ...] = ()
    """Ids of the runs that it is predicted from."""
    differing: tuple[str, ...] = ()
    """Options in which even the nearest of them differs, seeds aside."""


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

    questions: Mapping[str, Question]
    """Identity -> question of every run that would be computed."""
    costs: Mapping[str, Cost]
    built_on: Mapping[str, tuple[str, ...]]
    """Identity -> identities of the missing runs that it builds on directly."""

    def closure(self, digest: str) -> set[str]:
        """A missing run and everything missing below it."""
        found: set[str] = set()
        waiting = [digest] if digest in self.questions else []
        while waiting:
            one = waiting.pop()
            if one not in found:
                found.add(one)
                waiting += self.built_on[one]
        return found

    def below(self, planned: Sequence[Planned]) -> list[Question]:
        """The missing runs that the grid itself does not name, but builds on."""
        named = {one.standing.identity.digest for one in planned}
        return [one for digest, one in self.questions.items() if digest not in named]

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
            more = self.closure(one.standing.identity.digest) - paid
            total = self.total(more)
            if total.num_unknown == 0 and total.seconds <= left:
                left, paid = left - total.seconds, paid | more
                chosen.append(one)
        return chosen


def forecast(planned: Sequence[Planned], store: Store) -> Forecast:
    """What the missing runs of a plan will cost, with the missing runs that they build on."""
    questions, built_on, _ = _missing_below(planned, store)
    past = _histories(questions.values(), store)
    known: dict[tuple[str, Options], Cost] = {}
    costs = {}
    for digest, question in questions.items():
        key = question.experiment.name, _options(_spelled(question.config))
        if key not in known:  # seeds of one setting cost the same
            known[key] = _predicted(key[1], past[key[0]])
        costs[digest] = known[key]
    return Forecast(questions, costs, built_on)


def failed(planned: Sequence[Planned], store: Store) -> list[Question]:
    """The runs that failed or were interrupted, among these and below; the lowest first."""
    questions, _, states = _missing_below(planned, store)
    tried = [digest for digest in questions if states[digest] == "failed"]
    return [questions[digest] for digest in reversed(tried)]


def _missing_below(
    planned: Sequence[Planned], store: Store
) -> tuple[dict[str, Question], dict[str, tuple[str, ...]], dict[str, str]]:
    """Every run without a result, down to what stands, with its state: one look per level."""
    questions: dict[str, Question] = {}
    edges: dict[str, tuple[str, ...]] = {}
    judged: dict[str, str] = {}
    level: list[tuple[Question, Standing]] = [(one.need.question, one.standing) for one in planned]
    while level:
        new = {
            found.identity.digest: question
            for question, found in level
            if found.state not in SETTLED and found.identity.digest not in questions
        }
        questions |= new
        judged |= {found.identity.digest: found.state for _, found in level}
        needs = {above: _upstream(question) for above, question in new.items()}
        flat_needs = [need for some in needs.values() for need in some]
        below = standings(flat_needs, store)
        looked_up = iter(below)
        for above, some in needs.items():
            states = [next(looked_up) for _ in some]
            open_below = (one.identity.digest for one in states if one.state not in SETTLED)
            edges[above] = tuple(dict.fromkeys(open_below))
        level = list(zip(flat_needs, below, strict=True))
    return questions, edges, judged


def _upstream(question: Question) -> list[Question]:
    return list(question.experiment.upstream(question.config).values())


# -- what finished runs tell -----------------------------------------------------------------------


@dataclass(frozen=True)
class Past:
    """A finished run: its options, its own time, its id."""

    options: Options
    seconds: float
    run_id: str


def _histories(questions: Iterable[Question], store: Store) -> dict[str, list[Past]]:
    """Experiment -> its finished runs, newest first, for all that are asked for."""
    asked = list(questions)
    names = dict.fromkeys(question.experiment.name for question in asked)
    # The children of a run are what it builds on: their time is not its own.
    inner = {need.experiment.name for question in asked for need in _upstream(question)}
    records = {name: query.usable(name, store) for name in names.keys() | inner}
    children: dict[str, list[Span]] = {}
    for record in (record for some in records.values() for record in some):
        if (span := _span(record)) is not None:
            children.setdefault(record.tags.get("mlflow.parentRunId", ""), []).append(span)
    return {
        name: [
            Past(_options(record.config), seconds, record.run_id)
            for record in records[name]
            if (span := _span(record)) is not None
            and (seconds := own_seconds(span, children.get(record.run_id, []))) is not None
        ]
        for name in names
    }


def _span(record: Record) -> Span | None:
    start, end = record.run.info.start_time, record.run.info.end_time
    return None if start is None or end is None else (start, end)


def own_seconds(span: Span, children: Iterable[Span]) -> float | None:
    """The time of a run in which no child ran; None where there is none.

    Children that run side by side cover their time once.
    """
    own, (reached, end) = 0, span
    for begin, finish in sorted(children):
        own += max(0, min(begin, end) - reached)
        reached = max(reached, finish)
    own += max(0, end - reached)
    return own / 1000 if own > 0 else None


def _predicted(wanted: Options, past: Sequence[Past]) -> Cost:
    """The median of the nearest finished runs: those that differ in the fewest options."""
    if not past:
        return Cost(None)
    apart = [(_keys(wanted ^ one.options), one) for one in past]
    least = min(len(keys) for keys, _ in apart)
    ranked = sorted(
        ((_ratios(wanted, one.options), keys, one) for keys, one in apart if len(keys) == least),
        key=lambda found: found[0],
    )
    nearest = [one for _, _, one in ranked[:NEAREST]]
    seconds = median(one.seconds for one in nearest)
    return Cost(seconds, tuple(one.run_id for one in nearest), tuple(sorted(ranked[0][1])))


def _ratios(wanted: Options, other: Options) -> float:
    """How far the numbers among differing options are apart: 100 steps are nearer to 200 than 1."""
    mine, theirs = dict(wanted - other), dict(other - wanted)
    pairs = [(_number(mine[key]), _number(theirs[key])) for key in mine.keys() & theirs.keys()]
    return math.fsum(abs(math.log(a / b)) for a, b in pairs if a and b)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _keys(options: Iterable[tuple[str, str]]) -> set[str]:
    return {key for key, _ in options}


def _options(config: Mapping[str, str]) -> Options:
    """All that may decide how long a run takes: every option but seeds."""
    return frozenset(
        (key, text) for key, text in config.items() if key.rpartition(".")[2] != "seed"
    )


def _spelled(config: Any) -> dict[str, str]:
    """Options as the params of a run spell them."""
    tree = flat(canonical(config))
    return {key: value if isinstance(value, str) else dumps(value) for key, value in tree.items()}


# -- in words --------------------------------------------------------------------------------------


def duration(seconds: int | float) -> str:
    """A time as people say it: 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 1:
        return "under 1 s"
    if round(seconds) < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def runs(count: int) -> str:
    """1 run, 2 runs."""
    return f"{count} run" if count == 1 else f"{count} runs"
