"""The launcher of `-P launcher=slurm`: hands over what may be handed over, waits, says what failed.

Its jobs go on without it: it may be stopped, or die, and the same command finds them again.
"""

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from papertrail.cluster import stages
from papertrail.cluster.queue import Cancelled, Queue
from papertrail.cluster.stages import Task
from papertrail.core import progress, slurm
from papertrail.core.answering import processes
from papertrail.core.answering.settling import bury
from papertrail.core.answering.standing import standings
from papertrail.core.answering.workers import Asked
from papertrail.core.errors import BadInput, Interrupted
from papertrail.core.question import cli
from papertrail.core.question.cli import Execution, Mode
from papertrail.core.question.experiment import Question
from papertrail.core.question.resources import EVERY, Slurm
from papertrail.core.storage.store import Store
from papertrail.core.writing import track


def launcher(execution: Execution) -> "Cluster":
    """The launcher that an execution asks for; BadInput where there is no SLURM."""
    slurm.refuse_absent("run.launcher")
    entries = {path.stem for path in (processes.project() / "entrypoints").glob("*.py")}
    if unknown := sorted(set(execution.slurm.resources) - entries - {EVERY}):
        raise BadInput(f"run.slurm.resources: no entry point of that name ({', '.join(unknown)})")
    return Cluster(execution.slurm, execution.workers)


@dataclass(frozen=True)
class Cluster:
    """Runs as jobs."""

    options: Slurm
    workers: int = 1
    """Jobs of something that shares its work out itself, as a sweep does."""

    def compute(self, questions: Sequence[Question], store: Store, mode: Mode) -> None:
        """A job for each question and for all that it builds on."""
        self._work_off(stages.plan(questions, store, mode), store)
        found = standings(questions, store)
        bury((dead for one in found for dead in one.dead), store)

    def run(self, asked: Sequence[Asked], store: Store) -> None:
        """A job for each command."""
        self._work_off(stages.tasks(asked), store)

    def _work_off(self, tasks: Sequence[Task], store: Store) -> None:
        queue = Queue(tasks, self.options, store, environment(store))
        try:
            with progress.bar(f"{len(tasks)} runs on SLURM") as report:
                while queue.busy:
                    queue.step()
                    report(queue.done)
                    if queue.busy:
                        time.sleep(self.options.poll_seconds)
        except Cancelled:  # no job goes on
            raise
        except (Interrupted, KeyboardInterrupt, BadInput):
            progress.say(queue.farewell())
            raise


def environment(store: Store) -> Mapping[str, str]:
    """What the jobs find in theirs."""
    if store.uri.startswith("sqlite"):
        progress.say_once(
            "sqlite", f"the store is a file ({store.uri}): nodes of several machines need a server"
        )
    parent = track.current()
    found = processes.environment(store, threads=None, parent=parent.run_id if parent else None)
    found.setdefault(cli.ORDER, secrets.token_hex(6))  # one for all: a failure is tried once
    return found
