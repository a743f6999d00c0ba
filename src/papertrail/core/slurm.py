"""What SLURM says of a job. It needs no accounting database: squeue, then sacct where it works.

A job that nobody knows any more is `vanished`: that is no evidence of how it ended, and only the
store says what became of its run.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from papertrail.core.errors import BadInput, Missing

State = Literal[
    "pending", "running", "completed", "failed", "cancelled", "preempted", "timed out",
    "node failed", "out of memory", "vanished",
]  # fmt: skip
WORDS: dict[str, State] = {
    "PENDING": "pending", "CONFIGURING": "pending", "REQUEUED": "pending",
    "REQUEUE_HOLD": "pending", "REQUEUE_FED": "pending", "RESV_DEL_HOLD": "pending",
    "SPECIAL_EXIT": "pending", "RUNNING": "running", "COMPLETING": "running",
    "SUSPENDED": "running", "STOPPED": "running", "SIGNALING": "running", "RESIZING": "running",
    "STAGE_OUT": "running", "COMPLETED": "completed", "CANCELLED": "cancelled",
    "REVOKED": "cancelled", "PREEMPTED": "preempted", "TIMEOUT": "timed out",
    "DEADLINE": "timed out", "NODE_FAIL": "node failed", "OUT_OF_MEMORY": "out of memory",
    "VANISHED": "vanished",
}  # fmt: skip
"""SLURM's words for a state; any other is a failure."""
FIELDS = (
    "JobArrayID", "JobID", "State", "Reason", "NodeList", "TimeUsed", "RestartCnt", "exit_code",
    "DerivedEC", "Comment",
)  # fmt: skip
NO_MEMORY = 125
"""The signal that SLURM pretends ended a step for whose memory the kernel killed a process. Our
commands are a step: the job itself reads FAILED then."""
LOG, SNAPSHOT, COMMIT = "PAPERTRAIL_LOG", "PAPERTRAIL_SNAPSHOT", "PAPERTRAIL_COMMIT"
"""Environment variables of what runs as a job: the file it prints to, the digest of the code that
it runs, and the commit which that was."""
PATIENCE_SECONDS = 60
FRESH_SECONDS = 2.0
"""One look serves every run of a plan."""


class Unreachable(Missing):
    """SLURM does not answer: nothing is known of any job."""


@dataclass(frozen=True)
class Job:
    """A job, or one element of an array, as SLURM knows it now."""

    id: str
    """As people type it: 12, or 12_3."""
    word: str
    """SLURM's own word for its state."""
    raw: str = ""
    """SLURM_JOB_ID, which for an element of an array is another number."""
    reason: str = ""
    node: str = ""
    elapsed: str = ""
    restarts: int = 0
    """How often it was queued again."""
    exit_code: int = 0
    comment: str = ""

    @property
    def state(self) -> State:
        return WORDS.get(self.word, "failed")

    @property
    def ended(self) -> bool:
        """Whether it will not go on; of one that vanished nobody can say more."""
        return self.state not in ("pending", "running")

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"SLURM job {self.id}: {self.state}{why}"


def available() -> bool:
    """Whether this machine can ask a SLURM."""
    return shutil.which("squeue") is not None


def refuse_absent(where: str = "slurm") -> None:
    """BadInput, beginning with what was typed, if this machine cannot ask one."""
    if not available():
        raise BadInput(f"{where}: there is no SLURM here (no squeue); type it on a login node")


def look(ids: Sequence[str]) -> dict[str, Job]:
    """Each of these jobs, by the id that was given. Unreachable if SLURM does not answer."""
    if not ids:
        return {}
    found = _by_id(_squeue("-j", ",".join(ids)))
    lost = [one for one in ids if one not in found]
    found |= _sacct(lost) if lost else {}
    return {one: replace(found.get(one, Job(one, "VANISHED")), id=one) for one in ids}


def mine() -> list[Job]:
    """All jobs of this user that SLURM still knows, ended ones for a few minutes."""
    return _squeue("--me")


def job_of(job_id: str, cluster: str = "") -> Job | None:
    """One job, from a look that is at most seconds old; None where nobody can be asked, or where
    `cluster` is another one."""
    if not available():
        return None
    try:
        if cluster and cluster != cluster_name():
            return None
        return _recent(job_id, int(time.monotonic() / FRESH_SECONDS))
    except Unreachable:
        return None


def here() -> str:
    """Id of the job that this process is part of, as people type it; empty outside of any."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID", "") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def restarts_here() -> int:
    """How often the job of this process was queued again."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0)


def marks() -> dict[str, str]:
    """Tags of a run that is computed by a job: where it ran, which code, where its log lies."""
    found = {
        "papertrail.job": here(),
        "papertrail.log": os.environ.get(LOG, ""),
        "papertrail.snapshot": os.environ.get(SNAPSHOT, ""),
    }
    return {tag: value for tag, value in found.items() if value}


@lru_cache
def cluster_name() -> str:
    """Name of the cluster that this machine asks or is part of; empty if nobody knows it.

    Unreachable if SLURM does not answer now: the next who asks may be told.
    """
    if name := os.environ.get("SLURM_CLUSTER_NAME"):
        return name
    if not available():
        return ""
    done = _run("scontrol", "show", "config")
    if done.returncode:
        raise Unreachable(f"SLURM: scontrol: {_line(done.stderr)}")
    lines = (line.partition("=") for line in done.stdout.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == "ClusterName"), "")


def cancel(ids: Sequence[str]) -> None:
    """Ask SLURM to cancel jobs; those that ended meanwhile are none of its business."""
    if ids:
        done = _run("scancel", "--quiet", *ids)
        if done.returncode and "Invalid job id" not in done.stderr:
            raise Unreachable(f"SLURM: scancel: {_line(done.stderr)}")


def read_squeue(text: str) -> list[Job]:
    """Jobs from lines of FIELDS, each ended by a bar; a comment may hold bars of its own."""
    jobs = []
    for line in text.splitlines():
        words = [word.strip() for word in line.strip().split("|")]
        if len(words) < len(FIELDS):
            continue
        shown, raw, word, reason, node, elapsed, restarts, code, steps = words[: len(FIELDS) - 1]
        if word == "FAILED" and steps.isdigit() and int(steps) & 0x7F == NO_MEMORY:
            word, reason = "OUT_OF_MEMORY", ""
        comment = "|".join(words[len(FIELDS) - 1 :]).rstrip("|")
        jobs.append(
            Job(
                shown, word, raw, reason, node, elapsed, int(restarts or 0), _exit(code),
                "" if comment == "(null)" else comment,
            )
        )  # fmt: skip
    return jobs


def read_sacct(text: str) -> list[Job]:
    """Jobs from sacct's lines of JobID|State|ExitCode|NodeList|Elapsed|DerivedExitCode; steps are
    left out."""
    jobs = []
    for line in text.splitlines():
        words = line.split("|")
        if len(words) >= 6 and words[0][:1].isdigit() and "." not in words[0]:
            shown, state, code, node, elapsed, steps = words[:6]
            word = state.split()[0] if state else "UNKNOWN"  # "CANCELLED by 1000"
            if word == "FAILED" and steps.endswith(f":{NO_MEMORY}"):
                word = "OUT_OF_MEMORY"
            exit_code = int(code.partition(":")[0] or 0)
            jobs.append(Job(shown, word, node=node, elapsed=elapsed, exit_code=exit_code))
    return jobs


def _exit(code: str) -> int:
    """The exit code behind squeue's number: a wait status."""
    return os.waitstatus_to_exitcode(int(code)) if code.isdigit() else 0


def _by_id(jobs: Iterable[Job]) -> dict[str, Job]:
    """By both ids. The raw one of an array's last element is that of the array as well."""
    found: dict[str, Job] = {}
    for one in jobs:
        found[one.id] = one
        found.setdefault(one.raw, one)
    return found


@lru_cache(maxsize=2)
def _all_of_mine(moment: int) -> dict[str, Job]:
    return _by_id(mine())


@lru_cache(maxsize=64)
def _recent(job_id: str, moment: int) -> Job:
    return _all_of_mine(moment).get(job_id) or look([job_id])[job_id]


def _squeue(*which: str) -> list[Job]:
    layout = ",".join(f"{name}:|" for name in FIELDS)
    done = _run("squeue", "--noheader", "--array", "--states=all", *which, f"--Format={layout}")
    if done.returncode and "Invalid job id" not in done.stderr:
        raise Unreachable(f"SLURM: squeue: {_line(done.stderr)}")
    return read_squeue(done.stdout)


def _sacct(ids: Sequence[str]) -> dict[str, Job]:
    """What the accounting remembers, where a cluster keeps one."""
    if shutil.which("sacct") is None:
        return {}
    fields = "--format=JobID,State,ExitCode,NodeList,Elapsed,DerivedExitCode"
    done = _run("sacct", "--noheader", "--parsable2", "--allocations", fields, "-j", ",".join(ids))
    return {one.id: one for one in read_sacct(done.stdout)}


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreachable(f"SLURM: {command[0]}: {error}") from None


def _line(text: str) -> str:
    return " ".join(text.split()) or "no answer"
