"""Compute questions again from nothing: in processes and a store that share nothing with ours.

A process finds a store through its environment, so what names ours there is taken out. It is the
entry point that a person would type, with as many threads as the run had that stands.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from papertrail.core import stopping
from papertrail.core.answering.pool import POLL_SECONDS
from papertrail.core.answering.processes import process, shared_threads, stop
from papertrail.core.answering.standing import Standing, standing
from papertrail.core.question.experiment import Question
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import DATABASE, Store, connect
from papertrail.core.writing.track import THREADS

OURS = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_WORKSPACE")
"""Environment variables that speak of one store and mean nothing, or something else, in another."""


@dataclass(frozen=True)
class Attempt:
    """How one computation ended."""

    record: Record | None
    why: str
    """Why there is no result; empty if there is one."""
    seconds: float
    """From the start of its process to its end."""


@dataclass(frozen=True)
class _Process:
    popen: "subprocess.Popen[bytes]"
    started: float


def store_in(folder: Path) -> Store:
    """The store of a folder alone, whatever the environment names; made before any process asks."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return connect(f"sqlite:///{folder / DATABASE}", folder / "work")


def compute(
    questions: Sequence[Question],
    store: Store,
    as_in: Store,
    workers: int = 1,
    starting: Callable[[int], None] = lambda number: None,
) -> list[Attempt]:
    """Compute each question in `store`, at most `workers` at a time; one that fails stops none.

    A question that stands in `as_in` gets as many threads as it had there.
    `starting` hears the number of each question before it begins. However this call ends, no
    process of it goes on.
    """
    running: dict[int, _Process] = {}
    ended: dict[int, Attempt] = {}
    waiting = list(range(len(questions)))
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number = waiting.pop(0)
                starting(number)
                if (found := _standing(questions[number], store)).usable:
                    ended[number] = Attempt(found.usable, "", 0.0)  # another one built on it
                    continue
                with stopping.between_steps():  # a signal in here would lose a child just born
                    running[number] = _start(questions[number], store, workers, as_in)
            time.sleep(POLL_SECONDS)
            for number in [n for n, one in running.items() if one.popen.poll() is not None]:
                ended[number] = _ended(running.pop(number), questions[number], store)
    finally:
        stop([one.popen for one in running.values()])
    return [ended[number] for number in range(len(questions))]


def _start(question: Question, store: Store, workers: int, as_in: Store) -> _Process:
    threads = _threads(question, workers, as_in)
    # force: the store is empty, and nobody wants to hear of its nearest run
    popen = process(question, store, "force", threads=threads, leave_out=OURS)
    return _Process(popen, time.monotonic())


def _threads(question: Question, workers: int, as_in: Store) -> str | None:
    """As many as the run had that stands: another number sums in another order, to other digits."""
    found = standing(question.experiment, question.config, as_in).usable
    noted = found.tags.get(THREADS) if found else None
    return noted or (shared_threads(workers) if workers > 1 else None)


def _ended(process: _Process, question: Question, store: Store) -> Attempt:
    seconds = time.monotonic() - process.started
    found = _standing(question, store)
    if found.usable is not None:
        return Attempt(found.usable, "", seconds)
    said = found.last.tags.get("papertrail.failure", "") if found.last else found.blocked
    code = process.popen.returncode
    word = f"its process was ended by signal {-code}" if code < 0 else f"it left with code {code}"
    return Attempt(None, said or word, seconds)


def _standing(question: Question, store: Store) -> Standing:
    return standing(question.experiment, question.config, store)
