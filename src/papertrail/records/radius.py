"""The blast radius: what is void, directly and by what it was built on, when a run or code is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from papertrail.core import progress
from papertrail.core.errors import Missing
from papertrail.core.question.experiment import Experiment
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.writing.run import PARENTS, parents_of
from papertrail.records import papers

HOUR_MS = 3_600_000
REVISION = "papertrail.revision"


@dataclass(frozen=True)
class Radius:
    """Finished runs, in the order in which they were built on each other."""

    runs: Sequence[Record]
    lines: Sequence[str] = ()
    """Places in papers that print their numbers, FILE:LINE: MACRO."""

    @property
    def hours(self) -> float:
        """Computing time, children counted once: a run waits while its child computes."""
        ids = {record.run_id for record in self.runs}
        top = [one for one in self.runs if one.tags.get("mlflow.parentRunId") not in ids]
        return sum(float(o.run.info.end_time - o.run.info.start_time) / HOUR_MS for o in top)

    @property
    def tables(self) -> list[str]:
        """Names of the tables that were drawn from these runs."""
        return sorted({one.config.get("name", "") for one in self.runs if _kind(one) == "tables"})

    def __str__(self) -> str:
        kinds = [_kind(record) for record in self.runs]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        runs = f"{len(kinds)} finished run{'' if len(kinds) == 1 else 's'}"
        drawn = f" of {', '.join(self.tables)}" if self.tables else ""
        took = progress.duration(self.hours * 3600)
        lines = f"{len(self.lines)} line{'' if len(self.lines) == 1 else 's'}"
        printed = f", printed by {lines} of papers" if self.lines else ""
        return f"{runs} ({counts or 'none'}{drawn}) that took {took}{printed}"

    def say(self, what: str) -> None:
        """Tell `what` voids it, then each line of a paper on a line of its own."""
        progress.say(f"{what} {self}")
        for line in self.lines:
            progress.say(f"  {line}")


def radius(run_ids: Iterable[str], store: Store) -> Radius:
    """These runs and everything that was built on them, however indirectly."""
    children: dict[str, list[str]] = {}
    for run_id, parents in _edges(store):
        for parent in parents:
            children.setdefault(parent, []).append(run_id)
    reached: dict[str, None] = {}
    waiting = list(run_ids)
    while waiting:
        run_id = waiting.pop(0)
        if run_id not in reached:
            reached[run_id] = None
            waiting += children.get(run_id, [])
    records = query.by_ids(list(reached), store)
    void = [records[one] for one in reached if one in records and _counts(records[one])]
    quoting = any(_kind(one) == papers.PAPER for one in void)
    printed = [run_id for one in records.values() for run_id in query.names_of(one)]
    return Radius(void, papers.lines(printed, store) if quoting else [])


def confirm_raise(experiment: Experiment, config: Any, store: Store) -> None:
    """Say what a raised revision makes void, and ask; Missing if a person says no.

    Said once: as soon as a run of the new revision stands, the raise is history.
    """
    for raised in _closure(experiment, config).values():
        if raised.revision == 1:
            continue
        by_revision = _finished(raised, store)
        old = [run_id for run_id, revision in by_revision if revision < raised.revision]
        if not old or any(revision == raised.revision for _, revision in by_revision):
            continue
        void = radius(old, store)
        void.say(f"{raised.name}: raised to revision {raised.revision}; this voids")
        if not progress.confirm("compute under the new revision?"):
            raise Missing(
                f"{raised.name}: nothing was computed; under its old revision in the code the old "
                "runs answer again"
            )


def _finished(experiment: Experiment, store: Store) -> list[tuple[str, int]]:
    """Finished runs of an experiment with their revisions."""
    table = query.runs_table(
        store, experiment=experiment.name, params=[], metrics=[], tags=[REVISION], status="FINISHED"
    )
    revisions = table[f"tags.{REVISION}"].fillna("1").astype(int)
    return list(zip(table["run_id"], revisions, strict=True))


def _closure(experiment: Experiment, config: Any) -> dict[str, Experiment]:
    """The experiment and all that it builds on, by name."""
    found = {experiment.name: experiment}
    for needed in experiment.upstream(config).values():
        if needed.experiment.name not in found:
            found |= _closure(needed.experiment, needed.config)
    return found


def _edges(store: Store) -> list[tuple[str, list[str]]]:
    """Every run with the runs that it was built on."""
    table = query.runs_table(store, params=[], metrics=[], tags=None)
    prefix = f"tags.{PARENTS}"
    keys = [str(name) for name in table.columns if str(name).startswith(prefix)]
    rows = zip(*(table[key] for key in keys), strict=True) if keys else ()
    edges = []
    for run_id, values in zip(table["run_id"], rows, strict=bool(keys)):
        tags = {
            k[len("tags.") :]: v for k, v in zip(keys, values, strict=True) if isinstance(v, str)
        }
        edges.append((str(run_id), parents_of(tags)))
    return edges


def _counts(record: Record) -> bool:
    info = record.run.info
    return record.status == "FINISHED" and info.lifecycle_stage == "active"


def _kind(record: Record) -> str:
    return record.tags.get("papertrail.experiment", "other")
