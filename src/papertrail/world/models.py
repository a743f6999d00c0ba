"""Where the models of this study come from and where they go."""

from functools import lru_cache

import torch
from torch import nn
from transformers import Qwen2ForCausalLM

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question.compute import Compute
from papertrail.core.reading.record import Record
from papertrail.core.writing import track
from papertrail.nn.language_model import from_pretrained
from papertrail.world.config import trained
from papertrail.world.schemas import FinetuneConfig


def trained_model(config: FinetuneConfig) -> Qwen2ForCausalLM:
    """The model that `config` speaks of, from its training run, to be read and not trained."""
    question = trained(config)
    record = require(question.experiment, question.config)
    return _loaded_last(record.run_id, str(record.artifact("model")))


def loaded(record: Record) -> Qwen2ForCausalLM:
    """A model of its own from a training run, in float32 and in eval mode."""
    return _from(str(record.artifact("model")))


def placed(model: Qwen2ForCausalLM, compute: Compute) -> Qwen2ForCausalLM:
    """The model on the device that `compute` names, where it answers in float32."""
    gpu = torch.accelerator.current_accelerator(check_available=True)
    if compute.accelerator == "gpu" and gpu is None:
        raise BadInput("compute.accelerator: this machine has no GPU (gpu); try auto or cpu")
    nn.Module.to(model, torch.device("cpu") if compute.accelerator == "cpu" else gpu or "cpu")
    return model


def finish(model: Qwen2ForCausalLM) -> None:
    """Export what `from_pretrained` loads."""
    folder = track.run().folder / "model"
    model.save_pretrained(folder)
    track.artifacts(folder, "model")
    track.metrics({"model/parameters": model.num_parameters()})


@lru_cache(maxsize=1)  # fifteen sets in turn are asked of one model
def _loaded_last(run_id: str, folder: str) -> Qwen2ForCausalLM:
    return _from(folder)


def _from(folder: str) -> Qwen2ForCausalLM:
    model = from_pretrained(folder)
    assert isinstance(model, Qwen2ForCausalLM), type(model).__name__
    return model
