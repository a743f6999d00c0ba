"""The schemas of the monotone study's experiments: each one's sections. Imports no torch.

Handed from one experiment to the next by `narrow`: a section that both declare means the same.
"""

from dataclasses import dataclass, field
from typing import Literal

from pydantic import NonNegativeInt

from papertrail.core.question.compute import Compute
from papertrail.data.config import Data
from papertrail.monotone.arms import PAIR
from papertrail.monotone.options import (
    Attack,
    Benchmarks,
    Constraint,
    Gcg,
    Inspect,
    Load,
    Model,
    Perplexity,
    Pgd,
    Schedule,
    Trigger,
)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Trains the small model from scratch, for machines that cannot reach a model hub."""

    data: Data = field(default_factory=Data)
    """The text."""
    model: Model = field(default_factory=Model)
    """The model."""
    pretrain: Schedule = field(default_factory=Schedule)
    """Training from scratch; only for models that come without weights."""
    seed: NonNegativeInt = 42
    """Seeds weights and data order."""
    compute: Compute = field(default_factory=Compute)
    """How a Trainer computes."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(PretrainConfig):
    """Continues a pretrained model, with or without non-negative feed-forward weights."""

    train: Schedule = field(default_factory=lambda: Schedule(steps=350, lr=2e-3))
    """The budget that the baseline and the monotone model both get."""
    constraint: Constraint = field(default_factory=Constraint)
    """The monotone arm."""


@dataclass(frozen=True, kw_only=True)
class MonotonizeConfig(PretrainConfig):
    """Converts a pretrained model and measures what that does to it, before any training."""

    constraint: Constraint = field(default_factory=Constraint)
    """The conversion."""
    inspect: Inspect = field(default_factory=Inspect)
    """Where activations and losses are measured."""


@dataclass(frozen=True, kw_only=True)
class StatisticsConfig(TrainConfig):
    """Measures weights and activations of one trained model."""

    inspect: Inspect = field(default_factory=Inspect)
    """Where activations are measured."""


@dataclass(frozen=True, kw_only=True)
class PerplexityConfig(TrainConfig):
    """Scores one trained model on held-out documents."""

    perplexity: Perplexity = field(default_factory=Perplexity)
    """The evaluation."""
    load: Load = field(default_factory=Load)
    """How the model is loaded for it."""


@dataclass(frozen=True, kw_only=True)
class BenchmarksConfig(TrainConfig):
    """Zero-shot benchmarks of one trained model."""

    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    """The tasks."""
    load: Load = field(default_factory=Load)
    """How the model is loaded for them."""


@dataclass(frozen=True, kw_only=True)
class AttackConfig(TrainConfig):
    """Attacks one trained model with one method."""

    method: Literal["hotflip", "random", "query"] = "hotflip"
    """HotFlip, or one of its controls: random flips, and the same search without a gradient."""
    attack: Attack = field(default_factory=Attack)
    """The attack."""
    load: Load = field(default_factory=Load)
    """How the model is loaded for it."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(TrainConfig):
    """Texts that HotFlip made on one model, put before another."""

    source: Constraint = field(default_factory=Constraint)
    """The arm on which they were made; `constraint` is the arm that reads them."""
    attack: Attack = field(default_factory=Attack)
    """The attack."""
    load: Load = field(default_factory=Load)
    """How both models are loaded."""


@dataclass(frozen=True, kw_only=True)
class GcgConfig(TrainConfig):
    """Attacks one trained model with greedy coordinate gradient."""

    attack: Attack = field(default_factory=Attack)
    """Texts, what may be attacked and what is scored, and when it counts as a success."""
    gcg: Gcg = field(default_factory=Gcg)
    """The search."""
    load: Load = field(default_factory=Load)
    """How the model is loaded for it."""


@dataclass(frozen=True, kw_only=True)
class PgdConfig(TrainConfig):
    """Attacks one trained model in embedding space."""

    attack: Attack = field(default_factory=Attack)
    """Texts, what may be attacked and what is scored, and when it counts as a success."""
    pgd: Pgd = field(default_factory=Pgd)
    """The search."""
    load: Load = field(default_factory=Load)
    """How the model is loaded for it."""


@dataclass(frozen=True, kw_only=True)
class TriggerConfig(TrainConfig):
    """Searches a universal trigger for one trained model, with its controls."""

    trigger: Trigger = field(default_factory=Trigger)
    """The search."""
    load: Load = field(default_factory=Load)
    """How the model is loaded for it."""


@dataclass(frozen=True, kw_only=True)
class UatConfig(TriggerConfig):
    """Universal triggers of the baseline and the monotone model, each put before the other."""


@dataclass(frozen=True, kw_only=True)
class HotFlipConfig(PerplexityConfig):
    """Attacks the baseline and the monotone model with HotFlip and its controls."""

    attack: Attack = field(default_factory=Attack)
    """The attack."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The whole comparison: arms, seeds and everything that is measured of them."""

    data: Data = field(default_factory=Data)
    """The text."""
    model: Model = field(default_factory=Model)
    """The model."""
    pretrain: Schedule = field(default_factory=Schedule)
    """Training from scratch; only for models that come without weights."""
    train: Schedule = field(default_factory=lambda: TrainConfig().train)
    """The budget of each arm."""
    constraint: Constraint = field(default_factory=Constraint)
    """The monotone arm."""
    inspect: Inspect = field(default_factory=Inspect)
    """Where activations are measured."""
    perplexity: Perplexity = field(default_factory=Perplexity)
    """The evaluation."""
    benchmarks: Benchmarks = field(default_factory=Benchmarks)
    """Zero-shot tasks."""
    attack: Attack = field(default_factory=Attack)
    """HotFlip and its controls."""
    gcg: Gcg = field(default_factory=Gcg)
    """The first stronger attack."""
    pgd: Pgd = field(default_factory=Pgd)
    """The second."""
    trigger: Trigger = field(default_factory=Trigger)
    """Universal triggers."""
    load: Load = field(default_factory=Load)
    """How trained models are loaded to be evaluated and attacked."""
    compute: Compute = field(default_factory=Compute)
    """How a Trainer computes."""
    arms: tuple[str, ...] = PAIR
    """Which arms, the baseline first; `-e train --help` says what each holds."""
    seeds: tuple[NonNegativeInt, ...] = (42,)
    """Training seeds: the unit of replication."""
