"""What finished runs tell of the time that a run will take.

The time of a run is its own: from start to end, without what was computed as its children
meanwhile.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from papertrail.core.question.experiment import Question
from papertrail.core.reading import query
from papertrail.core.storage.store import Store
from papertrail.core.writing import track
from papertrail.core.writing.run import COMPLETE

NEAREST = 5  # siblings at the same distance: their median forgives one that was interrupted
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
class Past:
    """A run that finished: what was asked, when it ran, inside which other run."""

    run_id: str
    options: Options
    span: Span
    parent: str | None


def histories(questions: Iterable[Question], store: Store) -> dict[str, list[tuple[float, Past]]]:
    """Experiment -> its finished runs, newest first, each with its own seconds."""
    asked = list(questions)
    names = dict.fromkeys(question.experiment.name for question in asked)
    # The children of a run are what it builds on: their time is not its own.
    inner = {need.experiment.name for question in asked for need in upstream(question)}
    past = {name: _finished(name, store) for name in names.keys() | inner}
    children: dict[str | None, list[Span]] = {}
    for one in (one for some in past.values() for one in some):
        children.setdefault(one.parent, []).append(one.span)
    return {
        name: [
            (seconds, one)
            for one in past[name]
            if (seconds := own_seconds(one.span, children.get(one.run_id, []))) is not None
        ]
        for name in names
    }


def _finished(name: str, store: Store) -> list[Past]:
    """Runs that came to their end; whether their numbers may be used does not matter here."""
    tags = (COMPLETE, "mlflow.parentRunId")
    table = query.runs_table(store, experiment=name, metrics=(), tags=tags, status="FINISHED")
    table = table[table[f"tags.{COMPLETE}"].notna() & table["end_time"].notna()]
    params = [key for key in map(str, table) if key.startswith("params.cfg.")]
    names = [key.removeprefix("params.cfg.") for key in params]
    start, end = (table[key].dt.as_unit("ms").astype("int64") for key in ("start_time", "end_time"))
    parents = table["tags.mlflow.parentRunId"]
    return [
        Past(run_id, _options(zip(names, texts, strict=True)), (begin, finish), parent or None)
        for run_id, begin, finish, parent, texts in zip(
            table["run_id"], start, end, parents, table[params].to_numpy(), strict=True
        )
    ]


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


def predicted(wanted: Options, past: Sequence[tuple[float, Past]]) -> Cost:
    """The median of the nearest finished runs: those that differ in the fewest options."""
    if not past:
        return Cost(None)
    apart = [(_keys(wanted ^ one.options), seconds, one) for seconds, one in past]
    least = min(len(keys) for keys, *_ in apart)
    near = [found for found in apart if len(found[0]) == least]
    near.sort(key=lambda found: _ratios(wanted, found[2].options))
    nearest = near[:NEAREST]
    seconds = median(seconds for _, seconds, _ in nearest)
    differing = tuple(sorted(set().union(*(keys for keys, *_ in nearest))))
    return Cost(seconds, tuple(one.run_id for *_, one in nearest), differing)


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


def _options(config: Iterable[tuple[str, str | None]]) -> Options:
    """All that may decide how long a run takes: every option but seeds."""
    return frozenset(
        (key, text)
        for key, text in config
        if isinstance(text, str) and key.rpartition(".")[2] != "seed"
    )


def options_of(config: Any) -> Options:
    """The options of a run to come, spelled as the params of a finished one."""
    spelled = track.options(config).items()
    return _options((key.removeprefix("cfg."), text) for key, text in spelled)


def upstream(question: Question) -> list[Question]:
    """What a run builds on directly."""
    return list(question.experiment.upstream(question.config).values())
