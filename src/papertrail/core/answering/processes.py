"""A question as a process of its own: the words that a person would type, and its environment."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from papertrail.core import progress
from papertrail.core.answering.joining import PARENT
from papertrail.core.answering.workers import Asked
from papertrail.core.project import PACKAGE, ROOT
from papertrail.core.question import cli
from papertrail.core.question.cli import Mode
from papertrail.core.question.experiment import Question
from papertrail.core.storage.store import Store

GRACE_SECONDS = 60.0  # a stopped child writes a checkpoint before it goes


def asked_for(question: Question, mode: Mode) -> Asked:
    """A question as a person would type it."""
    needs = question.experiment.upstream(question.config).values()
    return Asked(words(question, mode), frozenset(words(need, mode) for need in needs))


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
        [sys.executable, *words(question, mode)],
        env=environment(store, threads=threads, leave_out=leave_out), stdin=none, stdout=none,
    )  # fmt: skip


def words(question: Question, mode: Mode) -> tuple[str, ...]:
    """What a person would type: the file of the entry point, and its options."""
    file = entry(question.experiment.name)
    return file, *cli.arguments(question.config), f"--run.mode={mode}"


def entry(name: str) -> str:
    """The file of an entry point."""
    return str(ROOT / "entrypoints" / f"{name}.py")


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


def stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Ask all to stop, wait for each, and kill what does not."""
    for process in processes:
        process.terminate()
    see_off(processes)


def see_off(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            progress.say(f"process {process.pid} did not stop in {GRACE_SECONDS:.0f} s; killing it")
            process.kill()
            process.wait()
