"""A process that answers one question after another: imports are paid, and models loaded, once.

Why not a pool of the standard library: when one process is killed, ProcessPoolExecutor gives up
whatever waits, and multiprocessing.Pool waits for its answer for ever.
"""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait

from papertrail.core.progress import WORKER

Words = tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A question as a person would type it."""

    words: Words
    """The file of an entry point, then its options."""
    needs: frozenset[Words] = frozenset()
    """The questions it builds on, spelled the same way."""


class Worker:
    """Our end of such a process. It finds its store in its environment, and answers there.

    It goes on only after a question that went well. With one that failed it leaves, as a process
    for that question alone would: what a failure left in it is gone, and so is the owner of a run
    that could not be marked. Nobody is asked anything, and what it prints goes nowhere.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = environment
        self.last: Asked | None = None
        """What it was asked last."""
        self.busy = False
        """Whether it is at a question."""
        self._line, theirs = Pipe()
        none, far = subprocess.DEVNULL, theirs.fileno()
        code = f"from papertrail.core.answering.workers import follow; follow({far})"
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", code], env=environment, stdin=none, stdout=none,
                pass_fds=[far],
            )  # fmt: skip

    def ask(self, question: Asked, alone: bool) -> bool:
        """Hand a question over; False if the process was killed since it answered the last one.
        One that is asked alone may draw a bar of its own."""
        try:
            self._line.send((question.words, alone))
        except OSError:
            return False
        self.last, self.busy = question, True
        return True

    def lives(self) -> bool:
        """Whether it can answer, or be asked, any more."""
        return self.process.poll() is None

    def hang_up(self) -> None:
        """There are no more questions: it leaves when it is done with the one that it is at."""
        self._line.close()

    def _hear(self) -> None:
        try:
            self._line.recv()
            self.busy = False
        except (EOFError, OSError):  # it leaves, which may take it a while
            self._line.close()


def listen(staff: Sequence[Worker], seconds: float) -> None:
    """Return when a question was answered, when a worker left, or after so many seconds."""
    at_work = {one._line: one for one in staff if one.busy and not one._line.closed}
    for line in wait(list(at_work), seconds):
        at_work[line]._hear()  # type: ignore[index]


def chosen(waiting: Sequence[Asked], last: Asked | None, at_work: Sequence[Asked]) -> Asked:
    """What a worker goes on with: what builds on the same as its last question, as it has that in
    memory; else the first that builds on what no other worker has, nor has to be waited for; else
    the first. `at_work` are the questions of the others."""
    same = (one for one in waiting if last and one.needs == last.needs)
    taken = {one.needs for one in at_work}
    unanswered = {one.words for one in (*waiting, *at_work)}
    new = (one for one in waiting if one.needs not in taken and not one.needs & unanswered)
    return next(same, None) or next(new, None) or waiting[0]


def follow(place: int) -> None:
    """The process itself: one entry point after another, until the other end is closed.

    An entry point that fails takes it along. So does Ctrl-C, of which a run that is open hears.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # between runs nothing is lost, as with SIGTERM
    os.set_inheritable(place, False)  # what a verb starts must not keep our line open
    with Connection(place) as line:
        while asked := _next(line):
            words, alone = asked
            os.environ.pop(WORKER, None)
            os.environ |= {} if alone else {WORKER: "1"}
            sys.argv = list(words)
            runpy.run_path(words[0], run_name="__main__")
            with suppress(OSError):  # whoever asked is gone
                line.send(None)


def _next(line: "Connection[None, tuple[Words, bool]]") -> tuple[Words, bool] | None:
    try:
        return line.recv()
    except (EOFError, OSError):  # whoever asked is gone
        return None
