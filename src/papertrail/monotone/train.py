"""Stages 1 to 3: a model from scratch, then the same budget for the baseline and the monotone arm.

Axes: B windows, T tokens.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from papertrail.core import track
from papertrail.core.errors import BadInput
from papertrail.core.experiment import narrow
from papertrail.core.fit import fit
from papertrail.core.require import require
from papertrail.data.config import CORPUS
from papertrail.data.windows import Corpus
from papertrail.monotone.config import (
    NANO,
    PRETRAIN,
    PretrainConfig,
    Schedule,
    TrainConfig,
    corpus_config,
)
from papertrail.nn import nonnegative
from papertrail.nn.language_model import (
    LanguageModel,
    Optimization,
    Shape,
    build,
    from_pretrained,
)


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
    _fit(model, corpus, config, schedule, _optimization(schedule), "pretraining")
    _finish(model, corpus)


def train(config: TrainConfig) -> None:
    """Continue a pretrained model under `constraint`; its export is what others load."""
    corpus = open_corpus(config)
    model = starting_point(config)
    constraint, schedule = config.constraint, config.train
    optimization = _optimization(schedule)
    if constraint.kind == "none":
        track.describe(f"The baseline: {config.model.name} continued for {schedule.steps} steps.")
    else:
        optimization = replace(
            optimization, free_lr=constraint.lr, warmup_fraction=constraint.warmup
        )
        _convert(model, config)
    label = "training the " + ("baseline" if constraint.kind == "none" else "monotone model")
    _fit(model, corpus, config, schedule, optimization, label)
    if constraint.kind != "none":
        _check_non_negative(model, config)
    _finish(model, corpus)


def open_corpus(config: PretrainConfig) -> Corpus:
    """The prepared text that `config` trains and is judged on."""
    record = require(CORPUS, corpus_config(config))
    identity = record.tags["papertrail.identity"]
    track.dataset("corpus", identity, config.data.text, context="corpus")
    return Corpus.open(record.artifact("corpus"))


def starting_point(config: TrainConfig) -> PreTrainedModel:
    """The pretrained model in float32: our own if `nano`, else from the hub or a local folder."""
    if config.model.name == NANO:
        record = require(PRETRAIN, narrow(config, PretrainConfig))
        return from_pretrained(str(record.artifact("model")))
    return from_pretrained(config.model.name, config.model.revision)


def _convert(model: PreTrainedModel, config: TrainConfig) -> None:
    """Stage 1: W = softplus(V), and how much of the pretrained function that throws away."""
    scope, init = config.constraint.scope, config.constraint.init
    facts = asdict(nonnegative.conversion(model, scope, init))
    names = nonnegative.constrain(model, scope, init)
    track.metrics({f"conversion/{key}": value for key, value in facts.items()})
    track.describe(
        f"The monotone model: {len(names)} matrices ({scope}) of {config.model.name} held >= 0, "
        f"started from {init}, recovered for {config.train.steps} steps."
    )


def _check_non_negative(model: PreTrainedModel, config: TrainConfig) -> None:
    """The gate of this arm: the weights that act, not the parameters behind them."""
    least = nonnegative.least_effective_weight(model, config.constraint.scope)
    track.metrics({"train/least_effective_weight": least})
    track.gate("non_negative", least >= 0, f"the least constrained weight is {least:.3g}")


def _fit(
    model: PreTrainedModel,
    corpus: Corpus,
    config: PretrainConfig,
    schedule: Schedule,
    optimization: Optimization,
    label: str,
) -> None:
    compute = config.compute
    if schedule.batch_size % compute.accumulate:
        raise BadInput(
            f"compute.accumulate: must divide batch_size={schedule.batch_size} "
            f"({compute.accumulate})"
        )
    module = LanguageModel(model, optimization, compute.gradient_checkpointing)
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


def _finish(model: PreTrainedModel, corpus: Corpus) -> None:
    """Export plain weights with the tokenizer: what `from_pretrained` loads anywhere."""
    tokenizer = AutoTokenizer.from_pretrained(corpus.tokenizer_folder)
    folder = track.run().folder / "model"
    nonnegative.export(model, folder, tokenizer)
    track.artifacts(folder, "model")
    track.metrics(
        {
            "model/parameters": model.num_parameters(),
            "baseline/unigram_perplexity": corpus.card.splits["val"].unigram_perplexity,
        }
    )


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
