"""The base model of a seed, and its fine-tunings."""

import time

from papertrail.core.question.compute import Compute
from papertrail.core.training.fit import fit
from papertrail.core.writing import track
from papertrail.world import lesson, together
from papertrail.world.config import model_name
from papertrail.world.lesson import Lesson
from papertrail.world.model import WorldModel
from papertrail.world.models import finish
from papertrail.world.schemas import FinetuneConfig, PretrainConfig


def pretrain(config: PretrainConfig) -> None:
    """A base model from random weights, on rows about real cities."""
    learnt = lesson.pretraining(config)
    track.describe(
        f"A Qwen2 of {learnt.model.num_parameters():,} parameters learns about "
        f"{config.world.cities} real cities through {', '.join(config.pretrain.tasks)}."
    )
    _fit(learnt, config.compute, "pretraining")
    _finish(learnt)


def finetune(config: FinetuneConfig) -> None:
    """The base model of the same seed learns about Atlantis, in the tasks of `mix`."""
    learnt, tasks = lesson.finetuning(config), config.mix.tasks
    track.describe(
        f"The base model of seed {config.seed} learns about Atlantis through {' and '.join(tasks)}."
    )
    if not together.take(learnt):
        _fit(learnt, config.compute, f"fine-tuning on {model_name(tasks)}")
    _finish(learnt)


def _fit(learnt: Lesson, compute: Compute, label: str) -> None:
    begin = time.monotonic()
    fit(
        WorldModel(learnt.model, learnt.schedule, learnt.equals),
        learnt.batch,
        learnt.validation,
        steps=learnt.steps,
        seed=learnt.seed,
        compute=compute,
        clip=learnt.schedule.clip,
        label=label,
    )
    track.metrics({"train/seconds": time.monotonic() - begin})


def _finish(learnt: Lesson) -> None:
    track.metrics({"train/rows": learnt.num_rows})
    finish(learnt.model)
