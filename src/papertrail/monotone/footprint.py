"""Bytes that the study's runs keep, and bytes that their largest steps hold, by arithmetic.

Imports no torch.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from papertrail.core.question.experiment import Question
from papertrail.monotone.estimate import BYTES_PER_TOKEN, FP32, Size
from papertrail.monotone.options import NANO, Schedule

KEPT_CHECKPOINTS = 3  # while training: the newest, the one before, and one being written
TOKENIZER_BYTES_PER_TOKEN = 45  # of a tokenizer.json, merges included
RECORD_BYTES = 5e4  # config, identity, manifest, digests of the code behind a run
PASS_TOKENS = 8_192  # that evaluations and attacks push through a model at once
LAYER_ACTIVATIONS, HEAD_ACTIVATIONS = 18.1, 3.2
"""Values of width D kept for the backward pass, per token: of a layer, and around the layers.
Counted on GPT-NeoX with hooks on saved tensors (a test counts again)."""
AUTOCAST_SHARE = 0.55  # of their bytes under bf16 or fp16 autocast, counted alike
CHECKPOINTED = 1.0  # the same per layer with gradient checkpointing
PROCESS_BYTES = 1e9  # Python with torch, transformers, Lightning and MLflow, or a CUDA context
QUANTIZED_BYTES = MappingProxyType({"none": 4.0, "int8": 1.1, "nf4": 0.6})  # per parameter


def stored(question: Question, size: Size) -> float:
    """Bytes of a finished run's artifacts.

    Of a training: a checkpoint (weights and two moments), the export,
    and the best weights if they are kept; of a corpus: its ids; of the rest: records.
    """
    config, name = question.config, question.experiment.name
    exported = FP32 * size.parameters + TOKENIZER_BYTES_PER_TOKEN * size.vocabulary
    if name == "corpus":
        ids = 2 if size.vocabulary <= 1 << 16 else 4
        return float(ids * config.data.megabytes * 1e6 / BYTES_PER_TOKEN)
    if name == "train" and config.constraint.kind == "matched":  # searched, not trained
        return exported + RECORD_BYTES
    if name in ("train", "pretrain"):
        return exported + _checkpoint(size) + _best(config, size) + RECORD_BYTES
    return RECORD_BYTES


def scratch(config: Any, size: Size) -> float:
    """Bytes of checkpoints in the work folder while one training runs."""
    return KEPT_CHECKPOINTS * _checkpoint(size) + 2 * _best(config, size)


def _checkpoint(size: Size) -> float:
    """Weights and AdamW's two moments."""
    return float(3 * FP32 * size.parameters)


def _best(config: Any, size: Size) -> float:
    return float(FP32 * size.parameters) if config.compute.weights == "best" else 0.0


@dataclass(frozen=True)
class Memory:
    """Bytes that the largest step of a kind of run holds at once."""

    what: str
    state: float
    """Weights, and in training their gradients and moments."""
    activations: float
    process: float = 0.0
    """Libraries, loaded, and on an accelerator their context."""

    @property
    def total(self) -> float:
        return self.state + self.activations + self.process

    def times(self, processes: int) -> "Memory":
        """Of several processes that share one memory."""
        parts = (self.state, self.activations, self.process)
        return Memory(self.what, *(processes * part for part in parts))


def training_memory(config: Any, schedule: Schedule, size: Size, constrained: int) -> Memory:
    """Of one device: fp32 master weights, gradients, two moments; what a micro-batch leaves.

    `constrained` weights exist a second time, made from what they are parametrized by.
    """
    compute = config.compute
    tokens = schedule.batch_size // compute.accumulate // compute.devices * schedule.window
    autocast = compute.precision != "32-true"
    state = float(4 * FP32 * size.parameters + FP32 * constrained)
    state += 2 * size.multiplied if autocast else 0  # the low-precision copies of a pass
    state /= compute.devices if compute.strategy == "fsdp" else 1
    one = LAYER_ACTIVATIONS
    kept = CHECKPOINTED * size.layers + one if compute.gradient_checkpointing else one * size.layers
    values = (kept + HEAD_ACTIVATIONS) * size.width * (AUTOCAST_SHARE if autocast else 1)
    return Memory("training", state, FP32 * tokens * (values + size.vocabulary))


def attack_memory(config: Any, size: Size) -> Memory:
    """Of a gradient by input embeddings, the largest step of evaluations and attacks.

    Candidates go through in smaller pieces where memory runs out.
    """
    state = QUANTIZED_BYTES[config.load.quantization] * size.parameters
    values = (LAYER_ACTIVATIONS * size.layers + HEAD_ACTIVATIONS) * size.width + size.vocabulary
    return Memory("attacks", state, FP32 * PASS_TOKENS / 4 * values)


def memory(config: Any, size: Size) -> Memory:
    """The largest of what the study holds at once; `config` is a StudyConfig."""
    constrained = size.constrained(config.constraint)
    asked = [training_memory(config, config.train, size, constrained), attack_memory(config, size)]
    if config.model.name == NANO:
        asked.append(training_memory(config, config.pretrain, size, 0))
    return replace(max(asked, key=lambda one: one.total), process=PROCESS_BYTES)
