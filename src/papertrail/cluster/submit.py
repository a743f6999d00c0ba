"""Handing jobs over: submitit writes the script, sbatch takes it."""

import os
import secrets
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from papertrail.cluster import snapshot
from papertrail.cluster.book import Book, Submission
from papertrail.cluster.node import Errand, Work
from papertrail.cluster.stages import Task
from papertrail.core.answering import processes
from papertrail.core.errors import BadInput
from papertrail.core.question.resources import Resources, Slurm
from papertrail.core.storage.store import Store
from papertrail.core.writing import track

NOT_OURS = ("SLURM_", "SLURMD_", "SRUN_", "SBATCH_", "SUBMITIT_")
"""Of the job that somebody may be in while he types: not handed on to his jobs."""
OURS = ("SLURM_CONF", "SUBMITIT_PREEMPT_SIGNAL")


@dataclass(frozen=True)
class Code:
    """The code that jobs run."""

    place: Path
    """A snapshot."""
    commit: str
    """Of the tree that it was taken from."""

    @classmethod
    def now(cls, store: Store) -> "Code":
        """As it is at this moment."""
        return cls(snapshot.take(processes.project(), store.work / "snapshots"), track.commit())


def submit(
    elements: Sequence[tuple[Task, ...]],
    after: str,
    code: Code,
    book: Book,
    options: Slurm,
    environment: Mapping[str, str],
) -> Submission:
    """Hand over a job for each of these groups of commands, all of one kind; `after` is their
    dependency as sbatch takes it. BadInput if sbatch refuses it."""
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    one = Submission(secrets.token_hex(6), when, code.place.name, tuple(elements))
    book.note(one)
    home, given = book.home(one), options.of(kind(elements[0][0]))
    executor = SlurmExecutor(home, max_num_timeout=options.requeues)
    executor.update_parameters(**parameters(one, after, given, options, code))
    try:
        with _environment({**environment, "PYTHONPATH": str(code.place / "src")}):
            jobs = executor.submit_array([_work(e, home, given, options, code) for e in elements])
    except (FailedJobError, FailedSubmissionError) as error:
        book.forget(one)
        said = " ".join(str(error).split()).rpartition("sbatch: error: ")[2]
        raise BadInput(f"sbatch: {said}; see run.slurm.* in docs/slurm.md") from None
    one = replace(one, job=str(jobs[0].job_id).partition("_")[0])
    book.note(one)
    return one


def kind(task: Task) -> str:
    """The entry point of a command: what its resources are looked up by."""
    return Path(task.words[0]).stem


def parameters(
    one: Submission, after: str, given: Resources, options: Slurm, code: Code
) -> dict[str, Any]:
    """What submitit is told of a submission."""
    first = one.elements[0][0]
    named = {
        "partition": options.partition, "account": options.account, "qos": options.qos,
        "dependency": after,
    }  # fmt: skip
    more = {"requeue": True, "kill-on-invalid-dep": "yes", **options.options}
    return {
        **{name: value for name, value in named.items() if value},
        **({"gpus_per_node": given.gpus} if given.gpus else {}),
        "job_name": first.title.replace(" ", "_") if len(one.elements) == 1 else kind(first),
        "comment": one.comment,
        "time": given.minutes,
        "cpus_per_task": given.cpus,
        "mem": f"{int(given.memory_gb * 1024)}MB",
        "signal_delay_s": options.signal_seconds,
        "array_parallelism": options.max_jobs,
        "stderr_to_stdout": True,
        "setup": [
            f"export SUBMITIT_PREEMPT_SIGNAL={os.environ['SUBMITIT_PREEMPT_SIGNAL']}",
            f"export PYTHONPATH={shlex.quote(str(code.place / 'src'))}",
        ],
        # srun does not take it over from sbatch any more since SLURM 22.05.
        "srun_args": [f"--cpus-per-task={given.cpus}"],
        "additional_parameters": more,
    }


def _work(
    tasks: tuple[Task, ...], home: Path, given: Resources, options: Slurm, code: Code
) -> Work:
    errands = tuple(
        Errand(Path(task.words[0]).relative_to(processes.project()).as_posix(), task.words[1:])
        for task in tasks
    )
    threads = str(max(1, given.cpus // len(tasks)))
    return Work(code.place, code.commit, errands, home, Path.cwd(), threads, options.signal_seconds)


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """What sbatch hands on to the jobs. Secrets travel here, and stand in no file of ours."""
    before = dict(os.environ)
    kept = {k: v for k, v in wanted.items() if k in OURS or not k.startswith(NOT_OURS)}
    os.environ.clear()
    os.environ.update(kept)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
