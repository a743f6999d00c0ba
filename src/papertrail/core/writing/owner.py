"""Who is computing a run, and whether that process still lives: evidence, never a guess.

MLflow leaves a killed run RUNNING for ever, so a run carries its owner: machine, boot, process id
and that process's start (ids are used again; start times on one boot are not).
"""

import getpass
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from papertrail.core.slurm import Job, here, job_of, restarts_here


@dataclass(frozen=True)
class Owner:
    host: str
    boot: str
    pid: int
    started: float
    """Start of the process in seconds since the boot: a clock that is set does not move it."""
    machine: str = ""
    """Id of the installation: several containers may share a host name."""
    namespace: str = ""
    """Where process ids count: pid 1 of one container is not pid 1 of another."""
    slurm: str = ""
    """Id of the SLURM job, where it is one."""
    element: str = ""
    """The same job as an element of its array, 12_3; else the id again."""
    restarts: int = 0
    """How often that job had been queued again."""
    cluster: str = ""
    """Where its id counts."""

    @classmethod
    def current(cls) -> "Owner":
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "Owner":
        """A process of this machine; psutil.NoSuchProcess if it has ended."""
        return cls(
            host=socket.gethostname(),
            boot=_boot(),
            pid=pid,
            started=_start(pid),
            machine=_read("/etc/machine-id"),
            namespace=_namespace(),
            slurm=os.environ.get("SLURM_JOB_ID", ""),
            element=here(),
            restarts=restarts_here(),
            cluster=os.environ.get("SLURM_CLUSTER_NAME", ""),
        )

    @classmethod
    def parse(cls, text: str) -> "Owner":
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def name(self) -> str:
        """For people: where to look."""
        job = f", SLURM job {self.slurm}" if self.slurm else ""
        return f"process {self.pid} on {self.host}{job}"

    def alive(self) -> bool | None:
        """True or False on evidence; None when this process cannot know.

        True as well of a process that ended while its job waits or runs again: the job goes on
        with the run. Only that job itself takes the run back.
        """
        lives = self._process_lives()
        if lives or not self.slurm:
            return lives
        if self.was_before(self.current()):
            return False
        job = self.job()
        if job is None or job.state == "vanished":
            return lives
        if job.ended:
            return False
        return True if job.state == "pending" or job.restarts > self.restarts else lives

    def job(self) -> Job | None:
        """Its SLURM job as it is now; None if it has none, or nobody here can ask about it."""
        return job_of(self.element or self.slurm, self.cluster) if self.slurm else None

    def obituary(self) -> str:
        """How it ended, as far as anybody knows."""
        job = self.job()
        if job is not None and job.state not in ("running", "completed"):
            return f"its process died; {job}"
        return "its process died"

    def was_before(self, other: "Owner") -> bool:
        """Whether it belongs to the same job, before that was queued again."""
        same = (self.slurm, self.cluster) == (other.slurm, other.cluster)
        return same and self.restarts < other.restarts

    def _process_lives(self) -> bool | None:
        here = Owner.current()
        if (self.host, self.machine) != (here.host, here.machine):
            return None
        if self.boot != here.boot:
            # Machines that share a name and have no id of their own may be two machines.
            return False if self.machine else None
        if self.namespace != here.namespace:
            return None
        try:
            return abs(_start(self.pid) - self.started) < 1.0
        except psutil.NoSuchProcess:
            return False


def owner_of(tags: Mapping[str, str]) -> Owner | None:
    """Who computes, or computed, the run with these tags; None if it does not say."""
    text = tags.get("papertrail.owner")
    return Owner.parse(text) if text else None


def was_ours(tags: Mapping[str, str]) -> bool:
    """Whether a run with these tags was begun by this very job, before it was queued again."""
    owner = owner_of(tags)
    return owner is not None and owner.was_before(Owner.current())


def goes_on(tags: Mapping[str, str]) -> bool:
    """Whether the job that began a run with these tags was queued again."""
    owner = owner_of(tags)
    return was_ours(tags) or (owner is not None and owner.alive() is True)


def user() -> str:
    """Name of the person whose process this is."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as containers have
        return f"user {os.getuid()}"


def _start(pid: int) -> float:
    """Start of a process in seconds since the boot, where the kernel says so."""
    if not psutil.pid_exists(pid):
        raise psutil.NoSuchProcess(pid)
    try:
        # The name, in parentheses, may hold spaces; the start is the 20th word behind it.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if words[0] == "Z":  # dead, and nobody asked for its exit code yet
            raise psutil.NoSuchProcess(pid)
        return int(words[19]) / os.sysconf("SC_CLK_TCK")
    except FileNotFoundError:
        return psutil.Process(pid).create_time()


def _boot() -> str:
    """Name of this boot of the machine; its start time where the kernel gives no id."""
    return _read("/proc/sys/kernel/random/boot_id") or str(int(psutil.boot_time()))


def _namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""  # not Linux: one machine has one


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
