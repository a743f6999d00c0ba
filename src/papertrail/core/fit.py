"""Lightning inside a tracked run: metrics to the open run, exact resume, orderly interruption.

The data of optimizer step s is a pure function of s, and so is the random state: a resumed run
needs nothing but the step to continue as if it had never stopped.
"""

import logging
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from papertrail.core import progress, stopping, track
from papertrail.core.compute import Compute

KEPT = 2  # checkpoints: if a crash spoils the newest, the one before it still resumes
REPORT_SECONDS = 2.0


class RunLogger(Logger):
    """Sends a Trainer's metrics to the open run, which alone decides when that run ends."""

    @property
    def name(self) -> str:
        return "papertrail"

    @property
    def version(self) -> str:
        return track.run().run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        track.metrics({k: float(v) for k, v in metrics.items() if k != "epoch"}, step or 0)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """The run's config is logged where the run is opened, once."""


class Batches:
    """The batches of a whole training as one epoch, from any step on."""

    def __init__(self, batch: Callable[[int], Tensor], num_batches: int) -> None:
        self._batch, self._num_batches, self._next = batch, num_batches, 0

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[Tensor]:
        while self._next < self._num_batches:
            self._next += 1
            yield self._batch(self._next - 1)

    def state_dict(self) -> dict[str, int]:
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._next = state["next"]


class Keeper(L.Callback):
    """Seeds each step, reports progress, checkpoints, and stops between steps when asked to."""

    def __init__(self, folder: Path, seed: int, seconds: float, report: progress.Report) -> None:
        self._folder, self._seed, self._seconds = folder, seed, seconds
        self._report = report
        self._saved = self._reported = time.monotonic()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        # A function of the step alone, so that dropout after a resume is what it would have been.
        torch.manual_seed(self._seed * 1_000_003 + trainer.fit_loop.epoch_loop.total_batch_idx)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        now = time.monotonic()
        if now - self._reported > REPORT_SECONDS:
            done = trainer.global_step / trainer.max_steps
            self._report(done)
            track.progress(done)
            self._reported = now
        if now - self._saved > self._seconds or stopping.requested():
            save(trainer, self._folder)
            self._saved = now
        stopping.check()


def fit(
    module: L.LightningModule,
    batch: Callable[[int], Tensor],
    validation: Sequence[Tensor],
    *,
    steps: int,
    seed: int,
    compute: Compute,
    clip: float,
    validations: int = 10,
    label: str = "training",
) -> L.Trainer:
    """Train for `steps` optimizer steps, from the newest good checkpoint of this run if one is.

    `batch(i)` is micro-batch i of the whole training; `validation` is seen `validations` times.
    """
    folder = track.run().folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    num_batches = steps * compute.accumulate
    with progress.bar(label) as report, stopping.between_steps():
        trainer = L.Trainer(
            **trainer_options(compute),
            max_steps=steps,
            max_epochs=1,
            logger=RunLogger(),
            callbacks=[Keeper(folder, seed, compute.checkpoint_seconds, report)],
            gradient_clip_val=clip,
            accumulate_grad_batches=compute.accumulate,
            val_check_interval=max(1, num_batches // validations),
            log_every_n_steps=max(1, min(10, steps // 10)),
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        _train(trainer, module, Batches(batch, num_batches), validation, folder)
        save(trainer, folder)
    _keep(folder)
    return trainer


def trainer_options(compute: Compute) -> dict[str, Any]:
    """What every Trainer here shares: quiet, deterministic where asked, on the chosen device."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # We hand over iterables of ready batches: worker processes would only copy them.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # Lightning's
    return {
        "accelerator": compute.accelerator,
        "devices": compute.devices,
        "precision": compute.precision,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }


def save(trainer: L.Trainer, folder: Path) -> Path:
    """Write a checkpoint under its final name only when it is whole; keep the newest two."""
    path = folder / f"step-{trainer.global_step:08d}.ckpt"
    part = path.with_suffix(".part")
    trainer.save_checkpoint(part)
    part.replace(path)
    for old in checkpoints(folder)[KEPT:]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """Resumable checkpoints, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def _train(
    trainer: L.Trainer,
    module: L.LightningModule,
    batches: Batches,
    validation: Sequence[Tensor],
    folder: Path,
) -> None:
    start = newest_good(folder)
    loader: DataLoader[Tensor] = DataLoader(validation, batch_size=None)  # type: ignore[arg-type]
    trainer.fit(module, batches, loader, ckpt_path=start, weights_only=False)


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; a spoiled one is passed over and named."""
    for path in checkpoints(folder):
        try:
            torch.load(path, map_location="cpu", weights_only=False, mmap=True)
        except (RuntimeError, EOFError, OSError) as error:
            reason = str(error).splitlines()[0]
            progress.say(f"{path.name} cannot be read ({reason}); trying the one before")
        else:
            return path
    return None


def _keep(folder: Path) -> None:
    """The last checkpoint goes to the store; the scratch copies have done their work."""
    newest = checkpoints(folder)[0]
    last = newest.rename(folder / "last.ckpt")
    track.artifact(last, "checkpoints")
    for path in folder.iterdir():
        path.unlink()
