"""What this machine has: memory, processors, accelerators, free disk, and how fast it multiplies.

torch is imported only where a driver says that there is an accelerator, and to measure speed.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/kfd"))
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
SECONDS_TO_MEASURE = 1.0
MOST_ROWS = 4096


@dataclass(frozen=True)
class Accelerator:
    """One device as torch sees it."""

    name: str
    memory_bytes: int
    bf16: bool
    """Whether it multiplies bfloat16 in hardware."""


@dataclass(frozen=True)
class Machine:
    """What a process that starts now can use."""

    memory_bytes: int
    """RAM, or as much of it as this container may take."""
    free_bytes: int
    """Of that, what nobody uses now."""
    threads: int
    accelerators: tuple[Accelerator, ...]


def look() -> Machine:
    """This machine as it is now."""
    ram = psutil.virtual_memory()
    limit = min([ram.total, *_limits(CGROUP_LIMITS)])
    return Machine(limit, min(limit, ram.available), num_threads(), accelerators())


def _limits(files: tuple[Path, ...]) -> list[int]:
    """What a control group allows, in bytes; nothing where it sets no limit."""
    texts = [file.read_text().strip() for file in files if file.is_file()]
    return [int(text) for text in texts if text.isdigit()]


def num_threads() -> int:
    """Threads that compute: OMP_NUM_THREADS where it is set, else the processors we may use."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    if told.isdigit() and int(told):
        return int(told)
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def accelerators() -> tuple[Accelerator, ...]:
    """Every device that torch can use; none where no driver is loaded, without asking torch."""
    if not any(driver.exists() for driver in DRIVERS):
        return ()
    import torch

    found = (torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count()))
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return tuple(Accelerator(one.name, int(one.total_memory), bf16) for one in found)


def free_disk(folder: Path) -> tuple[int, int]:
    """The file system that `folder` is or would be on, and its free bytes for this user."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.stat().st_dev, psutil.disk_usage(str(there)).free


def writable(folder: Path) -> bool:
    """Whether this user may write into `folder`, or make it where it is not there yet."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def operations_per_second(
    rows: int, width: int, inner: int, precision: Literal["float32", "bfloat16", "float16"]
) -> float:
    """Measured for about a second: (rows, width) times (width, inner), where Trainers compute.

    More rows than 4096 are no faster. On an accelerator if there is one, else on the CPU.
    """
    import torch

    device = "cuda" if accelerators() else "cpu"
    kind = getattr(torch, precision)
    left = torch.ones(min(rows, MOST_ROWS), width, device=device, dtype=kind)
    right = torch.ones(width, inner, device=device, dtype=kind)

    def timed(repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            product = left @ right
        product[0, 0].item()  # waits for a device that works on its own
        return time.perf_counter() - begin

    once = max(timed(1), timed(2) / 2, 1e-7)  # the first loads libraries
    once = min(once, timed(2) / 2)
    repeats = max(1, round(SECONDS_TO_MEASURE / 3 / max(once, 1e-7)))
    best = min(timed(repeats) for _ in range(3)) / repeats
    return 2.0 * len(left) * width * inner / best
