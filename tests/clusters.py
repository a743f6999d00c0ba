"""A real SLURM for tests, a project whose runs it computes, and people who type commands there."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cluster_toys
import psutil
from conftest import ROOT

from papertrail.cluster.book import Book
from papertrail.cluster.queue import book_of
from papertrail.core import slurm
from papertrail.core.question import cli
from papertrail.core.question.experiment import Question
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.slurm import Job
from papertrail.core.storage.store import Store

ASKED = "PAPERTRAIL_SLURM_TESTS"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
T = TypeVar("T")
PATIENCE_SECONDS = 240.0
COMMAND = ("run.launcher=slurm", "run.slurm.poll_seconds=0.5", "run.slurm.signal_seconds=25")


def why_not() -> str:
    """Why the tests on a real cluster cannot run, or shall not."""
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"no {', '.join(missing)} here: make slurm-test installs SLURM"
    return "" if os.environ.get(ASKED) else f"minutes long: make slurm-test, or {ASKED}=1"


def limits_memory() -> bool:
    """Whether a cluster of this machine can keep jobs within their memory."""
    return os.access("/sys/fs/cgroup/memory/memory.limit_in_bytes", os.W_OK)


@contextmanager
def cluster(*words: str) -> Iterator[Path]:
    """Four nodes on this machine; their folder. The environment names them while it lasts."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
    start, before = [ROOT / "tests/slurm/start", folder, *words], os.environ.get("SLURM_CONF")
    try:
        said = subprocess.run(start, stdout=subprocess.PIPE, text=True, check=True).stdout
        os.environ["SLURM_CONF"] = said.strip().partition("=")[2]
        yield folder
    finally:
        subprocess.run([ROOT / "tests/slurm/stop", folder], check=True)
        os.environ.pop("SLURM_CONF", None)
        if before:
            os.environ["SLURM_CONF"] = before
        shutil.rmtree(folder, ignore_errors=True)


def make_project(folder: Path) -> Path:
    """A copy of this project with the toys in it, in a git repository of its own."""
    leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "entrypoints", "conf"):
        shutil.copytree(ROOT / name, folder / name, ignore=leave_out)
    shutil.copy(ROOT / "MLproject", folder)
    shutil.copy(cluster_toys.__file__, folder / "src")
    for name in cluster_toys.BY_NAME:
        (folder / "entrypoints" / f"{name}.py").write_text(
            "import cluster_toys\nfrom papertrail.core.question.cli import launch\n"
            f"launch(cluster_toys.BY_NAME[{name!r}])\n"
        )
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", "entrypoints", "conf"], ["commit", "-q", "-m", "toys"]):
        subprocess.run([*git, *words], check=True)
    return folder


@dataclass
class Person:
    """A command that somebody typed on the login node."""

    process: "subprocess.Popen[str]"

    def ended(self) -> tuple[int, str, str]:
        """Its exit code, and what it said."""
        out, err = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, out, err

    def kill(self, number: int = signal.SIGKILL) -> str:
        """Send a signal; what it said on stderr."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[1]


@dataclass(frozen=True)
class Laboratory:
    """A project, its store and the cluster."""

    project: Path
    store: Store
    nodes: Path
    people: list[Person] = field(default_factory=list)
    """All who ever typed something."""

    @property
    def book(self) -> Book:
        return book_of(self.store)

    def types(self, name: str, *options: str, away: bool = True) -> Person:
        """Somebody types an entry point, by default with SLURM as its launcher."""
        words = [f"--{option}" for option in (*(COMMAND if away else ()), *options)]
        words = [sys.executable, str(self.project / "entrypoints" / f"{name}.py"), *words]
        environment = os.environ | {"PYTHONPATH": str(self.project / "src")}
        environment.pop(cli.ORDER, None)
        pipe = subprocess.PIPE
        person = Person(
            subprocess.Popen(
                words,
                env=environment,
                stdout=pipe,
                stderr=pipe,
                text=True,
                cwd=self.project,
                preexec_fn=hear_interrupts,
            )
        )
        self.people.append(person)
        return person

    def leave(self) -> None:
        """End whoever still waits: a test of his failed."""
        for person in self.people:
            if person.process.returncode is None:
                person.kill()

    def runs(self, question: Question) -> list[Record]:
        """Every run of a question, newest first."""
        digest = identify(question.experiment, question.config).digest
        return query.by_identities([digest], self.store)[digest]

    def at_work(self, question: Question, step: int = 2) -> Record:
        """Its run, once it has taken so many steps."""

        def look() -> Record | None:
            found = self.runs(question)
            if not found or found[0].status != "RUNNING":
                return None
            folder = self.store.folder(found[0].tags["papertrail.identity"]) / "checkpoints"
            return found[0] if len(list(folder.glob("*.ckpt"))) >= step else None

        return until(look, f"{question.config} at work")

    def jobs(self) -> dict[str, Job]:
        """All that were ever handed over, as they are now or were at their end."""
        known = self.book.submissions()
        seen = slurm.look([job for one in known for job in one.open_ids()])
        return seen | {job: end for one in known for job, end in one.ends.items()}

    def handed_over(self, question: Question) -> list[str]:
        """The jobs that ever computed it."""
        digest = identify(question.experiment, question.config).digest
        return [
            job
            for one in self.book.submissions()
            if one.job
            for job in one.ids()
            if any(task.identity == digest for task in one.of(job))
        ]

    def history(self, record: Record, metric: str = "step") -> list[tuple[int, float]]:
        found = self.store.client.get_metric_history(record.run_id, metric)
        return sorted((one.step, one.value) for one in found)


def until(look: Callable[[], T | None], what: str) -> T:
    """What `look` gives, once it gives something."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.2)
    raise AssertionError(f"it never happened: {what}")


def hear_interrupts() -> None:
    """Whoever starts the tests in the background has them ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def scontrol(*words: str) -> str:
    return subprocess.run(["scontrol", *words], check=True, capture_output=True, text=True).stdout


def children_of_job(raw: str) -> list[psutil.Process]:
    """Everything that runs for a job on its node, SLURM's own processes first."""
    steps = [
        one
        for one in psutil.process_iter(["cmdline"])
        if re.match(rf"slurmstepd: \[{raw}\.", " ".join(one.info["cmdline"] or []))
    ]
    return [*steps, *(child for step in steps for child in step.children(recursive=True))]


def began_at(record: Record) -> list[int]:
    """The steps at which its tries began."""
    return sorted(int(tag.split(".")[1]) for tag in record.tags if tag.startswith("began_at."))
