"""How far, and how long still: a bar with ETA in a terminal, silence elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

WORKER = "PAPERTRAIL_WORKER"
"""Environment variable of a process that shares its terminal with the one that asks it: that one
alone draws bars."""
Report = Callable[[float], None]
"""Takes the fraction done, 0..1."""


class Pace:
    """Seconds left, from the share done since this process began (a resumed run begins late)."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._first: float | None = None

    def seconds_left(self, done: float) -> float | None:
        """None until there is progress to extrapolate from."""
        if self._first is None:
            self._first = done
        gained = done - self._first
        elapsed = time.monotonic() - self._begin
        return elapsed * (1 - done) / gained if gained > 0 else None


@contextmanager
def bar(label: str) -> Iterator[Report]:
    """A rich progress bar on stderr; nothing where stderr is no terminal, or in a worker."""
    if not sys.stderr.isatty() or WORKER in os.environ:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(label, total=1.0)
        yield lambda done: progress.update(task, completed=done)


_SAID: set[str] = set()


def say_once(key: str, line: str) -> None:
    """A line for the first of many that are alike: a table reads a thousand runs."""
    if key not in _SAID:
        _SAID.add(key)
        say(line)


def say(line: str) -> None:
    """One line about what the laboratory does, on stderr: stdout belongs to results."""
    print(line, file=sys.stderr, flush=True)


def duration(seconds: int | float) -> str:
    """A time as people say it: 0.25 s, 45 s, 12 min, 3 h 20 min, 2 d 4 h."""
    if seconds < 1:
        return f"{seconds:.2f} s"
    if round(seconds) < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def confirm(question: str) -> bool:
    """Ask a person; where there is none, the answer is yes: a batch job was decided before."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
