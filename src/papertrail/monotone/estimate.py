"""How large the study's models are and how many operations its runs take, by arithmetic.

For plans, where no finished run tells. Imports no torch. D is the width, L the number of layers,
T the tokens of a window; one multiplication with an addition counts as two operations.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from papertrail.core.question.experiment import Question
from papertrail.monotone.options import Constraint, Schedule
from papertrail.monotone.schemas import PretrainConfig, TrainConfig

FP32 = 4  # bytes
VALIDATIONS = 10
BYTES_PER_TOKEN = 4.1  # of English text under a byte-level BPE
DOCUMENT_BYTES = MappingProxyType({"enwik8": 9_200.0, "hub": 3_000.0, "file": 6_000.0})
"""Mean length of a document after cleaning; of a hub's dataset: as in the Pile."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """As much of an architecture as the arithmetic needs."""

    layers: int
    width: int
    feed_forward: int
    """Inner width of the feed-forward layers."""
    vocabulary: int
    """Rows of the embedding."""
    parameters: int
    tied: bool = False
    """Whether the output head is the input embedding."""

    @property
    def multiplied(self) -> int:
        """Parameters that every token is multiplied with: looking an embedding up costs nothing."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.width)

    def constrained(self, constraint: Constraint) -> int:
        """Weights that a constraint parametrizes."""
        inner, square = self.width * self.feed_forward, self.width**2
        per_layer = {
            "mlp_in": inner,
            "mlp_both": 2 * inner,
            "mlp_in_attn_out": inner + square,
            "gated_updown": 2 * inner,
            "gated_all": 3 * inner,
        }
        return 0 if constraint.kind == "none" else self.layers * per_layer[constraint.scope]


def gpt_neox(*, layers: int, width: int, vocabulary: int) -> Size:
    """A GPT-NeoX as Pythia has it: biases everywhere, feed-forward width 4 D, head not tied.

    Per layer 12 D^2 weights in six matrices, 9 D of their biases and 4 D of two LayerNorms.
    """
    per_layer = 12 * width**2 + 13 * width
    return Size(
        layers=layers,
        width=width,
        feed_forward=4 * width,
        vocabulary=vocabulary,
        parameters=layers * per_layer + 2 * vocabulary * width + 2 * width,
    )


PYTHIA = MappingProxyType(
    {
        "14m": (6, 128),
        "31m": (6, 256),
        "70m": (6, 512),
        "160m": (12, 768),
        "410m": (24, 1024),
        "1b": (16, 2048),
        "1.4b": (24, 2048),
        "2.8b": (32, 2560),
    }
)
"""Layers and width (Biderman et al. 2023, table 1, and the later small models)."""
PYTHIA_ROWS = 50_304


def published(name: str) -> Size | None:
    """The size of a Pythia by its hub id or folder name, where no config can be read."""
    found = re.search(r"pythia-([\d.]+[mb])(-deduped)?(-seed\d)?$", name)
    if not found or found[1] not in PYTHIA:
        return None
    layers, width = PYTHIA[found[1]]
    return gpt_neox(layers=layers, width=width, vocabulary=PYTHIA_ROWS)


# -- operations ------------------------------------------------------------------------------------


def operations(question: Question, size: Size) -> float | None:
    """Floating point operations of one run alone; None where arithmetic does not say.

    2 per parameter and token forward, 4 more backward to the weights, 2 more to the inputs alone;
    attention adds 2 L D T to a token's 2.
    """
    name = question.experiment.name
    count = _OPERATIONS.get(name)
    if count is None or (name == "train" and question.config.constraint.kind == "matched"):
        return None
    return count(question.config, size)


def _forward(size: Size, tokens: int | float, window: int) -> float:
    return float(tokens) * (2 * size.multiplied + 2 * size.layers * size.width * window)


def _training(config: PretrainConfig, schedule: Schedule, size: Size) -> float:
    tokens = schedule.steps * schedule.batch_size * schedule.window
    seen = VALIDATIONS * schedule.validation_windows * schedule.window
    passes = 4 if config.compute.gradient_checkpointing else 3
    return _forward(size, passes * tokens + seen, schedule.window)


def _train(config: TrainConfig, size: Size) -> float:
    return _training(config, config.train, size)


def _pretrain(config: PretrainConfig, size: Size) -> float:
    return _training(config, config.pretrain, size)


def _inspect(config: Any, size: Size) -> float:
    return _forward(size, config.inspect.windows * config.inspect.window, config.inspect.window)


def _perplexity(config: Any, size: Size) -> float:
    scored = config.perplexity
    repeated = scored.window / scored.stride
    tokens = scored.documents * document_tokens(config) * repeated
    return _forward(size, float(tokens), scored.window)


def document_tokens(config: Any) -> float:
    """Tokens of a document as long as those of its kind are on average."""
    text = config.data.text
    kind = "enwik8" if text == "enwik8" else "hub" if re.fullmatch(r"[\w.-]+/[\w.-]+", text) else ""
    return DOCUMENT_BYTES[kind or "file"] / BYTES_PER_TOKEN


TASKS = MappingProxyType(
    {
        "lambada": (5_153, 90),
        "hellaswag": (10_042, 4 * 90),
        "winogrande": (1_267, 2 * 25),
        "truthfulqa": (817, 12 * 300),
    }
)
"""Examples of a set, and tokens of one with each of its choices; TruthfulQA's begin with six
answered questions."""


def _benchmarks(config: Any, size: Size) -> float:
    asked = config.benchmarks
    sets = (TASKS[task] for task in asked.tasks)
    tokens = sum(min(asked.examples, num) * each for num, each in sets)
    return _forward(size, tokens, 128)


def _attack(config: Any, size: Size) -> float:
    attack = config.attack
    one = _forward(size, attack.texts * attack.tokens, attack.tokens)
    changed = 0.75 * one  # what lies before a replaced token is not computed again
    tried = attack.random_draws if config.method == "random" else attack.beam * attack.top_k
    gradients = 2 * attack.beam * one if config.method == "hotflip" else 0.0
    return float(attack.flips * (gradients + tried * changed))


def _transfer(config: Any, size: Size) -> float:
    attack = config.attack
    return float((attack.flips + 1) * _forward(size, attack.texts * attack.tokens, attack.tokens))


def _gcg(config: Any, size: Size) -> float:
    attack = config.attack
    one = _forward(size, attack.texts * attack.tokens, attack.tokens)
    return float(config.gcg.steps * (2 + 0.75 * config.gcg.width) * one)


def _pgd(config: Any, size: Size) -> float:
    attack = config.attack
    one = _forward(size, attack.texts * attack.tokens, attack.tokens)
    return float(2 * config.pgd.steps * len(config.pgd.radii) * one)


def _trigger(config: Any, size: Size) -> float:
    """At most: a search stops after a sweep without gain."""
    trigger = config.trigger
    window = trigger.length + trigger.tokens
    one = _forward(size, trigger.optimised_on * window, window)
    searched = trigger.restarts * trigger.sweeps * trigger.length
    # The gradient-free control evaluates as many candidates again.
    moves = 0 if trigger.text else searched * (2 + 2 * trigger.beam * trigger.top_k)
    controls = trigger.random_triggers + 3
    return float(moves * one + controls * _forward(size, trigger.evaluated_on * window, window))


_OPERATIONS: Mapping[str, Callable[[Any, Size], float]] = MappingProxyType(
    {
        "pretrain": _pretrain,
        "monotonize": _inspect,
        "train": _train,
        "weights": _inspect,
        "perplexity": _perplexity,
        "benchmarks": _benchmarks,
        "attack": _attack,
        "transfer": _transfer,
        "gcg": _gcg,
        "pgd": _pgd,
        "trigger": _trigger,
        # These put numbers of other runs side by side.
        **dict.fromkeys(("uat", "hotflip", "monotone"), lambda config, size: 0.0),
    }
)
