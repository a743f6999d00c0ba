"""Where runs are computed: in this process, side by side on this machine, or on a cluster.

A launcher takes questions and returns when their answers stand in the store; what runs elsewhere
goes through the entry point that a person would type. SLURM's is papertrail.cluster.launcher.
"""

import os
import secrets
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from papertrail.core import progress, stopping
from papertrail.core.answering.joining import PARENT
from papertrail.core.answering.require import require, voice_doubts
from papertrail.core.answering.standing import Standing, standings
from papertrail.core.answering.workers import Asked, Worker, listen
from papertrail.core.answering.workers import chosen as next_of
from papertrail.core.errors import Missing
from papertrail.core.project import PACKAGE, ROOT
from papertrail.core.question import cli
from papertrail.core.question.cli import Execution, Mode
from papertrail.core.question.experiment import Question, load
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import track

POLL_SECONDS = 0.2
GRACE_SECONDS = 60.0  # a stopped child writes a checkpoint before it goes
CLUSTER = "papertrail.cluster.launcher:launcher"  # above us: named, not imported


@runtime_checkable
class Launcher(Protocol):
    """Answers questions; afterwards each either stands in the store or has a reason there."""

    def compute(self, questions: Sequence[Question], store: Store, mode: Mode) -> None:
        """Return when none is being computed any more; one that fails does not stop the others."""

    def run(self, asked: Sequence[Asked], store: Store) -> None:
        """Return when each of these commands has ended, well or not; none stops the others."""


class Here:
    """One after the other in this process: imports are paid once."""

    def compute(self, questions: Sequence[Question], store: Store, mode: Mode) -> None:
        for question in questions:
            try:
                require(question.experiment, question.config, mode, store)
            except Missing as error:
                progress.say(str(error))
            except (Exception, SystemExit):  # whatever it was, the others do not depend on it
                traceback.print_exc()

    def run(self, asked: Sequence[Asked], store: Store) -> None:
        """Commands end their process: they get one of their own."""
        Pool(1).run(asked, store)


@dataclass(frozen=True)
class Pool:
    """At most `workers` processes of this machine, sharing its cores evenly.

    Each takes one question after another; one that dies loses the question that it was at, and
    another takes its place.
    """

    workers: int

    def compute(self, questions: Sequence[Question], store: Store, mode: Mode) -> None:
        self.run([asked_for(question, mode) for question in questions], store)

    def run(self, asked: Sequence[Asked], store: Store) -> None:
        waiting, staff = list(asked), list[Worker]()
        parent, threads = track.current(), shared_threads(self.workers)
        found = environment(store, threads=threads, parent=parent.run_id if parent else None)
        found.setdefault(cli.ORDER, secrets.token_hex(6))  # one for all: a failure is tried once
        found |= {progress.WORKER: "1"} if len(asked) > 1 else {}
        try:
            with self._bar(len(asked)) as report:
                while left := len(waiting) + sum(worker.busy for worker in staff):
                    report(1 - left / len(asked))
                    self._take_on(waiting, staff, found)
                    _hand_out(waiting, staff)
                    listen(staff, POLL_SECONDS)
        finally:
            _dismiss(staff)

    def _bar(self, num_runs: int) -> AbstractContextManager[progress.Report]:
        """One for all of them; a single run draws a bar of its own, which knows more."""
        if num_runs == 1:
            return nullcontext(lambda done: None)
        return progress.bar(f"{num_runs} runs, {self.workers} at a time")

    def _take_on(
        self, waiting: Sequence[Asked], staff: list[Worker], found: Mapping[str, str]
    ) -> None:
        """As many as there is work for; who left is replaced."""
        staff[:] = [worker for worker in staff if worker.lives()]
        idle = sum(not worker.busy for worker in staff)
        for _ in range(min(len(waiting) - idle, self.workers - len(staff))):
            with stopping.between_steps():  # a signal in here would lose a child just born
                staff.append(Worker(found))


def asked_for(question: Question, mode: Mode) -> Asked:
    """A question as a person would type it."""
    needs = question.experiment.upstream(question.config).values()
    return Asked(_words(question, mode), frozenset(_words(need, mode) for need in needs))


def _hand_out(waiting: list[Asked], staff: Sequence[Worker]) -> None:
    for worker in staff:
        if waiting and not worker.busy:
            at_work = [one.last for one in staff if one.busy and one.last]
            question = next_of(waiting, worker.last, at_work)
            if worker.ask(question):
                waiting.remove(question)


def _dismiss(staff: Sequence[Worker]) -> None:
    """Who is at a question is asked to stop; who waits for one leaves by itself."""
    for worker in staff:
        worker.hang_up()
    stop([worker.process for worker in staff if worker.busy])
    _see_off([worker.process for worker in staff])


def process(
    question: Question,
    store: Store,
    mode: Mode,
    *,
    threads: str | None,
    leave_out: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":
    """The entry point of a question as a process of its own, in this store.

    `threads` as OpenMP is to use them; None leaves it as it is. `leave_out` are variables of our
    environment that it must not see.
    """
    none = subprocess.DEVNULL  # nobody is asked, and results are read from the store
    return subprocess.Popen(
        [sys.executable, *_words(question, mode)],
        env=environment(store, threads=threads, leave_out=leave_out), stdin=none, stdout=none,
    )  # fmt: skip


def _words(question: Question, mode: Mode) -> tuple[str, ...]:
    """What a person would type: the file of the entry point, and its options."""
    entry = ROOT / "entrypoints" / f"{question.experiment.name}.py"
    return str(entry), *cli.arguments(question.config), f"--run.mode={mode}"


def environment(
    store: Store, *, threads: str | None, parent: str | None = None, leave_out: Sequence[str] = ()
) -> dict[str, str]:
    """Ours for a process that computes in `store`, for the run `parent` if there is one."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_RUN_ID", PARENT, *leave_out)}
    kept |= {
        "PYTHONPATH": str(PACKAGE.parent),
        "MLFLOW_TRACKING_URI": store.uri,
        "PAPERTRAIL_WORK": str(store.work),
    }
    kept |= {"OMP_NUM_THREADS": threads} if threads else {}
    return kept | ({PARENT: parent} if parent else {})


def project() -> Path:
    """Where entry points lie."""
    return ROOT


def shared_threads(workers: int) -> str:
    """OpenMP threads of each of `workers` processes side by side, unless somebody decided."""
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))


_LAUNCHER: ContextVar[Launcher] = ContextVar("launcher", default=Here())  # noqa: B039 (stateless)


def current() -> Launcher:
    """The launcher that `require_all` uses here."""
    return _LAUNCHER.get()


@contextmanager
def chosen(execution: Execution) -> Iterator[None]:
    """Inside the block, runs are computed where `execution` says."""
    if execution.launcher == "local":
        with pool(execution.workers):
            yield
        return
    token = _LAUNCHER.set(load(CLUSTER)(execution))
    try:
        yield
    finally:
        _LAUNCHER.reset(token)


@contextmanager
def pool(workers: int) -> Iterator[None]:
    """Inside the block, `require_all` uses `workers` processes; 1 means this process."""
    token = _LAUNCHER.set(Here() if workers == 1 else Pool(workers))
    try:
        yield
    finally:
        _LAUNCHER.reset(token)


def sent_away(question: Question, store: Store, execution: Execution) -> Mode:
    """Have a question of its own computed on the cluster, if that is where runs are computed; the
    mode in which to ask for it afterwards. What stays here asks for its runs itself."""
    if execution.launcher == "local" or question.experiment.stays or execution.mode == "read_only":
        return execution.mode
    require_all([question], store, execution.mode)
    return "read_only"


def require_all(
    questions: Sequence[Question], store: Store | None = None, mode: Mode = "reuse"
) -> list[Record]:
    """The usable runs of all questions, in order; Missing naming those that failed, and why."""
    open_run = track.current()
    store = store or (open_run.store if open_run else connect())
    found = standings(questions, store)
    pairs = zip(questions, found, strict=True)
    wanted = [question for question, one in pairs if mode == "force" or one.usable is None]
    if wanted:
        current().compute(wanted, store, mode)
        found = standings(questions, store)
    records = _all_usable(questions, found)
    if open_run:
        open_run.built_on(*(record.run_id for record in records))
    return records


def _all_usable(questions: Sequence[Question], found: Sequence[Standing]) -> list[Record]:
    records, failed = [], []
    for question, one in zip(questions, found, strict=True):
        if one.usable is None:
            why = one.why or one.blocked or "nothing was logged"
            failed.append(f"{question.experiment.name} {one.identity}: {why}")
        else:
            voice_doubts(question.experiment, one, one.usable)
            records.append(one.usable)
    if failed:
        raise Missing(f"{len(failed)} of {len(questions)} runs are missing: {'; '.join(failed)}")
    return records


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ask all to stop, wait for each, and kill what does not."""
    for process in processes:
        process.terminate()
    _see_off(processes)


def _see_off(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            progress.say(f"process {process.pid} did not stop in {GRACE_SECONDS:.0f} s; killing it")
            process.kill()
