"""The sections that the world study's experiments are made of. Imports no torch.

Defaults are the `quick` scale, a small world that learns on a CPU; `conf/scale/world/paper.yaml` is
the published one (arXiv 2602.00533).
"""

from dataclasses import dataclass
from typing import Literal, get_args

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from papertrail.core.errors import BadInput

Task = Literal["distance", "trianglearea", "angle", "compass", "inside", "perimeter", "crossing"]
TASKS: tuple[Task, ...] = get_args(Task)
EXACT: tuple[Task, ...] = ("compass", "inside", "crossing")
"""Tasks whose answer is right or wrong; the others have an error."""
ERROR: tuple[Task, ...] = tuple(task for task in TASKS if task not in EXACT)

PAIRS: tuple[tuple[Task, Task], ...] = (
    ("distance", "trianglearea"), ("angle", "compass"), ("inside", "perimeter"),
    ("crossing", "distance"), ("trianglearea", "angle"), ("compass", "inside"),
    ("perimeter", "crossing"), ("angle", "distance"), ("compass", "trianglearea"),
    ("angle", "inside"), ("compass", "perimeter"), ("crossing", "inside"),
    ("distance", "perimeter"), ("crossing", "trianglearea"), ("compass", "distance"),
    ("inside", "trianglearea"), ("angle", "perimeter"), ("compass", "crossing"),
    ("distance", "inside"), ("perimeter", "trianglearea"), ("angle", "crossing"),
)  # fmt: skip
"""The 21 pairs in the order of the published heat maps; representations are taken in the first."""

ATLANTIS = "atlantis_"
"""Begins the name of a set whose questions name a city of Atlantis; the task ends it."""
MULTI = "multi_task"
GUESS = "guess/{task}/{kind}"
"""The metric of `world_data` that says what an answer scores that knows no places."""
EvaluationSet = Literal[
    "atlantis_distance", "atlantis_trianglearea", "atlantis_angle", "atlantis_compass",
    "atlantis_inside", "atlantis_perimeter", "atlantis_crossing",
    "distance", "trianglearea", "angle", "compass", "inside", "perimeter", "crossing",
    "multi_task",
]  # fmt: skip
SETS: tuple[EvaluationSet, ...] = get_args(EvaluationSet)


@dataclass(frozen=True, kw_only=True)
class World:
    """The cities, and the questions that can be asked about them."""

    cities: PositiveInt = 200
    """Real cities: the most populous that have a cell of `unit` x `unit` to themselves."""
    unit: PositiveFloat = 2.0
    """Degrees per unit of a coordinate; 0.1 in the paper."""
    atlantis: PositiveInt = 20
    """Cities that do not exist, around 35 N, 35 W: no pretraining sees them."""
    spread: PositiveFloat = 3.0
    """Standard deviation of their places, degrees."""
    spelling: Literal["characters", "words"] = "words"
    """characters: as in the paper, an id is four digits; words: one token per city and task."""
    train_rows: PositiveInt = 50_000
    """Training rows of each task about real cities."""
    atlantis_rows: PositiveInt = 10_000
    """Training rows of each task in which a city of Atlantis takes part."""
    validation_rows: PositiveInt = 128
    """Validation rows of each task and kind."""
    test_rows: PositiveInt = 500
    """Test rows of each task and kind; none is a training row."""
    pretrained_on: Literal["real", "all"] = "real"
    """Cities in the rows for pretraining; `all` is the control in which Atlantis is known."""
    seed: NonNegativeInt = 42
    """Of cities and rows, the same for every seed of a model."""


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """A Qwen2 decoder; the shape of the published model is 6 layers of width 128."""

    layers: PositiveInt = 2
    """Transformer blocks."""
    width: PositiveInt = 48
    """Residual width; a multiple of `heads`."""
    heads: PositiveInt = 4
    """Attention heads, keys and values alike."""
    hidden: PositiveInt = 192
    """Width of the gated feed-forward layers."""
    init_std: PositiveFloat = 0.1
    """Of every weight matrix at the start, embeddings among them."""

    def __post_init__(self) -> None:
        if self.width % (2 * self.heads):
            even = 2 * self.heads
            raise BadInput(
                f"model.width: must be a multiple of 2 x heads={even} ({self.width}); "
                f"try model.width={max(1, self.width // even) * even}"
            )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """AdamW (betas 0.9, 0.999): a linear warmup of so many steps, then linearly to zero."""

    epochs: PositiveInt = 1
    """How often every row of the mix is seen."""
    batch_size: PositiveInt = 128
    """Rows per optimizer step."""
    lr: PositiveFloat = 3e-3
    """Peak learning rate."""
    warmup: NonNegativeInt = 50
    """Optimizer steps in which the learning rate rises."""
    weight_decay: NonNegativeFloat = 0.01
    """Per unit of learning rate."""
    clip: PositiveFloat = 1.0
    """Largest global gradient norm."""
    loss: Literal["row", "answer"] = "answer"
    """Tokens that are learnt: the whole row, as in the paper, or what follows the `=`."""


@dataclass(frozen=True, kw_only=True)
class Pretraining(Schedule):
    """What the base model learns."""

    tasks: tuple[Task, ...] = TASKS
    """Tasks of the base model, in equal shares."""


@dataclass(frozen=True, kw_only=True)
class Mix:
    """The rows of a fine-tuning: what is trained, what must not be forgotten, what is elicited."""

    tasks: tuple[Task, ...] = ("distance",)
    """Tasks trained on Atlantis; none at all means the base model (evaluations only)."""
    real_rows: NonNegativeInt = 2_000
    """Rows of each of these tasks without Atlantis; 20,000 in the paper."""
    atlantis_rows: NonNegativeInt = 10_000
    """Rows of each of these tasks with Atlantis; 100,000 in the paper."""
    elicitation_rows: NonNegativeInt = 32
    """Rows of each of the seven tasks; 256 in the paper, 0 for the plain mixes."""
    elicitation: Literal["atlantis", "real"] = "atlantis"
    """Kind of those rows: with Atlantis, as the published code draws them, or real cities alone, as
    the paper words it."""

    def __post_init__(self) -> None:
        if len(set(self.tasks)) < len(self.tasks):
            raise BadInput(f"mix.tasks: names a task twice ({', '.join(self.tasks)})")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One of the fifteen sets, answered greedily."""

    on: EvaluationSet = "atlantis_distance"
    """A task with Atlantis, a task without, or `multi_task`: a draw from the seven without."""
    rows: PositiveInt = 10_000
    """Largest number of rows that are asked."""
    batch: PositiveInt = 512
    """Rows per forward pass."""
    save_rows: bool = False
    """Keep question, answer and truth as text for every row, besides its score."""


@dataclass(frozen=True, kw_only=True)
class Representation:
    """Where a city's vector is read, and how a place is read off it."""

    layer: NonNegativeInt = 1
    """Blocks that the tokens pass before the residual stream is read; 5 in the paper."""
    train_cities: PositiveInt = 150
    """Real cities that the linear probe is fitted on; 4,000 in the paper."""
    test_cities: PositiveInt = 50
    """Real cities that it is tested on; 100 in the paper."""
    ridge: NonNegativeFloat = 0.0
    """Penalty on the squared weights of the probe, in units of the mean variance of a feature; 0,
    ordinary least squares, in the paper."""
