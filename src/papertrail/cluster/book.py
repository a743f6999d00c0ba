"""What was handed over to SLURM, kept under the store's work folder: whoever types the same
command again, after the first process died, finds the jobs that go on.

A submission is written down before it is made and carries its name as the comment of its jobs, so
one that was made and not noted any more is found in the queue.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from papertrail.cluster.node import End, log_of, read_end
from papertrail.cluster.stages import Task
from papertrail.core import slurm
from papertrail.core.answering.workers import Words
from papertrail.core.slurm import Job

MARK = "papertrail"


@dataclass(frozen=True)
class Submission:
    """One job, or one array of them."""

    token: str
    when: str
    """Local time, as people write it."""
    snapshot: str
    elements: tuple[tuple[Task, ...], ...]
    """The commands of each job."""
    job: str = ""
    """SLURM's id; empty until it is known."""
    ends: Mapping[str, Job] = field(default_factory=dict)
    """Jobs that ended, as SLURM last spoke of them: it forgets."""

    @property
    def comment(self) -> str:
        return f"{MARK} {self.token}"

    def ids(self) -> list[str]:
        """Of its jobs, in the order of `elements`."""
        if len(self.elements) == 1:
            return [self.job]
        return [f"{self.job}_{number}" for number in range(len(self.elements))]

    def open_ids(self) -> list[str]:
        """Of the jobs that were not seen to end."""
        return [job for job in self.ids() if job not in self.ends] if self.job else []

    def of(self, job: str) -> tuple[Task, ...]:
        """The commands of one of its jobs."""
        return self.elements[self.ids().index(job)]


@dataclass(frozen=True)
class Book:
    """All submissions of a store."""

    folder: Path

    def home(self, one: Submission) -> Path:
        """Where the files of its jobs lie."""
        return self.folder / one.token

    def log(self, one: Submission, job: str, number: int) -> Path:
        """What the command with this number of a job prints."""
        return log_of(self.home(one), job, number)

    def end(self, one: Submission, job: str) -> End | None:
        """What a job said of its own end."""
        return read_end(self.home(one), job)

    def note(self, one: Submission) -> None:
        """Write a submission down, at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Of its own name: `status` writes what it saw while the launcher does.
        part = self.folder / f".{one.token}.{secrets.token_hex(4)}.json"
        tree = asdict(one)
        for tasks in tree["elements"]:
            for task in tasks:
                task["needs"] = sorted(task["needs"])
        part.write_text(json.dumps(tree), encoding="utf-8")
        part.replace(self.folder / f"{one.token}.json")

    def forget(self, one: Submission) -> None:
        """It was never made."""
        (self.folder / f"{one.token}.json").unlink(missing_ok=True)

    def submissions(self) -> list[Submission]:
        """All of them, oldest first."""
        found = [_read(path) for path in self.folder.glob("[!.]*.json")]
        return sorted(found, key=lambda one: (one.when, int(one.job or 0), one.token))

    def open(self) -> list[Submission]:
        """Those whose jobs were not all seen to end, after a search for lost ones.

        Only for who holds the lock of the book: others may be writing.
        """
        found = [self._found(one) for one in self.submissions() if one.open_ids() or not one.job]
        return [one for one in found if one is not None]

    def see(self, one: Submission, seen: Mapping[str, Job]) -> Submission:
        """Note which of its jobs ended, as SLURM says now."""
        ended = {job: seen[job] for job in one.open_ids() if job in seen and seen[job].ended}
        if not ended:
            return one
        one = replace(one, ends={**one.ends, **ended})
        self.note(one)
        return one

    def _found(self, one: Submission) -> Submission | None:
        """With its id, if its jobs are in the queue although nobody lived to note it."""
        if one.job:
            return one
        ids = [job.id for job in slurm.mine() if job.comment == one.comment]
        if not ids:
            self.forget(one)
            return None
        one = replace(one, job=ids[0].partition("_")[0])
        self.note(one)
        return one


def key(words: Words) -> Words:
    """A command, wherever its project lies."""
    return (Path(words[0]).name, *words[1:])


def pairs(submissions: Sequence[Submission]) -> Iterator[tuple[Submission, str]]:
    """Every job that was not seen to end, with its submission."""
    for one in submissions:
        yield from ((one, job) for job in one.open_ids())


def _read(path: Path) -> Submission:
    tree = json.loads(path.read_text(encoding="utf-8"))
    elements = tuple(tuple(_task(task) for task in tasks) for tasks in tree.pop("elements"))
    ends = {job: Job(**facts) for job, facts in tree.pop("ends").items()}
    return Submission(**tree, elements=elements, ends=ends)


def _task(tree: dict[str, object]) -> Task:
    words, needs = tree.pop("words"), tree.pop("needs")
    assert isinstance(words, list) and isinstance(needs, list)
    return Task(tuple(words), frozenset(map(tuple, needs)), **tree)  # type: ignore[arg-type]
