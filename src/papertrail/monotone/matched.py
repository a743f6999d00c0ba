"""The arm that tells robustness from mere loss of quality: the baseline, noised on its feed-forward
matrices until it is as perplexing as the monotone model.

Axes: B windows, T tokens.
"""

import math
from collections.abc import Callable
from itertools import count

import lightning as L
import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from papertrail.core.answering.launch import require_all
from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import Question
from papertrail.core.reading.record import Record
from papertrail.core.training.fit import trainer_options
from papertrail.core.writing import track
from papertrail.core.writing.parts import part
from papertrail.data.windows import Corpus
from papertrail.monotone.config import TRAIN, matched_arms
from papertrail.monotone.models import finish, open_corpus
from papertrail.monotone.schemas import TrainConfig
from papertrail.nn.families import constrained_linears
from papertrail.nn.loading import load
from papertrail.nn.matching import MeanNll, Noise, scale_for

TOLERANCE_NATS = 1e-3
"""Per token of the validation windows: a thousandth of the perplexity."""


def matched(config: TrainConfig) -> None:
    """Search the scale of the noise on the validation windows that both arms were trained with.

    BadInput where the monotone arm is the less perplexing one: noise takes from a model only.
    """
    baseline, monotone = _arms(config)
    corpus = open_corpus(config)
    windows = _windows(corpus, config)
    model = _loaded(baseline)
    clean = _part("baseline", 0.0, lambda: _nll(model, windows, config))
    target = _part("monotone", 0.0, lambda: _nll(_loaded(monotone), windows, config))
    if clean > target + TOLERANCE_NATS:
        raise BadInput(
            f"constraint.kind: matched has nothing to match, the monotone arm is the less "
            f"perplexing one ({target:.4f} nats per token against {clean:.4f}); leave matched out"
        )
    matrices = constrained_linears(model, config.constraint.scope)
    noise = Noise({name: linear.weight for name, linear in matrices}, config.seed)
    scale, nll = scale_for(_measured(noise, model, windows, config), clean, target, TOLERANCE_NATS)
    noise.set(scale)
    _report(scale, clean, target, nll)
    track.describe(
        f"The baseline with Gaussian noise of {scale:.4g} standard deviations on its "
        f"{len(matrices)} matrices ({config.constraint.scope}): as perplexing as the monotone arm."
    )
    finish(model, corpus)


def _arms(config: TrainConfig) -> list[Record]:
    """The two trained models; what failed in either has failed here."""
    arms = matched_arms(config)
    records = require_all([Question(TRAIN, one) for one in arms.values()])
    for name, record in zip(arms, records, strict=True):
        if record.failed_gates:
            track.gate(f"{name}_arm", False, record.failed_gates)
    return records


def _windows(corpus: Corpus, config: TrainConfig) -> list[Int[Tensor, "B T"]]:
    schedule = config.train
    windows = corpus.validation_windows("val", schedule.window, schedule.validation_windows)
    return [*torch.split(windows, schedule.batch_size)]


def _loaded(record: Record) -> PreTrainedModel:
    return load(record.artifact("model"))[0]


def _nll(model: PreTrainedModel, windows: list[Int[Tensor, "B T"]], config: TrainConfig) -> float:
    trainer = L.Trainer(**trainer_options(config.compute) | {"devices": 1}, logger=False)
    module = MeanNll(model)
    trainer.test(module, DataLoader(windows, batch_size=None), verbose=False)  # type: ignore[arg-type]
    return module.value()


def _measured(
    noise: Noise, model: PreTrainedModel, windows: list[Int[Tensor, "B T"]], config: TrainConfig
) -> Callable[[float], float]:
    """NLL at a scale; each is a part of the run, so a killed search goes on behind the last."""
    number = count()

    def nll_at(scale: float) -> float:
        def measure() -> float:
            noise.set(scale)
            return _nll(model, windows, config)

        return _part(f"noise-{next(number):02d}", scale, measure)

    return nll_at


def _part(name: str, scale: float, measure: Callable[[], float]) -> float:
    found = part(name, lambda: {"scale": np.array(scale), "nll": np.array(measure())})
    assert float(found["scale"]) == scale, f"{name} was measured at {found['scale']}, not {scale}"
    return float(found["nll"])


def _report(scale: float, clean: float, target: float, nll: float) -> None:
    track.metrics(
        {
            "matched/noise_scale": scale,
            "matched/baseline_perplexity": math.exp(clean),
            "matched/monotone_perplexity": math.exp(target),
            "matched/perplexity": math.exp(nll),
            "matched/difference_nats": nll - target,
            "val/loss": nll,
            "val/perplexity": math.exp(nll),
        }
    )
    track.gate(
        "matched",
        abs(nll - target) <= TOLERANCE_NATS,
        f"{nll:.4f} nats per token against {target:.4f} of the monotone arm "
        f"(tolerance {TOLERANCE_NATS:g})",
    )
