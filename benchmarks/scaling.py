"""A plan of 1,305 runs over 1 to 16 workers: real runs in a real store, by the real pool; the work
is a sleep, so that workers are not the processor's.

python benchmarks/scaling.py [RUNS [SECONDS]]

RUNS is 1305 and SECONDS, the sleep of each run, 0.5 unless they say otherwise; PAPERTRAIL_WORKERS
names the numbers of workers (1 2 4 8 16). A fresh SQLite store each. Efficiency is what sleeping
alone would take over what the plan took. What binds is either the sleep, or the processor time of
everything around it (params, tags, artifacts, two looks at the store, its share of a start), which
bounds runs per second however many workers there are.
"""

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"

from papertrail.core.answering import launch, processes
from papertrail.core.answering.pool import Pool
from papertrail.core.question.experiment import Experiment, Question
from papertrail.core.storage.store import Store, connect

ROOT = Path(__file__).parents[1]
SOURCE = f'''
import sys, time
sys.path[:0] = [{str(ROOT / "src")!r}]
from dataclasses import dataclass
from papertrail.core.question.experiment import Experiment

@dataclass(frozen=True, kw_only=True)
class Nap:
    """Sleeps."""
    seconds: float = 0.0
    """How long."""
    seed: int = 0
    """Random seed."""

def nap(config):
    from papertrail.core.writing import track
    time.sleep(config.seconds)
    track.metrics({{"slept": config.seconds}})

NAP = Experiment(name="nap", study="scaling", schema=Nap, verb="napping:nap")
'''
ENTRY = "import sys; sys.path.insert(0, {place!r})\nfrom napping import NAP\n" + (
    "from papertrail.core.question.cli import launch\nlaunch(NAP)\n"
)


@dataclass(frozen=True)
class Measured:
    """A plan that was worked off."""

    workers: int
    seconds: float
    cpu: float
    """Processor seconds of the workers and of the launcher."""


def project(folder: Path) -> Experiment:
    """An experiment that sleeps, with its entry point."""
    (folder / "entrypoints").mkdir()
    (folder / "napping.py").write_text(SOURCE)
    (folder / "entrypoints" / "nap.py").write_text(ENTRY.format(place=str(folder)))
    sys.path.insert(0, str(folder))
    processes.ROOT = folder  # type: ignore[attr-defined]
    import napping  # type: ignore[import-not-found]

    found = napping.NAP
    assert isinstance(found, Experiment)
    return found


def measure(asked: list[Question], workers: int, store: Store) -> Measured:
    before, begin = used(), time.monotonic()
    with silence():
        Pool(workers).compute(asked, store, "reuse")
    seconds = time.monotonic() - begin
    answers = launch.require_all(asked, store)
    assert len({record.run_id for record in answers}) == len(asked), "a run was lost or doubled"
    group = [one.experiment_id for one in store.client.search_experiments()]
    runs, token = 0, None
    while True:
        page = store.client.search_runs(group, max_results=1000, page_token=token)
        runs, token = runs + len(page), page.token
        if not token:
            break
    assert runs == len(asked), f"{runs} runs for {len(asked)} questions"
    return Measured(workers, seconds, used() - before)


@contextmanager
def silence() -> Iterator[None]:
    """What workers say about each run is for people who compute a few."""
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def used() -> float:
    """Processor seconds of this process and of all that it waited for."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(kind)[:2]) for kind in kinds)


def say(one: Measured, num_runs: int, sleep: float) -> None:
    slept, cores = num_runs * sleep / one.workers, os.cpu_count() or 1
    bound = one.cpu / cores
    binds = f"sleep ({slept:.0f} s)" if slept > bound else f"processor ({bound:.0f} s)"
    print(
        f"{one.workers:>7}{one.seconds:>9.1f}{num_runs / one.seconds:>9.1f}"
        f"{slept / one.seconds:>12.0%}{1000 * one.cpu / num_runs:>12.0f}"
        f"{max(slept, bound) / one.seconds:>12.0%}  {binds}",
        flush=True,
    )


def main() -> None:
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 1305
    sleep = float(sys.argv[2]) if len(sys.argv) > 2 else 0.5
    counts = [int(word) for word in (os.environ.get("PAPERTRAIL_WORKERS") or "1 2 4 8 16").split()]
    load = os.getloadavg()[0]
    print(f"{num_runs} runs of {sleep:g} s, {os.cpu_count()} cores, load {load:.1f} before")
    print("workers  seconds   runs/s  efficiency  ms cpu/run  of its bound  what binds")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        nap = project(folder)
        asked = [Question(nap, nap.schema(seed=n, seconds=sleep)) for n in range(num_runs)]
        for workers in counts:
            home = folder / str(workers)
            home.mkdir()
            store = connect(f"sqlite:///{home / 'mlflow.db'}")
            say(measure(asked, workers, store), num_runs, sleep)
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
