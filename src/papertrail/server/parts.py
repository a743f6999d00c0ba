"""A program that belongs to the server: how it is started, asked whether it works, and stopped.

Each leads a session of its own, so that Ctrl-C reaches nobody but us and what it starts can be
found. Who was started stands in a ledger: a supervisor that was killed leaves its parts behind,
and the next one stops exactly those, by process id and start time.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from papertrail.core.writing.owner import Owner

LEDGER, LOGS = "running.json", "logs"
MARK = "PAPERTRAIL_SERVER"
"""Environment variable of every part: the folder of its server."""
GRACE_SECONDS = 15.0
LARGE_LOG = 32 << 20  # bytes, looked at when a part starts; one older log is kept


@dataclass(frozen=True, kw_only=True)
class Part:
    """One program of the server."""

    name: str
    words: tuple[str, ...]
    """Its command line; never a secret."""
    environment: Mapping[str, str]
    """All of it."""
    ready: Callable[[], bool]
    """Whether it does its work."""
    user: str | None = None
    """Who runs it, if not we."""
    ends_by: signal.Signals = signal.SIGTERM
    """The signal by which it ends in order."""


def log_of(folder: Path, name: str) -> Path:
    """The file in which a part says what it does."""
    return folder / LOGS / f"{name}.log"


def last_lines(folder: Path, name: str, count: int = 8) -> list[str]:
    """What a part said last."""
    with log_of(folder, name).open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 8_000))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.rstrip() for line in lines if line.strip()][-count:]


def start(part: Part, folder: Path) -> "subprocess.Popen[bytes]":
    """Start a part, and note that it runs."""
    log = log_of(folder, part.name)
    log.parent.mkdir(exist_ok=True)
    if log.exists() and log.stat().st_size > LARGE_LOG:
        log.replace(log.with_suffix(".log.1"))
    with log.open("ab") as file:
        process = subprocess.Popen(
            part.words, env={**part.environment, MARK: str(folder)}, user=part.user,
            extra_groups=None if part.user is None else (), cwd="/", stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    with suppress(psutil.NoSuchProcess):  # it has ended already: whoever waits for it says so
        _note(folder, part, process.pid)
    return process


def stop(part: Part, process: "subprocess.Popen[bytes]", folder: Path) -> str:
    """Have it end in order, and kill what does not; what had to be killed, empty if nothing."""
    if process.poll() is None:
        process.send_signal(part.ends_by)
    try:
        process.wait(GRACE_SECONDS)
        late = ""
    except subprocess.TimeoutExpired:
        late = f"{part.name} did not stop in {GRACE_SECONDS:.0f} s and was killed"
        process.kill()
        process.wait()
    _kill(_led_by(process.pid, folder))
    return late


def stop_leftovers(folder: Path) -> list[str]:
    """Stop what a supervisor that was killed left of this folder's server; the names of it."""
    ledger = folder / LEDGER
    noted = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else {}
    found = []
    for name, note in reversed(noted.items()):
        owner = Owner.parse(note["owner"])
        alive = owner.alive() is True
        if alive:
            with suppress(psutil.NoSuchProcess):  # it has just ended by itself
                leader = psutil.Process(owner.pid)
                leader.send_signal(note["ends_by"])
                _, late = psutil.wait_procs([leader], GRACE_SECONDS)
                _kill(late)
        others = _led_by(owner.pid, folder)
        _kill(others)
        found += [name] if alive or others else []
    ledger.unlink(missing_ok=True)
    return found


def forget(folder: Path) -> None:
    """Everything was stopped in order."""
    (folder / LEDGER).unlink(missing_ok=True)


def _note(folder: Path, part: Part, pid: int) -> None:
    ledger = folder / LEDGER
    noted = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else {}
    noted[part.name] = {"owner": str(Owner.of(pid)), "ends_by": int(part.ends_by)}
    aside = ledger.with_suffix(".part")
    aside.write_text(json.dumps(noted, indent=1), encoding="utf-8")
    aside.replace(ledger)


def _led_by(leader: int, folder: Path) -> list[psutil.Process]:
    """Whoever a part left in its session. The mark: the leader's id may be another's by now."""
    return [one for one in psutil.process_iter() if _is_left(one, leader, folder)]


def _is_left(one: psutil.Process, leader: int, folder: Path) -> bool:
    try:
        return os.getsid(one.pid) == leader and one.environ().get(MARK) == str(folder)
    except (OSError, psutil.Error):
        return False


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()  # psutil looks at the start time first
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, GRACE_SECONDS)


def waited(until: Callable[[], bool], seconds: float, every: float = 0.1) -> Iterator[bool]:
    """False until something holds, then True, once; nothing more when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if until():
            yield True
            return
        yield False
        time.sleep(every)
