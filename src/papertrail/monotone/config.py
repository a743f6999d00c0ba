"""The monotone study's questions: options, and which run each one builds on. Imports no torch.

corpus -> pretrain -> train (baseline: constraint none; monotone: W = softplus(V)) -> perplexity
                                                                                   -> hotflip
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from papertrail.core import digests
from papertrail.core.compute import INFRASTRUCTURE, Compute
from papertrail.core.errors import BadInput
from papertrail.core.experiment import Experiment, Question, narrow
from papertrail.data.config import CORPUS, CorpusConfig, Data

Fraction = Annotated[float, Ge(0), Lt(1)]
NANO = "nano"


@dataclass(frozen=True, kw_only=True)
class Model:
    """The language model that is studied."""

    name: str = NANO
    """`nano` is trained from scratch in the shape below; else a hub id or a local folder."""
    revision: str = "main"
    """Branch, tag or commit of a hub id."""
    layers: PositiveInt = 2
    """Transformer blocks of `nano`."""
    width: PositiveInt = 128
    """Residual width of `nano`; a multiple of `heads`."""
    heads: PositiveInt = 4
    """Attention heads of `nano`."""
    context: PositiveInt = 512
    """Longest window of `nano`, tokens."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            fixed = max(1, self.width // self.heads) * self.heads
            raise BadInput(
                f"model.width: must be a multiple of model.heads={self.heads} ({self.width}); "
                f"try model.width={fixed}"
            )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW (betas 0.9, 0.95): linear warmup, then `decay`."""

    steps: PositiveInt = 900
    """Optimizer steps."""
    batch_size: PositiveInt = 16
    """Windows per optimizer step."""
    window: PositiveInt = 128
    """Tokens per window."""
    lr: PositiveFloat = 8e-3
    """Peak learning rate."""
    warmup: Fraction = 0.1
    """Share of the steps in which the learning rate rises."""
    decay: Literal["linear", "none"] = "linear"
    """Of the learning rate after warmup: to zero at the last step, or none. Without decay and
    warmup a step does not depend on how many follow: a longer run goes on from a shorter one."""
    weight_decay: NonNegativeFloat = 0.01
    """Of matrices other than embeddings and V, per unit of learning rate."""
    clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    validation_windows: PositiveInt = 64
    """Windows of the validation split seen at each of ten validations."""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """What keeps the feed-forward weights non-negative; all that sets the monotone arm apart."""

    kind: Literal["softplus", "none"] = "softplus"
    """softplus: W = softplus(V) >= 0 elementwise; none: the baseline."""
    scope: Literal["mlp_in", "mlp_both", "mlp_in_attn_out"] = "mlp_both"
    """Constrained matrices: the first of each MLP, both, or the first and the attention output."""
    init: Literal["abs", "relu"] = "abs"
    """Start from |W| as the paper does, or from max(W, 0)."""
    lr: PositiveFloat = 5e-2
    """Peak learning rate of V: a step of V changes a small W by that share of itself."""
    warmup: Fraction = 0.15
    """Replaces the schedule's warmup: a converted model starts far from where it was."""


BASELINE = Constraint(kind="none")


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """Which text is scored and with how much context."""

    split: Literal["val", "test"] = "test"
    """Split of the corpus, by document."""
    documents: PositiveInt = 100
    """Documents scored at most, spread evenly over the split."""
    window: PositiveInt = 256
    """Longest context, tokens."""
    stride: PositiveInt = 256
    """New tokens per window: equal to `window` as lm-evaluation-harness does, less is closer to
    the truth and dearer."""

    def __post_init__(self) -> None:
        if self.stride > self.window:
            raise BadInput(
                f"perplexity.stride: must not exceed perplexity.window={self.window} "
                f"({self.stride}); try perplexity.stride={self.window}"
            )


@dataclass(frozen=True, kw_only=True)
class Attack:
    """HotFlip and its controls, all on the same texts and with the same budgets."""

    protocol: Literal["fixed_targets", "paper_compat"] = "fixed_targets"
    """fixed_targets: flips in the first half, NLL of the untouched second half; paper_compat: flips
    anywhere at once, NLL of the flipped text itself, as the original code did."""
    texts: PositiveInt = 80
    """Texts of the test split, spread evenly over its documents."""
    tokens: PositiveInt = 64
    """Length of a text, tokens."""
    flips: PositiveInt = 5
    """Largest number of replaced tokens; every smaller budget is reported too."""
    top_k: PositiveInt = 24
    """Candidates per flip that are evaluated exactly."""
    beam: PositiveInt = 1
    """Flip sequences kept; 1 is greedy."""
    random_draws: PositiveInt = 8
    """Random-flip controls per text and budget, averaged."""
    threshold: PositiveFloat = 0.15
    """Success: relative rise of perplexity, and separately of NLL, beyond this."""
    threshold_nats: PositiveFloat = 0.5
    """Success, absolute: rise of the NLL per scored token beyond this, nats."""
    batch: PositiveInt = 32
    """Texts attacked together."""
    seed: NonNegativeInt = 0
    """Of the random controls; not a training seed."""


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
class PerplexityConfig(TrainConfig):
    """Scores one trained model on held-out documents."""

    perplexity: Perplexity = field(default_factory=Perplexity)
    """The evaluation."""


@dataclass(frozen=True, kw_only=True)
class HotFlipConfig(PerplexityConfig):
    """Attacks the baseline and the monotone model with HotFlip and its controls."""

    attack: Attack = field(default_factory=Attack)
    """The attack."""


def corpus_config(config: Any) -> CorpusConfig:
    """The corpus in the tokens of the model: a pretrained model brings its own tokenizer.

    `config` has the sections `data` and `model`.
    """
    data = config.data
    if config.model.name != NANO and data.tokenizer == "bpe":
        data = replace(data, tokenizer=config.model.name)
    return CorpusConfig(data=data)


def arms(config: Any, to: type[Any], **changes: Any) -> dict[str, Any]:
    """The two models under comparison, as configs of another experiment."""
    return {
        "baseline": narrow(config, to, **(changes | {"constraint": BASELINE})),
        "monotone": narrow(config, to, **changes),
    }


def data_digests(config: Any) -> Mapping[str, str]:
    """Content of the text, and of the weights where they lie in a local folder."""
    digests = dict(CORPUS.data(corpus_config(config)))
    if Path(config.model.name).is_dir():
        digests["model.name"] = _weights_digest(Path(config.model.name))
    return digests


@digests.seen_once
def _weights_digest(folder: Path) -> str:
    """Of every file that a checkpoint folder loads from, by name and content."""
    suffixes = (".json", ".safetensors", ".bin", ".txt")
    files = sorted(path for path in folder.glob("*") if path.suffix in suffixes)
    return f"weights:{digests.of_named(files)}"


def _before_pretrain(config: PretrainConfig) -> Mapping[str, Question]:
    return {"corpus": Question(CORPUS, corpus_config(config))}


def _before_train(config: TrainConfig) -> Mapping[str, Question]:
    before = dict(_before_pretrain(config))
    if config.model.name == NANO:
        before["pretrain"] = Question(PRETRAIN, narrow(config, PretrainConfig))
    return before


def _before_perplexity(config: PerplexityConfig) -> Mapping[str, Question]:
    return {"train": Question(TRAIN, narrow(config, TrainConfig))}


def _before_hotflip(config: HotFlipConfig) -> Mapping[str, Question]:
    trained = arms(config, TrainConfig)
    scored = arms(config, PerplexityConfig)
    return {arm: Question(TRAIN, one) for arm, one in trained.items()} | {
        f"{arm} perplexity": Question(PERPLEXITY, one) for arm, one in scored.items()
    }


def _pretrain_horizon(config: PretrainConfig) -> str:
    return "pretrain.steps" if _open_ended(config.pretrain, config.pretrain.warmup) else ""


def _train_horizon(config: TrainConfig) -> str:
    constrained = config.constraint.kind != "none"
    warmup = config.constraint.warmup if constrained else config.train.warmup
    return "train.steps" if _open_ended(config.train, warmup) else ""


def _open_ended(schedule: Schedule, warmup: float) -> bool:
    return schedule.decay == "none" and warmup == 0


# Options that came later, and the value at which a run is what it was before.
NEUTRAL_PRETRAIN = MappingProxyType({"pretrain.decay": "linear"})
NEUTRAL = MappingProxyType({**NEUTRAL_PRETRAIN, "train.decay": "linear"})


def _arm_label(config: TrainConfig) -> str:
    """Which arm, in the words of the tables; what departs from the paper's arm is spelled out."""
    one = config.constraint
    arm = "baseline" if one.kind == "none" else f"monotone {one.scope} {one.init}"
    return f"{arm} seed {config.seed}"


PRETRAIN = Experiment(
    name="pretrain",
    study="monotone",
    schema=PretrainConfig,
    verb="papertrail.monotone.train:pretrain",
    infrastructure=INFRASTRUCTURE,
    neutral=NEUTRAL_PRETRAIN,
    horizon=_pretrain_horizon,
    upstream=_before_pretrain,
    data=data_digests,
)
TRAIN = Experiment(
    name="train",
    study="monotone",
    schema=TrainConfig,
    label=_arm_label,
    verb="papertrail.monotone.train:train",
    infrastructure=INFRASTRUCTURE,
    neutral=NEUTRAL,
    horizon=_train_horizon,
    upstream=_before_train,
    data=data_digests,
)
PERPLEXITY = Experiment(
    name="perplexity",
    study="monotone",
    schema=PerplexityConfig,
    label=_arm_label,
    verb="papertrail.monotone.perplexity:perplexity",
    infrastructure=INFRASTRUCTURE,
    neutral=NEUTRAL,
    upstream=_before_perplexity,
    data=data_digests,
)
HOTFLIP = Experiment(
    name="hotflip",
    study="monotone",
    schema=HotFlipConfig,
    verb="papertrail.monotone.hotflip:hotflip",
    show="papertrail.monotone.tables:show",
    infrastructure=INFRASTRUCTURE,
    neutral=NEUTRAL,
    upstream=_before_hotflip,
    data=data_digests,
)
