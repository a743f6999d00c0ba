"""Fine-tunings of one shape that were trained as one batched model before their runs are opened.

Each run still is a run of its own: it takes the weights that belong to its identity, and logs what
it would have logged. Only a process that trained them knows of them.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from papertrail.core.answering import launch
from papertrail.core.answering.standing import standings
from papertrail.core.question.experiment import Question
from papertrail.core.question.identity import identify
from papertrail.core.storage.store import Store
from papertrail.core.training.fit import logged_every
from papertrail.core.writing import track
from papertrail.world import lesson
from papertrail.world.lesson import Lesson
from papertrail.world.models import placed
from papertrail.world.stacked import train_stacked


@dataclass(frozen=True)
class _Trained:
    """What is left of one of several trainings."""

    weights: dict[str, Tensor]
    losses: list[float]
    """Of every optimizer step, in nats."""
    others: int
    seconds: float
    """Of all of them together."""


_TRAINED: dict[str, _Trained] = {}
"""Identity of a fine-tuning -> its weights, until its run has taken them."""


def answer(questions: Sequence[Question], at_once: int, store: Store) -> None:
    """The runs of these fine-tunings, those that are missing trained so many at a time."""
    found = standings(questions, store)
    missing = [q for q, one in zip(questions, found, strict=True) if not one.usable]
    with launch.pool(1):  # the process that holds their weights
        for begin in range(0, len(missing), at_once):
            group = missing[begin : begin + at_once]
            _train(group)
            launch.require_all(group, store)


def _train(questions: Sequence[Question]) -> None:
    begin = time.monotonic()
    lessons = [lesson.finetuning(question.config) for question in questions]
    models = [placed(one.model, questions[0].config.compute) for one in lessons]
    losses = train_stacked(
        models,
        lambda step: [one.batch(min(step, one.steps - 1)).to(models[0].device) for one in lessons],
        [one.schedule for one in lessons],
        [one.steps for one in lessons],
        lessons[0].equals,
    )
    seconds = time.monotonic() - begin
    for question, one, curve in zip(questions, lessons, losses, strict=True):
        digest = identify(question.experiment, question.config).digest
        weights = {name: value.detach().cpu() for name, value in one.model.state_dict().items()}
        _TRAINED[digest] = _Trained(weights, curve, len(lessons) - 1, seconds)


def take(learnt: Lesson) -> bool:
    """Put the weights that were trained for the open run into its model, if there are any."""
    found = _TRAINED.pop(track.run().identity.digest, None)
    if found is None:
        return False
    learnt.model.load_state_dict(found.weights)
    every = logged_every(learnt.steps)
    for step in range(every - 1, learnt.steps, every):
        track.metrics({"train/loss": found.losses[step]}, step)
    track.metrics({"train/seconds": found.seconds / (found.others + 1)})
    track.tags({"papertrail.trained_with": f"{found.others} others, as one batched model"})
    return True
