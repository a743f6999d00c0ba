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
REPORT_SECONDS = 0.5


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
    """The batches of a whole training as one epoch, from batch `first` on.

    Where to begin is known before the Trainer sees it: Lightning restores a loader's state only if
    nothing asked for the number of steps earlier, as schedulers do.
    """

    def __init__(self, batch: Callable[[int], Tensor], num_batches: int, first: int) -> None:
        self._batch, self._num_batches, self._next = batch, num_batches, first

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
    """Seeds each step, reports progress, checkpoints, and stops between steps when asked to.

    Lightning hands a step's metrics to the logger after `on_train_batch_end`, where the state is
    whole. So a checkpoint is written there and gets its name at the next step, when the metrics up
    to it are in the store: a resumed run repeats no point of the curve and misses none.
    """

    def __init__(self, folder: Path, seed: int, seconds: float, report: progress.Report) -> None:
        self._folder, self._seed, self._seconds = folder, seed, seconds
        self._report = report
        self._saved = self._reported = time.monotonic()
        self._part: Path | None = None

    def on_train_start(self, *_: Any) -> None:
        stopping.take_back()

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if self._part is not None:
            self.finish()
            stopping.check()
        # A function of the step alone, so that dropout after a resume is what it would have been.
        torch.manual_seed(self._seed * 1_000_003 + trainer.fit_loop.epoch_loop.total_batch_idx)

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return  # half a step: gradients that are still adding up are in no checkpoint
        now = time.monotonic()
        if now - self._reported > REPORT_SECONDS:
            done = trainer.global_step / trainer.max_steps
            self._report(done)
            track.progress(done)
            self._reported = now
        last = trainer.global_step == trainer.max_steps
        if last or now - self._saved > self._seconds or stopping.requested():
            self._part = write(trainer, self._folder)
            self._saved = now

    def on_save_checkpoint(
        self, trainer: L.Trainer, module: Any, checkpoint: dict[str, Any]
    ) -> None:
        # The last step is no end of an epoch: a longer run that goes on from it would not train.
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False

    def finish(self) -> None:
        """Have the checkpoint count that was written last; none was if training was over before."""
        if self._part is not None:
            track.run().flush()
            commit(self._part)
            self._part = None


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
        keeper = Keeper(folder, seed, compute.checkpoint_seconds, report)
        trainer = L.Trainer(
            **trainer_options(compute),
            max_steps=steps,
            max_epochs=1,
            logger=RunLogger(),
            callbacks=[keeper],
            gradient_clip_val=clip,
            accumulate_grad_batches=compute.accumulate,
            val_check_interval=max(1, num_batches // validations),
            log_every_n_steps=max(1, min(10, steps // 10)),
            num_sanity_val_steps=0,
            default_root_dir=folder,
        )
        start = newest_good(folder)
        first = _step(start) * compute.accumulate if start else 0
        batches = Batches(batch, num_batches, first)
        seen: DataLoader[Tensor] = DataLoader(validation, batch_size=None)  # type: ignore[arg-type]
        trainer.fit(module, batches, seen, ckpt_path=start, weights_only=False)
        assert trainer.global_step == steps, f"trained {trainer.global_step} of {steps} steps"
        keeper.finish()
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


def write(trainer: L.Trainer, folder: Path) -> Path:
    """Write a checkpoint that does not count yet: a crash leaves a .part behind."""
    part = folder / f"step-{trainer.global_step:08d}.part"
    trainer.save_checkpoint(part)
    return part


def commit(part: Path) -> None:
    """Make a whole checkpoint the newest that counts; keep the one before it."""
    part.replace(part.with_suffix(".ckpt"))
    for old in checkpoints(part.parent)[KEPT:]:
        old.unlink()


def checkpoints(folder: Path) -> list[Path]:
    """Resumable checkpoints, newest first."""
    return sorted(folder.glob("step-*.ckpt"), reverse=True)


def _step(checkpoint: Path) -> int:
    """Optimizer steps done when it was written."""
    return int(checkpoint.stem.removeprefix("step-"))


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
