"""`-e status` and `-e cancel`: what SLURM and the store say of the jobs of a store."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from papertrail.cluster.book import Book, Submission, pairs
from papertrail.cluster.commands import Cancellation, Status
from papertrail.cluster.queue import LOCK, book_of, cancel_all, told
from papertrail.cluster.stages import Task
from papertrail.cluster.submit import kind
from papertrail.core import slurm
from papertrail.core.answering.settling import bury, end_dead
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Command
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.slurm import Job
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing import track
from papertrail.core.writing.owner import owner_of

PATIENCE_SECONDS = 120.0
POLL_SECONDS = 1.0
HEAD = ("job", "state", "node", "elapsed", "run", "MLflow run", "its status")


@dataclass(frozen=True)
class Line:
    """A run, and the job that computes it."""

    job: Job
    task: Task
    record: Record | None
    remark: str
    log: Path

    def cells(self) -> tuple[str, ...]:
        again = f", queued again {self.job.restarts} times" if self.job.restarts else ""
        record = self.record
        return (
            self.job.id, f"{self.job.state}{again}", self.job.node or "-", self.job.elapsed or "-",
            self.task.title or kind(self.task), record.run_id if record else "-",
            record.status if record else "-",
        )  # fmt: skip


def status(command: Command, config: Status, execution: Execution) -> None:
    """Print every job of the store with its runs, and where their logs lie."""
    slurm.refuse_absent()
    with in_one_line():
        store = connect()
        book = book_of(store)
        known, seen = _shown(book, config.hours)
        end_opened(known, seen, book, store)
        lines = list(_lines(known, seen, book, store))
        shown = _table([HEAD, *(line.cells() for line in lines)]) if lines else "no jobs"
        print(shown)
        for line in lines:
            print(f"{line.job.id}: {line.remark}log {line.log}")
        track.conclude(store, "status", shown)


def cancel(command: Command, config: Cancellation, execution: Execution) -> None:
    """Cancel jobs and what waits for them; their runs read KILLED when it returns."""
    if bool(config.job) == config.all:
        raise BadInput(f"job: give either job=ID or all=true ({config.job or 'neither'})")
    slurm.refuse_absent()
    with in_one_line():
        store = connect()
        book = book_of(store)
        with store.lock(LOCK):  # nobody hands jobs over meanwhile
            if config.all:
                cancel_all(book)
            known = book.open()
            ids = chosen(known, config.job)
            slurm.cancel(ids)
        seen = _ended(ids)
        for one in book.submissions():
            book.see(one, seen)
        bury(_left_running(known, ids, store), store)
        end_opened(known, seen, book, store)
        said = f"cancelled {len(ids)} jobs: {' '.join(ids)}" if ids else "no jobs to cancel"
        print(said)
        track.conclude(store, "cancel", said)


def chosen(known: Sequence[Submission], job: str) -> list[str]:
    """The jobs that are meant and those that wait for them; all of them for an empty `job`."""
    tasks = {name: one.of(name) for one, name in pairs(known)}
    meant = [name for name in tasks if job in ("", name, name.partition("_")[0])]
    if job and not meant:
        raise BadInput(f"job: none of this store that has not ended ({job}); -e status lists them")
    while True:
        lost = {task.words for name in meant for task in tasks[name]}
        more = [
            name
            for name, some in tasks.items()
            if name not in meant and any(task.needs & lost for task in some)
        ]
        if not more:
            return meant
        meant += more


def _ended(ids: Sequence[str]) -> dict[str, Job]:
    """Return when SLURM says that these jobs ended: their runs have said so before."""
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        seen = slurm.look(ids)
        left = [job.id for job in seen.values() if not job.ended or job.word == "COMPLETING"]
        if not left:
            return seen
        if time.monotonic() > end:
            raise Missing(f"SLURM was asked to cancel {' '.join(left)}, which go on all the same")
        time.sleep(POLL_SECONDS)


def _left_running(
    known: Sequence[Submission], ids: Sequence[str], store: Store
) -> Iterator[Record]:
    """Runs of these jobs that nobody lived to mark."""
    tasks = [task for one, job in pairs(known) if job in ids for task in one.of(job)]
    identities = list({task.identity for task in tasks if task.identity})
    for records in query.by_identities(identities, store).values() if identities else ():
        for record in records:
            owner = owner_of(record.tags)
            if record.status == "RUNNING" and owner and owner.alive() is False:
                yield record


def end_opened(
    known: Sequence[Submission], seen: Mapping[str, Job], book: Book, store: Store
) -> None:
    """Have runs that `mlflow run --backend` opened, and that nothing was computed in, read KILLED
    where their job came to a bad end: MLflow left when it was queued, and nobody needs them."""
    for one, job in _ended_badly(known, seen):
        for opened in filter(None, (task.opened for task in one.of(job.id))):
            if _waits(opened, store):
                end_dead(store, opened, told(job, book.end(one, job.id)))


def _waits(opened: str, store: Store) -> bool:
    """Whether such a run has nothing in it yet, and has not been deleted either."""
    try:
        run = query.by_id(opened, store).run
    except Missing:
        return False
    there = run.info.lifecycle_stage == "active" and run.info.status == "RUNNING"
    return there and query.IDENTITY not in run.data.tags


def _ended_badly(
    known: Sequence[Submission], seen: Mapping[str, Job]
) -> Iterator[tuple[Submission, Job]]:
    """Jobs of which SLURM says that they ended otherwise than well, now or when it last knew."""
    for one in known:
        for job in filter(None, (seen.get(name) or one.ends.get(name) for name in one.ids())):
            if job.ended and job.state not in ("completed", "vanished"):
                yield one, job


def _shown(book: Book, hours: float) -> tuple[list[Submission], dict[str, Job]]:
    """What goes on or was handed over recently, and what SLURM says of it now."""
    since = (datetime.now() - timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S")
    known = [one for one in book.submissions() if one.job and (one.open_ids() or one.when > since)]
    return known, slurm.look([job for _, job in pairs(known)])


def _lines(
    known: Sequence[Submission], seen: Mapping[str, Job], book: Book, store: Store
) -> Iterator[Line]:
    tasks = [task for one in known for some in one.elements for task in some]
    runs = query.by_identities(list({task.identity for task in tasks if task.identity}), store)
    for one in known:
        for job in one.ids():
            yield from _of(one, seen.get(job) or one.ends[job], book, runs)


def _of(
    one: Submission, job: Job, book: Book, runs: Mapping[str, Sequence[Record]]
) -> Iterator[Line]:
    end = book.end(one, job.id) if job.ended else None
    remark = "" if job.state in ("running", "completed") else f"{told(job, end)}; "
    for number, task in enumerate(one.of(job.id)):
        record = next(iter(runs.get(task.identity, [])), None)
        yield Line(job, task, record, remark, book.log(one, job.id, number))


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return "\n".join(line.rstrip() for line in padded)
