"""Lightning inside a tracked run: metrics to the open run, exact resume, orderly interruption.

The data of optimizer step s is a pure function of s, and so is the random state: a resumed run
needs nothing but the step to continue as if it had never stopped.
"""

import logging
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader

from papertrail.core import progress, stopping
from papertrail.core.errors import BadInput
from papertrail.core.question.compute import Compute
from papertrail.core.training.keeper import BEST, Keeper, checkpoints, newest_good, step_of
from papertrail.core.training.ranks import Place, Together, copied, together
from papertrail.core.writing import pruning, track


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


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, as every rank of it gets it."""

    module: L.LightningModule
    batch: Callable[[int], Tensor]
    validation: Sequence[Tensor]
    steps: int
    seed: int
    compute: Compute
    clip: float
    validations: int
    folder: Path
    start: Path | None
    """The checkpoint to go on from."""


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

    `batch(i)` is micro-batch i of the whole training, rows first; each of several devices takes an
    equal share of its rows, and their gradients are averaged: what a batch is does not depend on
    how many share it. `validation` is seen `validations` times. BadInput where shares cannot be
    equal; RuntimeError with the reason of a rank that died.
    """
    folder = track.run().folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        module=module, batch=batch, validation=validation, steps=steps, seed=seed, compute=compute,
        clip=clip, validations=validations, folder=folder, start=newest_good(folder),
    )  # fmt: skip
    kind = _kind(compute)
    _check_shares(len(batch(0)), compute)
    with (
        progress.bar(label) as report,
        stopping.between_steps(),
        together(partial(_work, job), compute.devices, kind) as place,
    ):
        # Shards stay with their ranks: what is asked for comes back through the checkpoint.
        own = replace(job, module=copied(module)) if compute.strategy == "fsdp" else job
        trainer = _train(own, place, report)
    if compute.strategy == "fsdp" or compute.weights == "best":
        _take(module, folder / BEST if compute.weights == "best" else checkpoints(folder)[0])
    _keep(folder)
    return trainer


def _work(job: Job, place: Place) -> None:
    """What the other ranks do."""
    trainer_options(job.compute)  # its filters of warnings
    _train(job, place, lambda done: None)


def _train(job: Job, place: Place, report: progress.Report) -> L.Trainer:
    compute, num_batches = job.compute, job.steps * job.compute.accumulate
    keeper = Keeper(
        job.folder, job.seed, compute.checkpoint_seconds, report, place, compute.weights == "best"
    )
    options = trainer_options(compute)
    if place.world > 1:
        options |= {"devices": place.world, "plugins": [Together(place)]}
        options |= {"strategy": _strategy(compute, place), "use_distributed_sampler": False}
    trainer = L.Trainer(
        **options,
        max_steps=job.steps,
        max_epochs=1,
        logger=RunLogger() if place.rank == 0 else False,
        callbacks=[keeper, *_judges(place)],
        gradient_clip_val=job.clip,
        accumulate_grad_batches=compute.accumulate,
        val_check_interval=max(1, num_batches // job.validations),
        log_every_n_steps=logged_every(job.steps),
        num_sanity_val_steps=0,
        default_root_dir=job.folder,
    )
    first = step_of(job.start) * compute.accumulate if job.start else 0
    batches = Batches(lambda i: share(job.batch(i), place), num_batches, first)
    seen: DataLoader[Tensor] = DataLoader(
        _shared(job.validation, place),  # type: ignore[arg-type]
        batch_size=None,
    )
    trainer.fit(job.module, batches, seen, ckpt_path=job.start, weights_only=True)
    assert trainer.global_step == job.steps, f"trained {trainer.global_step} of {job.steps} steps"
    keeper.finish()
    return trainer


def _judges(place: Place) -> list[L.Callback]:
    """Who tries this run out is told of each validation, by the rank that holds the run: when that
    one leaves, the others are ended."""
    if place.rank:
        return []

    def judge(trainer: L.Trainer, module: L.LightningModule) -> None:
        identity = track.run().identity.digest
        step = trainer.global_step - 1  # as the logger counts: the curve in the store has it so
        pruning.validated(identity, trainer.callback_metrics, step)

    return [LambdaCallback(on_validation_end=judge)]


def logged_every(steps: int) -> int:
    """Optimizer steps from one logged training loss to the next."""
    return max(1, min(10, steps // 10))


def _strategy(compute: Compute, place: Place) -> Any:
    if compute.strategy == "fsdp":
        return ModelParallelStrategy(place.world, 1, save_distributed_checkpoint=False)
    return DDPStrategy()


def _kind(compute: Compute) -> Literal["cpu", "gpu"]:
    """What `auto` takes; BadInput where several devices are asked for and are not there."""
    gpus = 0 if compute.accelerator == "cpu" else torch.cuda.device_count()
    if compute.strategy == "fsdp" and compute.devices == 1:
        raise BadInput("compute.strategy: fsdp wants several devices (1); try compute.devices=2")
    if compute.accelerator == "cpu" or (compute.accelerator == "auto" and not gpus):
        return "cpu"
    if compute.devices > 1 and compute.devices > gpus:
        raise BadInput(
            f"compute.devices: this machine has {gpus} GPUs ({compute.devices}); ask for fewer"
        )
    return "gpu"


def _check_shares(rows: int, compute: Compute) -> None:
    if rows % compute.devices:
        raise BadInput(
            f"compute.devices: must divide the {rows} rows of a micro-batch ({compute.devices}); "
            f"change batch_size or compute.accumulate"
        )


def share(batch: Tensor, place: Place) -> Tensor:
    """The rows of a batch that one rank sees."""
    return batch.tensor_split(place.world)[place.rank]


def _shared(batches: Sequence[Tensor], place: Place) -> list[Tensor]:
    """A rank's part of the validation. Modules add up over ranks and divide by what they added, so
    where a batch has too few rows for all, everybody sees everything."""
    if min(map(len, batches), default=0) < place.world:
        return list(batches)
    return [share(batch, place) for batch in batches]


def _take(module: L.LightningModule, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into the module that was handed in."""
    kept = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    module.load_state_dict(kept["state_dict"])
    if checkpoint.name == BEST:
        track.metrics({"train/best_step": kept["step"], "train/best_loss": kept["val/loss"]})


def trainer_options(compute: Compute) -> dict[str, Any]:
    """What every Trainer here shares: quiet, on one device of the chosen kind, at its precision."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # We hand over iterables of ready batches: worker processes would only copy them.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # Lightning's
    warnings.filterwarnings("ignore", message="The `srun` command is available")  # we decide
    return {
        "accelerator": compute.accelerator,
        "devices": 1,  # only `fit` spreads over several
        "precision": compute.precision,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }


def _keep(folder: Path) -> None:
    """The last checkpoint, and the best, go to the store. The scratch copies stay until the run is
    complete: killed from here on, it has nothing to train again."""
    last = folder / "last.ckpt"
    last.unlink(missing_ok=True)
    last.symlink_to(checkpoints(folder)[0])
    track.artifact(last, "checkpoints")
    last.unlink()
    if (folder / BEST).exists():
        track.artifact(folder / BEST, "checkpoints")
