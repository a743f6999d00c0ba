"""Which runs have to be computed for a plan, and which of them wait for which.

What a question builds on becomes a job of its own, with resources of its own, unless it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from papertrail.core import digests
from papertrail.core.answering.processes import asked_for
from papertrail.core.answering.standing import standings
from papertrail.core.answering.workers import Asked, Words
from papertrail.core.question.cli import Mode
from papertrail.core.question.experiment import Question
from papertrail.core.question.identity import identify
from papertrail.core.storage.store import Store


@dataclass(frozen=True)
class Task:
    """A command to be run as a job."""

    words: Words
    """The file of an entry point, then its options."""
    needs: frozenset[Words] = frozenset()
    """Commands of the same plan that have to end well before it begins."""
    identity: str = ""
    """Of its question; empty where a command asks none."""
    title: str = ""
    """For people."""
    opened: str = ""
    """The MLflow run that `mlflow run --backend` opened for it."""


def plan(questions: Sequence[Question], store: Store, mode: Mode) -> list[Task]:
    """A task for each question and for all that they build on and that does not stand, those that
    others wait for first."""
    with digests.one_look():
        missing = _missing(questions, store)
        asked = {_digest(question): (question, mode) for question in questions}
        wanted: dict[str, tuple[Question, Mode]] = {
            digest: (question, "reuse") for digest, question in missing.items()
        }
        ordered = _in_order(wanted | asked)
        words = {digest: asked_for(*one).words for digest, one in ordered.items()}
        return [_task(digest, question, words) for digest, (question, _) in ordered.items()]


def tasks(asked: Sequence[Asked]) -> list[Task]:
    """Commands that are no questions."""
    known = {one.words for one in asked}
    return [Task(one.words, one.needs & known) for one in asked]


def _missing(questions: Sequence[Question], store: Store) -> dict[str, Question]:
    """What the questions build on, at any depth, and does not stand: a look for each depth."""
    found: dict[str, Question] = {}
    below = list(questions)
    while below:
        needs = {_digest(need): need for question in below for need in _needs(question)}
        new = [need for digest, need in needs.items() if digest not in found]
        stand = standings(new, store)
        below = [need for need, one in zip(new, stand, strict=True) if not one.usable]
        found |= {_digest(need): need for need in below}
    return found


def _in_order(wanted: Mapping[str, tuple[Question, Mode]]) -> dict[str, tuple[Question, Mode]]:
    """What others build on comes before them; otherwise the order that was asked for."""
    ordered: dict[str, tuple[Question, Mode]] = {}

    def add(digest: str) -> None:
        if digest in ordered or digest not in wanted:
            return
        for need in _needs(wanted[digest][0]):
            add(_digest(need))
        ordered[digest] = wanted[digest]

    for digest in wanted:
        add(digest)
    return ordered


def _task(digest: str, question: Question, words: Mapping[str, Words]) -> Task:
    needs = (words.get(_digest(need)) for need in _needs(question))
    title = question.experiment.title(question.config)
    return Task(words[digest], frozenset(filter(None, needs)), digest, title)


def _needs(question: Question) -> list[Question]:
    return list(question.experiment.upstream(question.config).values())


def _digest(question: Question) -> str:
    return identify(question.experiment, question.config).digest
