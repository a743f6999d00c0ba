"""Starts the parts in order, restarts what dies, stops all of them in order."""

import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from papertrail.core import progress, stopping
from papertrail.core.errors import Missing
from papertrail.server import parts
from papertrail.server.parts import Part

PATIENCE_SECONDS = 180.0  # MLflow makes its tables first, maybe on a busy machine
LOOK_SECONDS = 0.2
STEADY_SECONDS = 60.0  # who lived that long may begin anew with the shortest wait
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds
TRIES = 8


@dataclass
class Running:
    """A part and the process that it is now."""

    part: Part
    process: "subprocess.Popen[bytes]"
    since: float
    deaths: int = 0
    """Since it last was steady."""

    @property
    def ending(self) -> str:
        """How it ended, in a few words; empty while it lives."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended ({code})"


class Supervisor:
    """The parts of one server, as they run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Running] = []

    def start(self, part: Part) -> None:
        """Start a part and wait until it works; Missing, with what it said last, if it does not."""
        with stopping.between_steps():  # a signal in here would lose a process just born
            try:
                process = parts.start(part, self.folder)
            except OSError as error:  # no such program, or no right to run it
                raise Missing(f"{part.name}: cannot be started ({error})") from None
            self.running.append(Running(part, process, time.monotonic()))
        if trouble := self._trouble(self.running[-1]):
            self._quote(part)
            raise Missing(f"{part.name} {trouble}; its log: {parts.log_of(self.folder, part.name)}")

    def watch(self) -> None:
        """For ever: whatever ends is started again."""
        while True:
            for one in self.running:
                if one.ending:
                    self._restart(one)
            time.sleep(LOOK_SECONDS)

    def stop(self) -> None:
        """Stop everything, last started first: who needs another goes before it."""
        for one in reversed(self.running):
            if late := parts.stop(one.part, one.process, self.folder):
                progress.say(f"server: {late}")
        self.running.clear()
        parts.forget(self.folder)

    def _restart(self, one: Running) -> None:
        name, died = one.part.name, time.monotonic()
        if died - one.since > STEADY_SECONDS:
            one.deaths = 0
        trouble = one.ending
        while trouble:
            one.deaths += 1
            if one.deaths > TRIES:
                self._quote(one.part)
                raise Missing(f"{name} {trouble}, {TRIES} times in a row; everything was stopped")
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (one.deaths - 1))
            progress.say(f"server: {name} {trouble}; starting it again in {wait:g} s")
            time.sleep(wait)
            parts.stop(
                one.part, one.process, self.folder
            )  # what it left: MLflow's worker keeps the port
            with stopping.between_steps():
                one.process = parts.start(one.part, self.folder)
                one.since = time.monotonic()
            trouble = self._trouble(one)
        progress.say(f"server: {name} is back after {time.monotonic() - died:.1f} s")

    def _trouble(self, one: Running) -> str:
        """Why it does not work, once that is clear; empty when it works."""
        for works in parts.waited(one.part.ready, PATIENCE_SECONDS):
            if works:
                return ""
            if one.ending:
                return one.ending
        return f"did not answer within {PATIENCE_SECONDS:.0f} s"

    def _quote(self, part: Part) -> None:
        for line in parts.last_lines(self.folder, part.name):
            progress.say(f"{part.name}: {line}")


@contextmanager
def supervised(folder: Path, wanted: Sequence[Part]) -> Iterator[Supervisor]:
    """A supervisor whose parts all work; none runs any more when the block ends."""
    found = Supervisor(folder)
    try:
        for part in wanted:
            found.start(part)
        yield found
    finally:
        with stopping.unheard():  # Ctrl-C now would leave parts running
            found.stop()
