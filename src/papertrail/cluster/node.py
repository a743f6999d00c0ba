"""What runs on the node: the parent of the entry points that a job consists of.

It is the only process that answers SLURM's signal before a time limit or a preemption: it asks
its children for their checkpoints, waits for them, and has submitit queue the same job again. A
child goes on by the identity of its question, so a job may be started any number of times.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

from submitit.helpers import DelayedSubmission

from papertrail.cluster.snapshot import verify
from papertrail.core import slurm
from papertrail.core.slurm import COMMIT, LOG, SNAPSHOT

POLL_SECONDS = 0.2
MARGIN_SECONDS = 15  # of the time before the limit, for queueing again
KEPT = (
    "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT",
    "SLURM_CLUSTER_NAME", "SLURM_CONF",
)  # fmt: skip
"""What a child may know of SLURM: who it is. More, and Lightning would queue it again as well."""


@dataclass(frozen=True)
class Errand:
    """A command of a job."""

    entry: str
    """The file, from the root of the project."""
    options: tuple[str, ...]


@dataclass
class Work:
    """What a job does, once or again: it is pickled by submitit and holds no secret."""

    code: Path
    """A snapshot."""
    commit: str
    """Of the tree that it was taken from."""
    errands: tuple[Errand, ...]
    folder: Path
    """Where children print to and their exit codes are kept."""
    home: Path
    """The folder that relative paths of options start from."""
    threads: str
    """OpenMP threads of each child."""
    signal_seconds: int
    """How long before its end the job is told."""
    _children: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    _terminated: bool = False

    def __call__(self) -> list[int]:
        """Exit codes, all of them 0; a job one of whose commands failed has failed."""
        signal.signal(signal.SIGTERM, self._note)
        forget_end(self.folder, slurm.here())
        verify(self.code)
        self._children = []
        for number in range(len(self.errands)):  # one by one: a signal must find those that run
            self._children.append(self._start(number))
        while any(child.poll() is None for child in self._children):
            time.sleep(POLL_SECONDS)
        codes = [int(child.returncode) for child in self._children]
        if any(codes) and self._terminated:
            _await_the_end()
        write_end(self.folder, slurm.here(), End(codes))
        if any(codes):
            raise RuntimeError(f"exit codes {codes}: see the logs in {self.folder}")
        return codes

    def checkpoint(self) -> DelayedSubmission:
        """Called by submitit in the handler of SLURM's signal, before it queues the job again."""
        stop(self._children, self.signal_seconds - MARGIN_SECONDS)
        write_end(self.folder, slurm.here(), End([], stopped=True))
        again = Work(
            self.code, self.commit, self.errands, self.folder, self.home, self.threads,
            self.signal_seconds,
        )  # fmt: skip
        return DelayedSubmission(again)

    def _note(self, number: int, frame: FrameType | None) -> None:
        """SIGTERM reached the children as well: whether to stop is theirs to decide."""
        self._terminated = True

    def _start(self, number: int) -> "subprocess.Popen[bytes]":
        errand, log = self.errands[number], log_of(self.folder, slurm.here(), number)
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, str(self.code / errand.entry), *errand.options],
                env=self._environment(log, number), cwd=self.home, stdin=subprocess.DEVNULL,
                stdout=out, stderr=subprocess.STDOUT, preexec_fn=_leave_the_signal_to_the_parent,
            )  # fmt: skip

    def _environment(self, log: Path, number: int) -> dict[str, str]:
        ours = ("SLURM", "SUBMITIT", "SRUN", "SBATCH", "PMI_")
        found = {k: v for k, v in os.environ.items() if k in KEPT or not k.startswith(ours)}
        found |= {LOG: str(log), SNAPSHOT: self.code.name, COMMIT: self.commit}
        found |= {"PYTHONPATH": str(self.code / "src")}
        found |= {} if "OMP_NUM_THREADS" in found else {"OMP_NUM_THREADS": self.threads}
        gpus = [gpu for gpu in found.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
        if gpus and len(self.errands) > 1:
            found["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
        return found


def stop(children: Sequence["subprocess.Popen[bytes]"], seconds: int | float) -> None:
    """Ask children to stop, wait for each, kill what does not; their exit codes stay unread.

    It runs in a signal handler, which may have interrupted a wait for the same children.
    """
    left = [child.pid for child in children if _lives(child.pid)]
    for pid in left:
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + seconds
    while any(map(_lives, left)):
        if time.monotonic() > end:
            for pid in filter(_lives, left):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _lives(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:  # its exit code was read already
        return False


def _leave_the_signal_to_the_parent() -> None:
    """SLURM sends it to every process of a job, and it would kill one that has no handler."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def _await_the_end() -> None:
    """After SIGTERM: SLURM cancels this job, or takes its node away and queues it again itself.

    In the second case it must find the job running, or would count it as failed.
    """
    while True:
        job = slurm.job_of(slurm.here())
        if job is None or job.word != "RUNNING":
            return
        time.sleep(1.0)


def log_of(folder: Path, job: str, number: int) -> Path:
    """What the command with this number prints."""
    return folder / f"{job}.{number}.log"


@dataclass(frozen=True)
class End:
    """What a job itself says of its end: nobody has to ask SLURM, which forgets."""

    codes: list[int]
    """Exit codes of its commands."""
    stopped: bool = False
    """Whether it was asked to stop, by its time limit or a preemption, and could be stopped."""


def write_end(folder: Path, job: str, end: End) -> None:
    """Keep it, at once."""
    part = folder / f".{job}.end"
    part.write_text(json.dumps(asdict(end)), encoding="utf-8")
    part.replace(folder / f"{job}.end")


def read_end(folder: Path, job: str) -> End | None:
    """None of a job that was killed, cancelled or lost."""
    try:
        return End(**json.loads((folder / f"{job}.end").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def forget_end(folder: Path, job: str) -> None:
    """It begins again."""
    (folder / f"{job}.end").unlink(missing_ok=True)
