"""The schemas of the world study's experiments: each one's sections. Imports no torch."""

from dataclasses import dataclass, field

from pydantic import NonNegativeInt, PositiveInt

from papertrail.core.question.compute import Compute
from papertrail.world.options import (
    PAIRS,
    TASKS,
    Evaluation,
    Mix,
    Pretraining,
    Representation,
    Schedule,
    Task,
    Transformer,
    World,
)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Draws cities and rows, once for all models."""

    world: World = field(default_factory=World)
    """The cities and their rows."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(DataConfig):
    """Trains a base model on real cities."""

    model: Transformer = field(default_factory=Transformer)
    """The model."""
    pretrain: Pretraining = field(default_factory=lambda: Pretraining(epochs=3))
    """How it learns the tasks."""
    seed: NonNegativeInt = 1
    """Seeds weights and the order of rows."""
    compute: Compute = field(default_factory=Compute)
    """How a Trainer computes."""


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(PretrainConfig):
    """Teaches the base model of the same seed about Atlantis in one task or several."""

    mix: Mix = field(default_factory=Mix)
    """The rows."""
    finetune: Schedule = field(default_factory=lambda: Schedule(epochs=3, lr=1e-3))
    """How it learns them."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(FinetuneConfig):
    """Asks a model the rows of one set."""

    evaluate: Evaluation = field(default_factory=Evaluation)
    """The set."""


@dataclass(frozen=True, kw_only=True)
class RepresentConfig(FinetuneConfig):
    """Reads the world map off a model's representations."""

    represent: Representation = field(default_factory=Representation)
    """Where and how."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig(FinetuneConfig):
    """The whole study: base, specialists and pairs under every seed, and what they say together."""

    evaluate: Evaluation = field(default_factory=Evaluation)
    """The evaluations; `on` is chosen by the study."""
    represent: Representation = field(default_factory=Representation)
    """The representations."""
    seeds: tuple[NonNegativeInt, ...] = (1,)
    """Seeds of models; 1, 2, 3 in the paper."""
    specialists: tuple[Task, ...] = TASKS
    """Tasks of the models that are fine-tuned on one."""
    pairs: tuple[tuple[Task, Task], ...] = PAIRS
    """Tasks of the models that are fine-tuned on two."""
    stack: PositiveInt = 1
    """Models that are fine-tuned as one batched model. On a GPU one small model leaves most of it
    idle; on a CPU one after the other is faster, and `run.workers` side by side."""
    plan: bool = False
    """Print the runs with their state and predicted cost, and stop."""
