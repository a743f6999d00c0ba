"""Several devices, one run: this process is rank 0 and holds the run, the other ranks are children.

A child is a fresh process that gets the job as a pickle on its standard input. So it opens no store
and claims nothing, it may use a GPU that its parent has used, and the trained weights are where
they were asked for: in this process.
"""

import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import cloudpickle  # type: ignore[import-untyped]
import numpy as np
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch.utilities import rank_zero_only
from torch import distributed, nn
from torch.nn.utils import parametrize

from papertrail.core import stopping
from papertrail.core.answering.processes import shared_threads

GRACE_SECONDS = 10.0
"""For a rank that met an error to say so, after another one felt it."""
COLLECTIVE = timedelta(minutes=30)
"""Longest time that one rank waits for another."""
READY = b"ready\n"

Work = Callable[["Place"], Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which rank of how many this process is."""

    rank: int = 0
    world: int = 1
    group: Any = None
    """A process group of CPU tensors, for decisions: they must not wait for a GPU."""

    def agreed(self, decision: bool) -> bool:
        """What rank 0 decided; every rank has to ask at the same moments."""
        if self.world == 1:
            return decision
        said = torch.tensor([decision])
        distributed.broadcast(said, src=0, group=self.group)
        return bool(said.item())


class Together(ClusterEnvironment):
    """Tells Lightning that the processes are there and have met already."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place

    creates_processes_externally = True
    main_address, main_port = "localhost", 0  # not asked for: the process group is up

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self._place.world

    def global_rank(self) -> int:
        return self._place.rank

    def local_rank(self) -> int:
        return self._place.rank

    def node_rank(self) -> int:
        return 0

    def set_world_size(self, size: int) -> None:
        assert size == self._place.world, f"{size} ranks instead of {self._place.world}"

    def set_global_rank(self, rank: int) -> None:
        assert rank == self._place.rank, f"rank {rank} instead of {self._place.rank}"


@contextmanager
def together(work: Work, world: int, kind: Literal["cpu", "gpu"]) -> Iterator[Place]:
    """The place of this process, rank 0, while `world` - 1 children do the same `work`.

    A rank that dies ends the block with a RuntimeError that has its reason; no child outlives it.
    """
    if world == 1:
        yield Place()
        return
    with tempfile.TemporaryDirectory() as folder:
        children = [_Child(rank, Path(folder), world) for rank in range(1, world)]
        try:
            for child in children:
                child.hand_over(work, world, kind)
            with _joined(0, world, kind, Path(folder)) as place:
                yield place
            for child in children:
                child.see_off()
        except (RuntimeError, BrokenPipeError, EOFError) as error:
            stopping.check()  # whoever was asked to stop did not fail
            for child in children:
                if reason := child.reason():
                    raise RuntimeError(f"rank {child.rank} of {world} {reason}") from error
            raise
        finally:
            for child in children:
                child.end()


class _Child:
    """The process of another rank; it ends when our end of its standard input closes."""

    def __init__(self, rank: int, folder: Path, world: int) -> None:
        self.rank, self._folder = rank, folder
        self._said = folder / f"rank-{rank}.txt"
        code = "from papertrail.core.training.ranks import follow; follow()"
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OMP_NUM_THREADS": shared_threads(world),
        }
        with self._said.open("wb") as said:
            self._popen = subprocess.Popen(
                [sys.executable, "-c", code], env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said,
            )  # fmt: skip
        assert self._popen.stdin is not None and self._popen.stdout is not None
        self._to, self._from = self._popen.stdin, self._popen.stdout

    def hand_over(self, work: Work, world: int, kind: str) -> None:
        """Send the work and wait until it has arrived."""
        _Pickler(self._to).dump((self.rank, world, kind, self._folder, work))
        self._to.flush()
        if self._from.readline() != READY:
            raise EOFError(f"rank {self.rank} did not come up")

    def see_off(self) -> None:
        """Wait for the end of a rank that has nothing left to do."""
        if self._popen.wait(GRACE_SECONDS):
            raise RuntimeError(f"rank {self.rank} failed at its end")

    def reason(self) -> str:
        """How it failed, if it did."""
        try:
            code = self._popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            return ""
        lines = self._said.read_text(errors="replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"failed: {said.removeprefix(f'[rank{self.rank}]: ')}" if code else ""

    def end(self) -> None:
        with suppress(BrokenPipeError):
            self._to.close()
        self._from.close()
        try:
            self._popen.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def follow() -> None:
    """What a child does: its share of the work, unless rank 0 goes away before."""
    stopping.ignore()
    source = sys.stdin.buffer
    rank, world, kind, folder, work = pickle.load(source)
    rank_zero_only.rank = rank  # type: ignore[attr-defined]
    sys.stdout.buffer.write(READY)
    sys.stdout.flush()
    threading.Thread(target=_end_with, args=(source.fileno(),), daemon=True).start()
    with _joined(rank, world, kind, folder) as place:
        work(place)


def _end_with(source: int) -> None:
    """Leave at once when nobody holds the other end any more: rank 0 may have been killed."""
    os.read(source, 1)  # past Python's buffer, whose lock the interpreter wants at its end
    os._exit(1)


@contextmanager
def _joined(rank: int, world: int, kind: str, folder: Path) -> Iterator[Place]:
    distributed.init_process_group(
        "nccl" if kind == "gpu" else "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=world,
        timeout=COLLECTIVE,
    )
    try:
        group = distributed.new_group(backend="gloo", timeout=COLLECTIVE)
        yield Place(rank=rank, world=world, group=group)
    finally:
        distributed.destroy_process_group()


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Closures by value, mapped files by name, parametrised layers by their parts."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is np.memmap and obj.filename is not None and obj.mode == "r":
            # What is mapped here can be mapped there: a corpus is larger than a pipe is fast.
            return np.memmap, (obj.filename, obj.dtype, "r", obj.offset, obj.shape)
        if isinstance(obj, nn.Module) and parametrize.is_parametrized(obj):
            plain = type(obj).__mro__[1]  # torch generates a class, which no pickle can name
            return _parametrised, (plain, dict(obj.__dict__))
        return super().reducer_override(obj)


def _parametrised(plain: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    """A layer with the parts of a parametrised one: no right_inverse runs, so bits are kept."""
    layer = plain.__new__(plain)
    nn.Module.__init__(layer)
    layer.__dict__.update(state)
    parametrize._inject_new_class(layer)
    for name in layer.parametrizations:  # type: ignore[union-attr]
        parametrize._inject_property(layer, name)
    return layer


def copied(module: nn.Module) -> Any:
    """A copy of a module that may hold parametrised layers, which `copy.deepcopy` would tie."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(module)
    return pickle.loads(buffer.getvalue())
