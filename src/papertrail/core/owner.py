"""Who is computing a run, and whether that process still lives: evidence, never a guess.

MLflow leaves a killed run RUNNING for ever, so a run carries its owner: host, boot, process id
and that process's start time (ids are used again; start times on one boot are not).
"""

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
    """Start of the process, seconds since the epoch."""

    @classmethod
    def current(cls) -> "Owner":
        return cls(socket.gethostname(), _boot(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> "Owner":
        return cls(**json.loads(text))

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    def alive(self) -> bool | None:
        """True or False on evidence; None when this machine cannot know (another host)."""
        if self.host != socket.gethostname():
            return None
        if self.boot != _boot() or not psutil.pid_exists(self.pid):
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.started) < 1.0
        except psutil.NoSuchProcess:
            return False


def _boot() -> str:
    """Name of this boot of the machine; its start time where the kernel gives no id."""
    kernel = Path("/proc/sys/kernel/random/boot_id")
    return kernel.read_text().strip() if kernel.exists() else str(int(psutil.boot_time()))
