"""Can the tracking store keep up with many small runs? Runs a second, by store and by writers.

python benchmarks/tracking.py [SECONDS]

A run as the shortest evaluation leaves it: opened, 42 params, twelve metrics, a parquet file of 128
rows, tags, manifest, finished; nothing is computed. SECONDS for each cell, 6 unless told. A store
is saturated at the first number of writers that adds less than a tenth. Then metrics a second of
one run that logs 20,000 points, until it is FINISHED, beside one call of MLflow's per point; and
what one run asks of its store: calls of MLflow's client, and what becomes of them, SQL statements
or requests.
"""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import make_dataclass
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}

import pandas as pd
import postgres
import requests
from crowd import NEEDED
from mlflow.tracking import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine

from papertrail.core.answering.require import require
from papertrail.core.question.experiment import Experiment
from papertrail.core.storage.store import connect
from papertrail.core.writing import track

WRITERS = (1, 2, 4, 8)
ADDS = 1.1  # less than this many times the runs: more writers do not help
WANTED = 1305  # the evaluations of 29 models, three seeds, fifteen sets each
CORES = os.cpu_count() or 1


OPTIONS = [("writer", int, 0), ("number", int, 0)]
OPTIONS += [(f"option{number:02d}", int, number) for number in range(40)]
Config = make_dataclass("Config", OPTIONS, frozen=True, kw_only=True)


def evaluation(config: Any) -> None:
    """What a run logs."""
    track.metrics({f"score/{name}": config.number / 7 for name in "abcdefghijkl"})
    rows = range(128)
    table = pd.DataFrame({"row": rows, "score": [row / 128 for row in rows], "parsed": True})
    track.parquet("rows", table)


EVALUATION = Experiment(
    name="evaluation", study="tracking", schema=Config, verb="tracking:evaluation"
)


# -- the table -------------------------------------------------------------------------------------


def write(uri: str, writer: int, seconds: float, ready: Any, rates: Any) -> None:
    """One writer: as many runs as there is time for, when all are ready; its rate and CPU time."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    sys.stdout = io.StringIO()  # MLflow tells of each run on a server
    store, number = connect(), 0
    require(EVALUATION, Config(writer=writer, number=0), "force", store)  # what is imported late
    ready.wait(60)
    begin, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        number += 1
        require(EVALUATION, Config(writer=writer, number=number), "force", store)
    rates.put((number / (time.perf_counter() - begin), (time.process_time() - cpu) / number))


def rate(uri: str, writers: int, seconds: float) -> tuple[float, float]:
    """Runs a second of so many processes together, and their own CPU seconds per run."""
    context = multiprocessing.get_context("forkserver")
    ready, rates = context.Barrier(writers), context.Queue()
    processes = [
        context.Process(target=write, args=(uri, number, seconds, ready, rates))
        for number in range(writers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert not any(process.exitcode for process in processes)
    each, cpu = zip(*(rates.get() for _ in processes), strict=True)
    return sum(each), median(cpu)


def saturated(rates: Sequence[float]) -> str:
    """The first number of writers that adds less than a tenth to the number before it."""
    steps = zip(WRITERS[1:], rates, rates[1:], strict=False)
    return next((str(n) for n, before, after in steps if after < ADDS * before), "not yet")


def measure(stores: dict[str, str], seconds: float) -> None:
    print(f"runs a second on {CORES} cores, {seconds:g} s each".ljust(44), end="")
    last = f"{'saturated':>11} {f'{WANTED:,} runs':>12} {'CPU of a writer':>17}"
    print("".join(f"{n:>8}" for n in WRITERS), last)
    for name, uri in stores.items():
        found, cpu = zip(*(rate(uri, number, seconds) for number in WRITERS), strict=True)
        cells = "".join(f"{one:>8.1f}" for one in found)
        last = (
            f"{saturated(found):>11} {WANTED / max(found):>10.0f} s {1000 * cpu[0]:>10.0f} ms/run"
        )
        print(f"{name:<44}{cells} {last}", flush=True)


# -- metrics ---------------------------------------------------------------------------------------

STEPS, KEYS, CALLS = 2_000, 10, 100


def training(config: Any) -> None:
    """What a long run logs: points, a few at a time."""
    for step in range(STEPS):
        track.metrics({f"train/metric{key}": step / (key + 1) for key in range(KEYS)}, step)


TRAINING = Experiment(name="training", study="tracking", schema=Config, verb="tracking:training")


def measure_metrics(name: str, uri: str) -> None:
    """Print metrics a second, ours and one call for each."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    store = connect()
    with redirect_stdout(io.StringIO()):
        begin = time.perf_counter()
        record = require(TRAINING, Config(), "force", store)
        ours = STEPS * KEYS / (time.perf_counter() - begin)
        client, begin = MlflowClient(uri), time.perf_counter()
        run_id = client.create_run(record.run.info.experiment_id).info.run_id
        for step in range(CALLS):
            client.log_metric(run_id, "metric", step, step=step)
        theirs = CALLS / (time.perf_counter() - begin)
    assert len(record.curve("train/metric0")) == STEPS
    print(f"{name:<44}{ours:>8,.0f} metrics/s   one call each {theirs:>6,.0f}", flush=True)


# -- what one run asks of its store ----------------------------------------------------------------


@contextmanager
def counted() -> Iterator[tuple[Counter[str], Counter[str]]]:
    """Calls of the client, and what goes to the store, while the block lasts."""
    calls, below = Counter[str](), Counter[str]()

    def statement(connection: Any, cursor: Any, text: str, *others: Any) -> None:
        below[text.split(None, 1)[0].upper()] += 1

    def sent(session: Any, request: Any, **options: Any) -> Any:
        path = request.path_url.partition("?")[0].removeprefix("/api/2.0/")
        below[f"{request.method} {'/'.join(path.split('/')[:3])}"] += 1
        return send(session, request, **options)

    send, methods = requests.Session.send, vars(MlflowClient).copy()
    public = {k: m for k, m in methods.items() if callable(m) and not k.startswith("_")}
    requests.Session.send = sent  # type: ignore[method-assign]
    for key, method in public.items():
        setattr(MlflowClient, key, _noting(calls, key, method))
    event.listen(Engine, "before_cursor_execute", statement)
    try:
        yield calls, below
    finally:
        event.remove(Engine, "before_cursor_execute", statement)
        requests.Session.send = send  # type: ignore[method-assign]
        for key, method in public.items():
            setattr(MlflowClient, key, method)


def _noting(calls: Counter[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def noting(*words: Any, **options: Any) -> Any:
        calls[name] += 1
        return method(*words, **options)

    return noting


def explain(name: str, uri: str) -> None:
    """Print what the second run of a process asks of its store."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    store = connect()
    with redirect_stdout(io.StringIO()):  # MLflow tells of each run on a server
        require(EVALUATION, Config(writer=-1, number=0), "force", store)
    with counted() as (calls, below), redirect_stdout(io.StringIO()):
        require(EVALUATION, Config(writer=-1, number=1), "force", store)
    for what, found in (("calls", calls), ("of them come", below)):
        parts = ", ".join(f"{number} {key}" for key, number in found.most_common())
        print(f"{name}: {found.total()} {what}: {parts}")


# -- stores ----------------------------------------------------------------------------------------


@contextmanager
def server(backend: str, workers: int, folder: Path) -> Iterator[str]:
    """Address of `mlflow server` with so many workers.

    With more than one, uvicorn hands them a socket on which asyncio leaves Nagle's algorithm on: an
    answer waits 40 ms, until the writer's machine confirms its first packet.
    """
    port = postgres.free_port()
    address = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("mlflow")), "server", "--host", "127.0.0.1",
            "--port", str(port), "--workers", str(workers), "--backend-store-uri", backend,
            "--artifacts-destination", str(folder / "artifacts"),
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not _healthy(address):
            assert process.poll() is None, "the server has ended"
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _healthy(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=1).ok
    except requests.RequestException:
        return False


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 6.0
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # for the server of processes
    multiprocessing.get_context("forkserver").set_forkserver_preload([*NEEDED, "tracking"])
    with ExitStack() as open_, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.environ["PAPERTRAIL_WORK"] = str(folder / "work")
        os.chdir(folder)  # artifacts of a database without a folder of its own
        plain, *behind = (open_.enter_context(postgres.server()) for _ in range(3))
        stores = {"SQLite": f"sqlite:///{folder / 'mlflow.db'}", "PostgreSQL": plain}
        for workers, backend in zip((1, CORES), behind, strict=True):
            address = open_.enter_context(server(backend, workers, folder))
            stores[f"mlflow server on PostgreSQL, --workers {workers}"] = address
        for uri in stores.values():
            connect(uri).client.search_experiments(max_results=1)  # MLflow makes its tables
        measure(stores, seconds)
        print()
        for name, uri in stores.items():
            measure_metrics(name, uri)
        print()
        for name, uri in stores.items():
            explain(name, uri)


if __name__ == "__main__":
    main()
