"""What does logging cost who computes? Steps of ten milliseconds with and without it, by store.

python benchmarks/logging_overhead.py [STEPS]

STEPS with and as many without (1,500 unless told), in alternating blocks of 50 in one process: a
metric each step, and at the end of each block what a checkpoint asks for, that all is on disk.
For each block and the one before it: the ratio of their seconds, of the CPU time of the thread that
computes, and of the CPU time of all threads (the sender's, which has a core of its own where one is
free); then the median over blocks, and the longest single call. The server is a real one on
SQLite, behind a proxy, a process of its own, that delays each of its answers.
"""

import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}

import torch
from proxy import proxy
from test_outage import Server
from toy import TOY, ToyConfig

from papertrail.core.question.identity import identify
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import track

BLOCK = 50  # steps from one checkpoint to the next
STEP_SECONDS = 0.010
DELAYS = (0.0, 0.05, 0.5)


class Step:
    """A step of a small training: about ten milliseconds of arithmetic."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._a, self._repeats = torch.randn(256, 256), 200
        for _ in range(3):  # what is done first takes long
            begin = time.thread_time()
            self()
            seconds = (time.thread_time() - begin) / self._repeats
        self._repeats = max(1, round(STEP_SECONDS / seconds))

    def __call__(self) -> None:
        for _ in range(self._repeats):
            self._a @ self._a


CLOCKS = (time.perf_counter, time.thread_time, time.process_time)


def block(step: Step, first: int, run: Any) -> tuple[list[float], float]:
    """Seconds of one block by each clock, and its longest call; without a run nothing is logged."""
    longest, begin = 0.0, [clock() for clock in CLOCKS]
    for number in range(first, first + BLOCK):
        step()
        if run is not None:
            before = time.perf_counter()
            run.metrics({"train/loss": number / 7}, number)
            longest = max(longest, time.perf_counter() - before)
    if run is not None:
        before = time.perf_counter()
        run.to_disk()
        longest = max(longest, time.perf_counter() - before)
    return [clock() - before for clock, before in zip(CLOCKS, begin, strict=True)], longest


def measure(name: str, store: Store, steps: int, step: Step) -> None:
    config = ToyConfig(text=name)
    run_id = store.client.create_run("0").info.run_id
    ratios, longest = [], 0.0
    with track.opened(store, TOY, config, identify(TOY, config), run_id, True) as run:
        for first in range(0, steps, BLOCK):
            plain, logged = block(step, first, None), block(step, first, run)
            ratios.append([a / b for a, b in zip(logged[0], plain[0], strict=True)])
            longest = max(longest, logged[1])
        begin = time.perf_counter()
    end = time.perf_counter() - begin
    found = len(store.client.get_metric_history(run_id, "train/loss"))
    print(
        f"{name:<22}"
        + "".join(f"{100 * (median(one) - 1):>+12.1f} %" for one in zip(*ratios, strict=True))
        + f"{1000 * longest:>13.1f} ms{end:>9.2f} s{found:>9} of {steps}",
        flush=True,
    )


@contextmanager
def served(folder: Path) -> Iterator[Server]:
    found = Server(folder)
    found.start()
    try:
        yield found
    finally:
        found.stop()


def delayed(port: int, delay: float, addresses: Any) -> None:
    """A proxy that hands its address over and stays until its process is ended."""
    with proxy(port) as line:
        line.delay = delay
        addresses.put(line.address)
        threading.Event().wait()


@contextmanager
def line(port: int, delay: float) -> Iterator[str]:
    """The address of a server whose answers come `delay` seconds late."""
    context = multiprocessing.get_context("spawn")
    addresses = context.Queue()
    process = context.Process(target=delayed, args=(port, delay, addresses), daemon=True)
    process.start()
    try:
        yield addresses.get(timeout=60)
    finally:
        process.terminate()
        process.join()


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["PAPERTRAIL_WORK"] = str(folder / "work")
        local, step = connect(f"sqlite:///{folder / 'local.db'}"), Step()
        connect(f"sqlite:///{folder / 'mlflow.db'}")
        columns = f"{'wall clock':>14}{'its thread':>14}{'all threads':>14}"
        print(f"{'store':<22}{columns}{'longest call':>16}{'end':>11}{'arrived':>13}")
        measure("SQLite", local, steps, step)
        with served(folder) as server:
            for delay in DELAYS:
                with line(server.port, delay) as address:
                    name = f"server, {1000 * delay:.0f} ms late"
                    measure(name, connect(address), steps, step)
        print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
