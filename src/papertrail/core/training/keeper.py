"""Checkpoints of a training: when they are written, which one counts, which weights are the best.

A checkpoint counts once it is whole and every metric up to it is on disk, or in the store.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch

from papertrail.core import progress, stopping
from papertrail.core.training.ranks import Place
from papertrail.core.writing import track

KEPT = 2  # checkpoints: if a crash spoils the newest, the one before it still resumes
BEST = "best.pt"
REPORT_SECONDS = 0.5


@dataclass
class _Best:
    """The weights with the lowest validation loss so far."""

    folder: Path
    loss: float = float("inf")
    step: int = field(default=0)

    def __post_init__(self) -> None:
        if (self.folder / BEST).exists():
            kept = torch.load(self.folder / BEST, map_location="cpu", weights_only=True, mmap=True)
            self.loss, self.step = kept["val/loss"], kept["step"]

    def keep(self, weights: dict[str, Any], loss: float, step: int) -> None:
        self.loss, self.step = loss, step
        part = self.folder / "best.part"
        torch.save({"state_dict": weights, "val/loss": loss, "step": step}, part)
        _to_disk(part)
        part.replace(self.folder / BEST)


class Keeper(L.Callback):
    """Seeds each step, reports progress, checkpoints, and stops between steps when asked to.

    Lightning hands a step's metrics to the logger after `on_train_batch_end`, where the state is
    whole. So a checkpoint is written there and gets its name at the next step, when the metrics up
    to it are on disk: a resumed run sends them first, repeats no point of the curve and misses
    none.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        seconds: float,
        report: progress.Report,
        place: Place | None = None,
        keep_best: bool = False,
    ) -> None:
        self._folder, self._seed, self._seconds = folder, seed, seconds
        self._report = report
        self._place = place or Place()
        self._best = _Best(folder) if keep_best else None
        self._saved = self._reported = time.monotonic()
        self._part: Path | None = None

    @property
    def _leads(self) -> bool:
        """Whether this is the process that holds the run."""
        return self._place.rank == 0

    def on_train_start(self, *_: Any) -> None:
        # Lightning answers SIGTERM with a broadcast, in the middle of whatever rank is doing: where
        # a whole process group is stopped, each rank would wait for the other for ever.
        if self._leads:
            stopping.take_back()
        else:
            stopping.ignore()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self._part is not None:
            self.finish()
            stopping.check()
        # A function of the step alone, so that dropout after a resume is what it would have been;
        # ranks see other rows, so they drop other units.
        seed = self._seed * 1_000_003 + trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed(seed + self._place.rank * 1_000_000_007)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # half a step: gradients that are still adding up are in no checkpoint
        now = time.monotonic()
        if self._leads and now - self._reported > REPORT_SECONDS:
            done = trainer.global_step / trainer.max_steps
            self._report(done)
            track.progress(done)
            self._reported = now
        last = trainer.global_step == trainer.max_steps
        due = last or now - self._saved > self._seconds or stopping.requested()
        if self._place.agreed(due):  # all ranks take part: a shard of the weights is no checkpoint
            self._part = write(trainer, self._folder)
            self._saved = now

    def on_validation_end(self, trainer: L.Trainer, module: Any) -> None:
        if self._best is None:
            return
        loss = float(trainer.callback_metrics["val/loss"])
        if self._place.agreed(loss < self._best.loss):
            weights = trainer.strategy.lightning_module_state_dict()
            if self._leads:
                self._best.keep(weights, loss, trainer.global_step)

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        # The last step is no end of an epoch: a longer run that goes on from it would not train.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def finish(self) -> None:
        """Have the checkpoint count that was written last; none was if training was over before."""
        if self._part is not None and self._leads:
            track.run().to_disk()
            commit(self._part)
        self._part = None


def write(trainer: L.Trainer, folder: Path) -> Path:
    """Write a checkpoint that does not count yet: a crash leaves a .part behind."""
    part = folder / f"step-{trainer.global_step:08d}.part"
    trainer.save_checkpoint(part)
    return part


def commit(part: Path) -> None:
    """Make a whole checkpoint the newest that counts; keep the one before it."""
    _to_disk(part)
    part.replace(part.with_suffix(".ckpt"))
    for old in checkpoints(part.parent)[KEPT:]:
        old.unlink()


def _to_disk(path: Path) -> None:
    """A name must not reach the disk before the content does: power cuts leave empty files."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def checkpoints(folder: Path) -> list[Path]:
    """Resumable checkpoints, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done when it was written."""
    return int(checkpoint.stem.removeprefix("step-"))


def newest_good(folder: Path) -> Path | None:
    """The newest checkpoint that can be read; a spoiled one is passed over and named."""
    for path in checkpoints(folder):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, EOFError, OSError, UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            progress.say(f"{path.name} cannot be read ({reason}); trying the one before")
        else:
            return path
    return None
