"""Where runs are computed: in this process, side by side on this machine, or on a cluster.

A launcher takes questions and returns when their answers stand in the store; what runs elsewhere
goes through the entry point that a person would type. SLURM's is papertrail.cluster.launcher.
"""

import traceback
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, runtime_checkable

from papertrail.core import progress
from papertrail.core.answering.pool import Pool
from papertrail.core.answering.require import require, voice_doubts
from papertrail.core.answering.standing import Standing, standings
from papertrail.core.answering.workers import Asked
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question.cli import Execution, Mode
from papertrail.core.question.experiment import Question, load
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing import track

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
                with in_one_line():
                    require(question.experiment, question.config, mode, store)
            except (BadInput, Missing) as error:
                progress.say(str(error))
            except Exception:  # whatever it was, the others do not depend on it
                traceback.print_exc()

    def run(self, asked: Sequence[Asked], store: Store) -> None:
        """Commands end their process: they get one of their own."""
        Pool(1).run(asked, store)


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
    with _using(load(CLUSTER)(execution)):
        yield


@contextmanager
def pool(workers: int) -> Iterator[None]:
    """Inside the block, `require_all` uses `workers` processes; 1 means this process."""
    if workers == 1:
        with _using(Here()):
            yield
        return
    with Pool(workers) as processes, _using(processes):
        yield


@contextmanager
def _using(launcher: Launcher) -> Iterator[None]:
    token = _LAUNCHER.set(launcher)
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
    before = {one.usable.run_id for one in found if one.usable} if mode == "force" else set()
    if wanted:
        current().compute(wanted, store, mode)
        found = standings(questions, store)
    records = _all_usable(questions, found, before)
    if open_run:
        open_run.built_on(*(record.run_id for record in records))
    return records


def _all_usable(
    questions: Sequence[Question], found: Sequence[Standing], before: Set[str]
) -> list[Record]:
    """The runs that answer, none of which is one of `before`: those were to be computed again."""
    records, failed = [], []
    for question, one in zip(questions, found, strict=True):
        if one.usable is None or one.usable.run_id in before:
            stands = f"only run {one.usable.run_id} of before stands" if one.usable else ""
            why = stands or one.why or one.blocked or "nothing was logged"
            failed.append(f"{question.experiment.name} {one.identity}: {why}")
        else:
            voice_doubts(question.experiment, one, one.usable)
            records.append(one.usable)
    if failed:
        raise Missing(f"{len(failed)} of {len(questions)} runs are missing: {'; '.join(failed)}")
    return records
