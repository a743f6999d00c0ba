"""The tasks of one command on their way through SLURM: at most so many jobs at a time, each after
what it builds on, none twice."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from papertrail.cluster.book import Book, Submission, key, pairs
from papertrail.cluster.node import End
from papertrail.cluster.stages import Task
from papertrail.cluster.submit import Code, kind, submit
from papertrail.core import progress, slurm
from papertrail.core.answering.workers import Words
from papertrail.core.errors import Interrupted
from papertrail.core.question.resources import Slurm
from papertrail.core.slurm import Job, Unreachable
from papertrail.core.storage.store import Store

FOLDER, LOCK, CANCELLED = "slurm", "slurm", "cancelled"
LARGEST_ARRAY = 1000  # SLURM's MaxArraySize is 1001 unless a site changed it


def book_of(store: Store) -> Book:
    """The submissions of a store."""
    return Book(store.work / FOLDER)


@dataclass(frozen=True)
class Live:
    """A job that was not seen to end."""

    submission: Submission
    tasks: tuple[Task | None, ...]
    """Its commands; None for one that nobody here asked for."""


class Cancelled(Interrupted):
    """Somebody stopped all jobs of this store: what waits for them was stopped as well."""


class Queue:
    """Waiting, handed over, done: every task is in one of the three."""

    def __init__(
        self, tasks: Sequence[Task], options: Slurm, store: Store, environment: Mapping[str, str]
    ) -> None:
        self._waiting = list(tasks)
        self._options, self._store, self._environment = options, store, environment
        self._book = book_of(store)
        self._code: Code | None = None
        self._live: dict[str, Live] = {}
        self._good, self._failed = set[Words](), set[Words]()
        self._total, self._begin = len(tasks), time.time()
        self._silent = False

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._live)

    @property
    def done(self) -> float:
        """Share of the tasks that ended."""
        return (len(self._good) + len(self._failed)) / max(1, self._total)

    def step(self) -> None:
        """Look at the queue, then hand over what may be handed over now."""
        try:
            self._look()
            self._drop()
            if self._waiting:
                with self._store.lock(LOCK):
                    self._adopt()
                    self._hand_over()
            self._silent = False
        except Unreachable as error:
            if not self._silent:
                progress.say(f"{error}; trying again")
            self._silent = True

    def farewell(self) -> str:
        """What to know for who stops waiting."""
        if not self._live:
            return f"no SLURM job goes on; {len(self._waiting)} runs were not handed over"
        left = f"; {len(self._waiting)} runs were not handed over yet" if self._waiting else ""
        return (
            f"{len(self._live)} SLURM jobs go on without this process{left}; the same command "
            "finds them again, mlflow run . -e status shows them, -e cancel -P all=true stops them"
        )

    def _look(self) -> None:
        """Which jobs ended, and how."""
        self._refuse_cancelled()
        seen = slurm.look(list(self._live))
        for one in {
            live.submission.token: live.submission for live in self._live.values()
        }.values():
            now = self._book.see(one, seen)
            for job in set(one.open_ids()) - set(now.open_ids()):
                if live := self._live.pop(job, None):
                    self._note_end(live, seen[job])
            for job, live in self._live.items():
                if live.submission.token == now.token:
                    self._live[job] = Live(now, live.tasks)

    def _note_end(self, live: Live, job: Job) -> None:
        end = self._book.end(live.submission, job.id)
        for number, task in enumerate(live.tasks):
            if task is None:
                continue
            if went_well(job, end, number):
                self._good.add(task.words)
                continue
            self._failed.add(task.words)
            log = self._book.log(live.submission, job.id, number)
            progress.say(f"{task.title or kind(task)}: {told(job, end)}; log {log}")

    def _drop(self) -> None:
        """What builds on something that failed is not begun."""
        lost = [task for task in self._waiting if task.needs & self._failed]
        while lost:
            for task in lost:
                self._waiting.remove(task)
                self._failed.add(task.words)
                progress.say(f"{task.title or kind(task)}: not begun: what it builds on failed")
            lost = [task for task in self._waiting if task.needs & self._failed]

    def _adopt(self) -> None:
        """Take over jobs for the same commands that somebody handed over before."""
        found = self._book.open()
        seen = slurm.look([job for one, job in pairs(found) if job not in self._live])
        wanted = {key(task.words): task for task in self._waiting}
        for one in found:
            one = self._book.see(one, seen)
            for job in one.open_ids():
                mine = tuple(wanted.get(key(task.words)) for task in one.of(job))
                if job in self._live or not any(mine):
                    continue
                self._live[job] = Live(one, mine)
                self._waiting = [task for task in self._waiting if task not in mine]
                progress.say(f"{seen[job]} is at this already; it runs snapshot {one.snapshot}")

    def _hand_over(self) -> None:
        for group, after in self._groups():
            free = max(0, self._options.max_jobs - len(self._live))
            pack = self._options.pack
            chunk = group[: min(free, LARGEST_ARRAY) * pack]
            if not chunk:
                return
            elements = [tuple(chunk[n : n + pack]) for n in range(0, len(chunk), pack)]
            one = submit(
                elements, after, self._taken(), self._book, self._options, self._environment
            )
            self._waiting = [task for task in self._waiting if task not in chunk]
            self._live |= {job: Live(one, one.of(job)) for job in one.ids()}

    def _groups(self) -> Iterator[tuple[list[Task], str]]:
        """Waiting tasks that may go now, with the same resources and the same dependency."""
        while True:
            unsent = {task.words for task in self._waiting}
            ready = [task for task in self._waiting if not task.needs & unsent]
            if not ready:
                return
            first = ready[0]
            after = self._after(first)
            yield (
                [t for t in ready if kind(t) == kind(first) and self._after(t) == after],
                after,
            )
            if any(task.words == first.words for task in self._waiting):
                return  # the queue is full

    def _after(self, task: Task) -> str:
        """The dependency of a task, as sbatch takes it.

        A job of several commands fails with any of them: who builds on another one of them begins
        all the same, and finds in the store whether what it needs is there.
        """
        words: dict[str, list[str]] = {}
        for job, live in self._live.items():
            if any(one and one.words in task.needs for one in live.tasks):
                how = "afterok" if len(live.submission.of(job)) == 1 else "afterany"
                words.setdefault(how, []).append(job)
        return ",".join(":".join([how, *jobs]) for how, jobs in sorted(words.items()))

    def _taken(self) -> Code:
        """The code of now, once for all jobs of this command."""
        if self._code is None:
            self._code = Code.now(self._store)
        return self._code

    def _refuse_cancelled(self) -> None:
        """Cancelled if somebody cancelled everything since we began."""
        mark = self._book.folder / CANCELLED
        if mark.exists() and mark.stat().st_mtime > self._begin:
            raise Cancelled("-e cancel -P all=true; start the command again to go on")


def cancel_all(book: Book) -> None:
    """Have processes that wait for jobs hand no more of them over."""
    book.folder.mkdir(parents=True, exist_ok=True)
    mark = book.folder / CANCELLED
    mark.touch()
    os.utime(mark)


def went_well(job: Job, end: End | None, number: int) -> bool:
    """Whether a command of a job ended well, on evidence: its own exit code, or SLURM's word."""
    if end is not None and not end.stopped:
        return end.codes[number] == 0
    return job.state == "completed"


def told(job: Job, end: End | None) -> str:
    """How a job ended, for people."""
    if end is not None and end.stopped and job.state == "failed":
        return f"{job}: stopped at its time limit too often; raise run.slurm.requeues or minutes"
    codes = f"; exit codes {end.codes}" if end is not None and any(end.codes) else ""
    return f"{job}{codes}"
