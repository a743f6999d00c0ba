"""Stages 1 to 3: a model from scratch, then the same budget for the baseline and the monotone arm.

Axes: B windows, T tokens.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import torch
from jaxtyping import Int, Int8
from torch import Tensor
from transformers import PreTrainedModel

from papertrail.core.errors import BadInput
from papertrail.core.training.fit import fit
from papertrail.core.writing import track
from papertrail.data.windows import Corpus
from papertrail.monotone.arms import name_of
from papertrail.monotone.matched import matched
from papertrail.monotone.models import finish, open_corpus, starting_point
from papertrail.monotone.options import NANO, Constraint, Schedule
from papertrail.monotone.schemas import PretrainConfig, TrainConfig
from papertrail.nn import nonnegative
from papertrail.nn.activations import set_activation
from papertrail.nn.language_model import (
    LanguageModel,
    Optimization,
    Shape,
    build,
)

SIGNED = ("sign_frozen", "free")
"""Kinds whose weights are asked at the end whether they crossed zero."""


def pretrain(config: PretrainConfig) -> None:
    """Train the small model from random weights."""
    name, schedule = config.model.name, config.pretrain
    if name != NANO:
        raise BadInput(f"model.name: {name} has weights already; only {NANO} is trained here")
    corpus = open_corpus(config)
    model = build(NANO, _shape(config), corpus.vocab_size, config.seed)
    track.describe(
        f"A GPT-NeoX of {model.num_parameters():,} parameters trained from scratch on "
        f"{config.data.text} for {schedule.steps} steps."
    )
    module = LanguageModel(model, _optimization(schedule), config.compute.gradient_checkpointing)
    _fit(module, corpus, config, schedule, "pretraining")
    finish(model, corpus)


def train(config: TrainConfig) -> None:
    """Continue a pretrained model under `constraint`; its export is what others load."""
    constraint = config.constraint
    if constraint.kind == "matched":
        matched(config)
        return
    corpus = open_corpus(config)
    model = starting_point(config)
    set_activation(model, constraint.activation)
    before = nonnegative.signs(model, constraint.scope) if constraint.kind in SIGNED else {}
    names = _convert(model, constraint)
    track.describe(_described(config, len(names)))
    projected = names if constraint.kind == "projected" else []
    checkpointing = config.compute.gradient_checkpointing
    module = LanguageModel(model, _optimization_of(config), checkpointing, projected)
    _fit(module, corpus, config, config.train, f"training the {_spoken(constraint)}")
    _check(model, constraint, before)
    finish(model, corpus)


def _convert(model: PreTrainedModel, constraint: Constraint) -> list[str]:
    """Stage 1: the matrices that this arm is about, and how far from the pretrained they start."""
    scope, init, kind = constraint.scope, constraint.init, constraint.kind
    if kind == "none":
        return []
    assert kind != "matched", "that arm converts nothing"
    facts = asdict(nonnegative.conversion(model, scope, init, kind))
    track.metrics({f"conversion/{key}": value for key, value in facts.items()})
    return nonnegative.constrain(model, scope, init, kind)


def _check(
    model: PreTrainedModel, constraint: Constraint, before: Mapping[str, Int8[Tensor, "_ _"]]
) -> None:
    """The gate of each arm, on the weights that act, not on the parameters behind them."""
    if constraint.kind == "none":
        return
    least = nonnegative.least_effective_weight(model, constraint.scope)
    track.metrics({"train/least_effective_weight": least})
    if constraint.kind in ("softplus", "projected"):
        track.gate("non_negative", least >= 0, f"the least constrained weight is {least:.3g}")
    if constraint.kind in SIGNED:
        crossed = nonnegative.fraction_crossed(model, constraint.scope, before)
        track.metrics({"train/fraction_crossed": crossed})
        if constraint.kind == "sign_frozen":
            track.gate("signs_kept", crossed == 0, f"{crossed:.3g} of the weights changed sign")


def _described(config: TrainConfig, num_matrices: int) -> str:
    constraint, steps = config.constraint, config.train.steps
    matrices = f"{num_matrices} matrices ({constraint.scope}) of {config.model.name}"
    recovered = f"started from {constraint.init}, recovered for {steps} steps."
    sentence = {
        "none": f"The baseline: {config.model.name} continued for {steps} steps.",
        "softplus": f"The monotone model: {matrices} held >= 0, {recovered}",
        "sign_frozen": f"The sign-frozen model: every weight of {matrices} keeps the sign it had, "
        f"continued for {steps} steps.",
        "free": f"The unconstrained model: {matrices} held by nothing, {recovered}",
        "projected": f"The projected model: {matrices} set to max(W, 0) after every step, "
        f"{recovered}",
    }[constraint.kind]
    if constraint.activation == "kept":
        return sentence
    return f"{sentence} Activation of the feed-forward layers: {constraint.activation}."


def _spoken(constraint: Constraint) -> str:
    name = name_of(constraint)
    return name if name == "baseline" else f"{name} model"


def _fit(
    module: LanguageModel, corpus: Corpus, config: PretrainConfig, schedule: Schedule, label: str
) -> None:
    compute = config.compute
    if schedule.batch_size % compute.accumulate:
        raise BadInput(
            f"compute.accumulate: must divide batch_size={schedule.batch_size} "
            f"({compute.accumulate})"
        )
    micro = schedule.batch_size // compute.accumulate
    validation = corpus.validation_windows("val", schedule.window, schedule.validation_windows)
    begin = time.monotonic()
    fit(
        module,
        _batches(corpus, micro, schedule.window, config.seed),
        [*torch.split(validation, schedule.batch_size)],
        steps=schedule.steps,
        seed=config.seed,
        compute=compute,
        clip=schedule.clip,
        label=label,
    )
    tokens = schedule.steps * schedule.batch_size * schedule.window
    track.metrics({"train/tokens": tokens, "train/seconds": time.monotonic() - begin})


def _batches(
    corpus: Corpus, size: int, window: int, seed: int
) -> Callable[[int], Int[Tensor, "B T"]]:
    return lambda step: corpus.training_batch(step, size, window, seed)


def _shape(config: PretrainConfig) -> Shape:
    model = config.model
    return Shape(layers=model.layers, width=model.width, heads=model.heads, context=model.context)


def _optimization(schedule: Schedule) -> Optimization:
    return Optimization(
        lr=schedule.lr,
        free_lr=schedule.lr,
        weight_decay=schedule.weight_decay,
        warmup_fraction=schedule.warmup,
        decay=schedule.decay,
    )


def _optimization_of(config: TrainConfig) -> Optimization:
    plain, constraint = _optimization(config.train), config.constraint
    if constraint.kind == "none":
        return plain
    return replace(plain, free_lr=constraint.lr, warmup_fraction=constraint.warmup)
