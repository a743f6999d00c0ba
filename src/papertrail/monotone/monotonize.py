"""Stage 1: what the conversion does to weights, activations and predictions, before any training;
and the same statistics of an arm once it is trained."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from papertrail.attacks.gates import Gate
from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import narrow
from papertrail.core.training.fit import trainer_options
from papertrail.core.writing import track
from papertrail.monotone import conversion
from papertrail.monotone.config import TRAIN
from papertrail.monotone.models import open_corpus, starting_point
from papertrail.monotone.options import Constraint
from papertrail.monotone.schemas import MonotonizeConfig, StatisticsConfig, TrainConfig
from papertrail.nn import nonnegative
from papertrail.nn.activations import set_activation
from papertrail.nn.damage import AFTER, BEFORE, Damage
from papertrail.nn.families import Scope, family
from papertrail.nn.loading import load
from papertrail.nn.statistics import Activations, weight_statistics
from papertrail.tables.figures import save
from papertrail.tables.layers import per_layer

TOKENS_AT_ONCE = 2048  # the same everywhere: ordered pairs are drawn batch by batch


def monotonize(config: MonotonizeConfig) -> None:
    """Convert the starting point and put it beside itself; the model is not kept.

    BadInput for `matched`, which converts nothing.
    """
    constraint = config.constraint
    if constraint.kind == "matched":
        raise BadInput("constraint.kind: matched converts nothing; give the arm it is matched to")
    original, converted = starting_point(config), starting_point(config)
    windows = _windows(config, original)
    before = weight_statistics(original, _scope(original, constraint))
    facts = _convert(converted, constraint)
    after = weight_statistics(converted, _scope(original, constraint))
    gates = [*_weight_gates(original, converted, constraint, after)]
    nonnegative.merge(converted)  # the same weights, without a softplus in every forward pass
    active_before, active_after = (
        _activations(model, windows, config) for model in (original, converted)
    )
    damage = Damage(original, converted)
    _test(damage, windows, config)
    _log_stages("weights", before, after)
    _log_stages("activations", active_before, active_after)
    track.parquet("damage", damage.frame())
    track.parquet("windows", damage.windows())
    found = damage.frame()
    track.metrics({f"conversion/{name}": value for name, value in facts.items()})
    track.metrics(conversion.weight_metrics(after) | conversion.damage_metrics(found))
    track.metrics(conversion.activation_metrics(active_after))
    for gate in [*gates, *conversion.damage_gates(found, constraint)]:
        track.gate(gate.name, gate.passed, gate.sentence)
    result = conversion.application(constraint, before, after, found)
    track.json_result("monotonicity_application", result)
    with track.file("figures/layers.png") as path:
        save(per_layer(conversion.panels(before, found)), path)
    track.describe(_described(constraint, found))


def statistics(config: StatisticsConfig) -> None:
    """Weights and activations of a trained arm, read from its export, where weights are plain."""
    model, _ = load(require(TRAIN, narrow(config, TrainConfig)).artifact("model"))
    windows = _windows(config, model)
    weights = weight_statistics(model, _scope(model, config.constraint))
    activations = _activations(model, windows, config)
    track.parquet("weights", weights)
    track.parquet("activations", activations)
    track.metrics(conversion.weight_metrics(weights))
    track.metrics(conversion.activation_metrics(activations))
    if config.constraint.kind in conversion.HELD:
        gate = conversion.non_negative(float(weights["least"].min()), len(weights))
        track.gate(gate.name, gate.passed, gate.sentence)
    track.describe(
        f"Weights and activations of the {config.constraint.kind} arm: {len(weights)} matrices, "
        f"{len(activations)} feed-forward layers on {len(windows)} validation windows."
    )


def _weight_gates(
    original: PreTrainedModel,
    converted: PreTrainedModel,
    constraint: Constraint,
    after: pd.DataFrame,
) -> Iterator[Gate]:
    """What this kind promises of the weights that act, asked of the layers themselves."""
    if constraint.kind in conversion.HELD:
        least = nonnegative.least_effective_weight(converted, constraint.scope)
        yield conversion.non_negative(least, len(after))
    if constraint.kind == "sign_frozen":
        signs = nonnegative.signs(original, constraint.scope)
        crossed = nonnegative.fraction_crossed(converted, constraint.scope, signs)
        yield conversion.signs_kept(crossed)


def _log_stages(name: str, before: pd.DataFrame, after: pd.DataFrame) -> None:
    both = [before.assign(stage=BEFORE), after.assign(stage=AFTER)]
    track.parquet(name, pd.concat(both, ignore_index=True))


def _described(constraint: Constraint, damage: pd.DataFrame) -> str:
    loss, kl = (conversion.by_state(damage, column) for column in ("loss", "kl"))
    return (
        f"The conversion alone, before any training ({constraint.kind}, {constraint.scope}, "
        f"{constraint.init}): validation loss {loss[BEFORE]:.3f} -> {loss[AFTER]:.3f} nats per "
        f"token, KL {kl[AFTER]:.3f}."
    )


def _windows(config: Any, model: PreTrainedModel) -> Tensor:
    """The validation windows of the section `inspect`, (B, T); BadInput if the model is shorter."""
    options, context = config.inspect, model.config.max_position_embeddings
    if options.window > context:
        raise BadInput(
            f"inspect.window: longer than the model's context ({options.window}); "
            f"use at most {context}"
        )
    return open_corpus(config).validation_windows("val", options.window, options.windows)


def _scope(model: PreTrainedModel, constraint: Constraint) -> Scope:
    """That of the arm; of the baseline, whose own means nothing, all feed-forward matrices."""
    if constraint.kind != "none":
        return constraint.scope
    return "gated_all" if "gated_all" in family(model.config.model_type).scopes else "mlp_both"


def _convert(model: PreTrainedModel, constraint: Constraint) -> dict[str, int | float]:
    """In place; how far the weights have moved."""
    set_activation(model, constraint.activation)
    scope, init, kind = constraint.scope, constraint.init, constraint.kind
    if kind == "none":
        return {}
    assert kind != "matched", "that arm converts nothing"
    facts = asdict(nonnegative.conversion(model, scope, init, kind))
    nonnegative.constrain(model, scope, init, kind)
    return facts


def _activations(model: PreTrainedModel, windows: Tensor, config: Any) -> pd.DataFrame:
    module = Activations(model, config.seed)
    _test(module, windows, config)
    return module.frame()


def _test(module: L.LightningModule, windows: Tensor, config: Any) -> None:
    """Show a module the windows; inference mode would bar the slopes of activations."""
    batches = [*torch.split(windows, max(1, TOKENS_AT_ONCE // windows.shape[1]))]
    options = trainer_options(config.compute) | {"devices": 1}
    trainer = L.Trainer(**options, logger=False, inference_mode=False)
    trainer.test(module, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
