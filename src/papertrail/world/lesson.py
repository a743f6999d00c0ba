"""What a training of the world study learns from, and for how long.

Axes: B rows, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import Qwen2ForCausalLM

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import narrow
from papertrail.world import mixes
from papertrail.world.config import WORLD_PRETRAIN
from papertrail.world.data import Rows, open_rows
from papertrail.world.mixes import Mixture, Part
from papertrail.world.model import build
from papertrail.world.models import loaded
from papertrail.world.options import Schedule
from papertrail.world.schemas import FinetuneConfig, PretrainConfig
from papertrail.world.spelling import spelling


@dataclass(frozen=True, eq=False)
class Lesson:
    """A model, its rows and its schedule."""

    model: Qwen2ForCausalLM
    mixture: Mixture
    schedule: Schedule
    validation: Sequence[Int64[Tensor, "_ _"]]
    """Batches of the rows that are learnt in earnest, kept for validation."""
    seed: int
    """Of the order of the rows."""
    equals: int
    """The token between a question and its answer."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.mixture.steps_per_epoch(self.schedule.batch_size) * self.schedule.epochs

    @property
    def num_rows(self) -> int:
        """Rows seen, each as often as there are epochs."""
        return len(self.mixture) * self.schedule.epochs

    def batch(self, step: int) -> Int64[Tensor, "B T"]:
        """The rows of an optimizer step, from 0."""
        return self.mixture.batch(step, self.schedule.batch_size, self.seed)


def pretraining(config: PretrainConfig) -> Lesson:
    """A new model, and rows about real cities."""
    model = build(config.model, spelling(config.world).size, config.seed)
    return _lesson(config, model, config.pretrain, mixes.pretraining(config))


def finetuning(config: FinetuneConfig) -> Lesson:
    """The base model of the same seed, and the rows of `mix`; BadInput where it names no task."""
    if not config.mix.tasks:
        raise BadInput("mix.tasks: nothing to fine-tune on ([]); name one task or several")
    model = loaded(require(WORLD_PRETRAIN, narrow(config, PretrainConfig)))
    return _lesson(config, model, config.finetune, mixes.finetuning(config))


def _lesson(
    config: PretrainConfig, model: Qwen2ForCausalLM, schedule: Schedule, parts: Sequence[Part]
) -> Lesson:
    _refuse_to_spread(config)
    rows = open_rows(config)
    return Lesson(
        model=model,
        mixture=Mixture(mixes.assemble(rows, parts, config.world.seed)),
        schedule=schedule,
        validation=_validation(rows, parts, schedule.batch_size),
        seed=config.seed,
        equals=spelling(config.world).equals,
    )


def _refuse_to_spread(config: PretrainConfig) -> None:
    """Rows have unequal numbers of tokens: a mean of means would be another loss."""
    compute = config.compute
    for option, value in (("devices", compute.devices), ("accumulate", compute.accumulate)):
        if value != 1:
            raise BadInput(
                f"compute.{option}: these models are small and train whole ({value}); leave it at "
                f"1 and train several side by side with run.workers"
            )


def _validation(rows: Rows, parts: Sequence[Part], size: int) -> list[Int64[Tensor, "_ _"]]:
    most = max(part.rows for part in parts)
    kinds = dict.fromkeys((part.kind, part.task) for part in parts if part.rows == most)
    found = [torch.from_numpy(rows.get(kind, task, "val").astype("int64")) for kind, task in kinds]
    return [batch for one in found for batch in torch.split(one, size)]
