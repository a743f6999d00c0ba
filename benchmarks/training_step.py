"""A training step: Lightning with our module against a bare torch loop of the same model.

python benchmarks/training_step.py

Same weights, windows, optimizer, schedule and clipping; blocks of steps interleaved in one process;
medians over steps.
"""

import logging
import os
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ["HF_HUB_OFFLINE"] = "1"

import lightning as L
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import identify
from papertrail.core.storage.store import connect
from papertrail.core.training.fit import RunLogger
from papertrail.core.training.keeper import Keeper
from papertrail.core.writing import track
from papertrail.nn.language_model import (
    LanguageModel,
    Optimization,
    Shape,
    from_shape,
    parameter_groups,
    warmup_decay,
)

SHAPE = Shape(layers=4, width=128, heads=4, context=128)
VOCAB = 4096
BATCH = 8
STEPS = 40
ROUNDS = 6
OPTIMIZATION = Optimization(lr=3e-3, free_lr=3e-2, weight_decay=0.1, warmup_fraction=0.05)


@dataclass(frozen=True, kw_only=True)
class Empty:
    """A benchmark has no options."""


BENCH = Experiment(name="bench", study="bench", schema=Empty, verb="none:none")


class StepClock(L.Callback):
    """When each optimizer step of a fit began."""

    def __init__(self) -> None:
        self.begun: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.begun.append(time.perf_counter())


def module() -> LanguageModel:
    return LanguageModel(from_shape(SHAPE, VOCAB, seed=0), OPTIMIZATION)


def loader(windows: Tensor) -> DataLoader[Tensor]:
    return DataLoader(windows, batch_size=BATCH)  # type: ignore[arg-type]


def trainer(clock: StepClock) -> L.Trainer:
    """As `core.training.fit` sets one up: metrics, progress, checkpoints every 30 s, signals."""
    keeper = Keeper(track.run().folder, seed=0, seconds=30.0, report=lambda done: None)
    return L.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        gradient_clip_val=1.0,
        callbacks=[clock, keeper],
        logger=RunLogger(),
        log_every_n_steps=10,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def with_lightning(windows: Tensor) -> list[float]:
    """Seconds from the start of each step to the start of the next, so whatever is between."""
    clock = StepClock()
    trainer(clock).fit(module(), loader(windows), loader(windows[:1]))
    return differences(clock.begun)


def bare(windows: Tensor) -> list[float]:
    """The loop one would write by hand."""
    model = module().train()
    groups = parameter_groups(model.model, OPTIMIZATION)
    optimizer = AdamW(groups, betas=OPTIMIZATION.betas, fused=True)
    schedule = LambdaLR(
        optimizer, lambda step: warmup_decay(step, STEPS, OPTIMIZATION.warmup_fraction)
    )
    begun = []
    for batch in loader(windows):
        begun.append(time.perf_counter())
        optimizer.zero_grad()
        model.nll(batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return differences(begun)


def differences(begun: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(begun[2:])]  # the first two warm up


def main() -> None:
    """Everything inside a tracked run on a SQLite store, as in an experiment."""
    with tempfile.TemporaryDirectory() as folder:
        store = connect(f"sqlite:///{folder}/mlflow.db")
        run_id = store.client.create_run("0").info.run_id
        with track.opened(store, BENCH, Empty(), identify(BENCH, Empty()), run_id, fresh=True):
            measure()


def measure() -> None:
    """Blocks of steps, ours and by hand in turn."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    windows = torch.randint(VOCAB, (STEPS * BATCH, SHAPE.context + 1))
    with_lightning(windows), bare(windows)  # warm
    rounds = [(with_lightning(windows), bare(windows)) for _ in range(ROUNDS)]
    ours = median(step for block, _ in rounds for step in block)
    theirs = median(step for _, block in rounds for step in block)
    paired = median(median(block) / median(hand) for block, hand in rounds)
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    print(f"{ROUNDS} blocks of {STEPS} steps, batch {BATCH} x {SHAPE.context} tokens, ", end="")
    print(f"{threads} threads, load {load:.1f}")
    print(f"bare torch loop      {1e3 * theirs:7.1f} ms a step")
    print(f"tracked Lightning    {1e3 * ours:7.1f} ms a step   x{ours / theirs:.3f} of medians")
    print(f"                                       x{paired:.3f} median over blocks")


if __name__ == "__main__":
    main()
