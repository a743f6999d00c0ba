"""Many real processes for the price of one import of mlflow: each is forked from a server.

A process types a command (`launch(experiment)` with its words) in an environment of its own; what
it says goes to files, and how it ended is its exit code, a signal's number negative.
"""

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import toy
from conftest import ROOT
from toy import TOY

from papertrail.core.question.cli import launch
from papertrail.core.question.experiment import Experiment

NEEDED = (
    "mlflow.store.artifact.local_artifact_repo",
    "mlflow.store.tracking.sqlalchemy_store",
    "pandas",
    "papertrail.records.report",
    "sqlalchemy.dialects.sqlite",
)
"""What every process would import, some of it late: another user may not be able to any more."""
ENVIRONMENT = {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
PATIENCE_SECONDS = 120.0
Before = Callable[[], None]
"""What a process does first: lowers a limit, or arranges for its own death."""


def nothing() -> None:
    """Most processes just do as they are told."""


@dataclass
class Member:
    """A process of the crowd."""

    process: BaseProcess
    said: Path
    """What it wrote to stdout."""
    complained: Path
    """What it wrote to stderr."""

    @property
    def stdout(self) -> str:
        return self.said.read_text()

    @property
    def stderr(self) -> str:
        return self.complained.read_text()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def until(self, text: str) -> str:
        """Wait until it says `text`; the line in which it does."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            ended = not self.process.is_alive()
            for line in [*self.stdout.splitlines(), *self.stderr.splitlines()]:
                if text in line:
                    return line
            assert not ended, f"it ended without saying {text!r}: {self.stdout}{self.stderr}"
            time.sleep(0.02)
        raise AssertionError(f"it never said {text!r}: {self.stdout}{self.stderr}")

    def started(self) -> str:
        """Run id, once its toy is at work."""
        return self.until("working ").split()[2]

    def kill(self, number: int) -> int:
        """Send a signal and wait for its end."""
        os.kill(self.pid, number)
        return self.ended()

    def ended(self) -> int:
        """Its exit code, when it has ended."""
        self.process.join(PATIENCE_SECONDS)
        code = self.process.exitcode
        assert code is not None, f"it does not end: {self.stdout}{self.stderr}"
        return code

    def started_once(self) -> str:
        """Run id, of a process that may have ended since."""
        return next(line for line in self.stdout.splitlines() if "working " in line).split()[2]

    @property
    def answer(self) -> str:
        """Id of the run that its command ended with."""
        return next(line for line in self.stdout.splitlines() if line.startswith("run ")).split()[1]


@dataclass
class Crowd:
    """Processes that were started together; all are ended together."""

    folder: Path
    members: list[Member] = field(default_factory=list)

    def starts(
        self,
        *words: str,
        experiment: Experiment = TOY,
        before: Before = nothing,
        environment: Mapping[str, str] | None = None,
    ) -> Member:
        """A process that types these words; whoever forks it knows its functions by name only."""
        environment = dict(os.environ) | dict(environment or {})
        assert "MLFLOW_TRACKING_URI" in environment, "it would work in the store of the project"
        number = len(self.members)
        said, complained = (self.folder / f"{number}.{end}" for end in ("out", "err"))
        for path in (said, complained):
            path.touch()
        process = multiprocessing.get_context("forkserver").Process(
            target=_type,
            args=(
                experiment.name, words, before, environment, said, complained,
            ),
        )  # fmt: skip
        process.start()
        member = Member(process, said, complained)
        self.members.append(member)
        return member


@contextmanager
def crowd() -> Iterator[Crowd]:
    """A crowd; whoever of it still lives when the block ends is killed."""
    _warm()
    with tempfile.TemporaryDirectory() as folder:
        found = Crowd(Path(folder))
        try:
            yield found
        finally:
            for member in found.members:
                member.process.kill()
                member.process.join()


def _warm() -> None:
    """Have the server import what every process needs, once."""
    before = os.environ.copy()
    os.environ.update(ENVIRONMENT)  # it learns where our modules are when it starts, and only then
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "crowd", *NEEDED])
    from multiprocessing import forkserver

    forkserver.ensure_running()
    os.environ.clear()
    os.environ.update(before)


def _type(
    name: str,
    words: Sequence[str],
    before: Before,
    environment: Mapping[str, str],
    said: Path,
    complained: Path,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((said, 1), (complained, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    before()
    launch(toy.BY_NAME[name], words)
