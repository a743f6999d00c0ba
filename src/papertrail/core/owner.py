"""Who is computing a run, and whether that process still lives: evidence, never a guess.

MLflow leaves a killed run RUNNING for ever, so a run carries its owner: machine, boot, process id
and that process's start (ids are used again; start times on one boot are not).
"""

import getpass
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil


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

    @classmethod
    def current(cls) -> "Owner":
        return cls(
            host=socket.gethostname(),
            boot=_boot(),
            pid=os.getpid(),
            started=_start(os.getpid()),
            machine=_read("/etc/machine-id"),
            namespace=_namespace(),
            slurm=os.environ.get("SLURM_JOB_ID", ""),
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
        """True or False on evidence; None when this process cannot know."""
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
