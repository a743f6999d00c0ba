"""Where the models of this study come from and where they go."""

from functools import lru_cache

from transformers import Qwen2ForCausalLM

from papertrail.core import track
from papertrail.core.record import Record
from papertrail.core.require import require
from papertrail.world.config import trained
from papertrail.world.schemas import FinetuneConfig


def trained_model(config: FinetuneConfig) -> Qwen2ForCausalLM:
    """The model that `config` speaks of, from its training run, to be read and not trained."""
    question = trained(config)
    return _loaded_last(require(question.experiment, question.config))


def loaded(record: Record) -> Qwen2ForCausalLM:
    """A model of its own from a training run, in float32 and in eval mode."""
    model: Qwen2ForCausalLM = Qwen2ForCausalLM.from_pretrained(record.artifact("model"))
    return model


def finish(model: Qwen2ForCausalLM) -> None:
    """Export what `from_pretrained` loads."""
    folder = track.run().folder / "model"
    model.save_pretrained(folder)
    track.artifacts(folder, "model")
    track.metrics({"model/parameters": model.num_parameters()})


@lru_cache(maxsize=1)  # fifteen sets in turn are asked of one model
def _loaded_last(record: Record) -> Qwen2ForCausalLM:
    return loaded(record)
