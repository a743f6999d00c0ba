"""Side by side on this machine: processes that stay for as long as there is something to ask."""

import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from papertrail.core import progress, stopping
from papertrail.core.answering.processes import (
    asked_for,
    environment,
    see_off,
    shared_threads,
    stop,
)
from papertrail.core.answering.workers import Asked, Worker, chosen, listen
from papertrail.core.question import cli
from papertrail.core.question.cli import Mode
from papertrail.core.question.experiment import Question
from papertrail.core.storage.store import Store
from papertrail.core.writing import track

POLL_SECONDS = 0.2


@dataclass
class Pool:
    """At most `workers` processes of this machine, sharing its cores evenly.

    Each takes one question after another; one that dies loses the question that it was at, and
    another takes its place. Inside `with` they stay from one call to the next, so that the stages
    of a study pay for imports once.
    """

    workers: int
    _staff: list[Worker] = field(default_factory=list, init=False)
    _stay: bool = field(default=False, init=False)
    _order: str = field(default_factory=lambda: secrets.token_hex(6), init=False)

    def __enter__(self) -> "Pool":
        self._stay = True
        return self

    def __exit__(self, *_: object) -> None:
        self._stay = False
        self._dismiss()

    def compute(self, questions: Sequence[Question], store: Store, mode: Mode) -> None:
        self.run([asked_for(question, mode) for question in questions], store)

    def run(self, asked: Sequence[Asked], store: Store) -> None:
        done = False
        try:
            self._answer(list(asked), self._environment(store))
            done = True
        finally:
            if not (done and self._stay):
                self._dismiss()

    def _environment(self, store: Store) -> dict[str, str]:
        parent, threads = track.current(), shared_threads(self.workers)
        found = environment(store, threads=threads, parent=parent.run_id if parent else None)
        found.setdefault(cli.ORDER, self._order)  # one for all: a failure is tried once
        return found

    def _answer(self, waiting: list[Asked], found: Mapping[str, str]) -> None:
        num_asked = len(waiting)
        with self._bar(num_asked) as report:
            while left := len(waiting) + sum(worker.busy for worker in self._staff):
                report(1 - left / num_asked)
                self._take_on(waiting, found)
                self._hand_out(waiting, alone=num_asked == 1)
                listen(self._staff, POLL_SECONDS)

    def _bar(self, num_runs: int) -> AbstractContextManager[progress.Report]:
        """One for all of them; a single run draws a bar of its own, which knows more."""
        if num_runs == 1:
            return nullcontext(lambda done: None)
        return progress.bar(f"{num_runs} runs, {self.workers} at a time")

    def _take_on(self, waiting: Sequence[Asked], found: Mapping[str, str]) -> None:
        """As many as there is work for; who left, or serves another store or run, is replaced."""
        fitting = [one for one in self._staff if one.lives() and one.environment == found]
        _see_out([one for one in self._staff if one not in fitting])
        self._staff = fitting
        idle = sum(not worker.busy for worker in self._staff)
        for _ in range(min(len(waiting) - idle, self.workers - len(self._staff))):
            with stopping.between_steps():  # a signal in here would lose a child just born
                self._staff.append(Worker(found))

    def _hand_out(self, waiting: list[Asked], alone: bool) -> None:
        for worker in self._staff:
            if waiting and not worker.busy:
                at_work = [one.last for one in self._staff if one.busy and one.last]
                question = chosen(waiting, worker.last, at_work)
                if worker.ask(question, alone):
                    waiting.remove(question)

    def _dismiss(self) -> None:
        staff, self._staff = self._staff, []
        _see_out(staff)


def _see_out(staff: Sequence[Worker]) -> None:
    """Who is at a question is asked to stop; who waits for one leaves by itself."""
    for worker in staff:
        worker.hang_up()
    stop([worker.process for worker in staff if worker.busy])
    see_off([worker.process for worker in staff])
