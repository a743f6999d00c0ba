"""Reading a store of many runs: we against `mlflow.search_runs`, and one look-up among them.

python benchmarks/query.py [RUNS] [server]

40 params, 40 metrics and 5 tags a run, 30,000 runs unless RUNS says less; a new store on SQLite and
one on PostgreSQL. One process, interleaved: ours before and after MLflow's; contents compared.
CPU seconds, of this process alone, say the same where others use the machine. Then the same runs of
PostgreSQL through `mlflow server`, page by page, once; with the word `server` only that.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import many_runs
import mlflow
import pandas as pd
import postgres
import tracking
from toy import TOY, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.reading import query
from papertrail.core.storage.store import Store, connect

ROUNDS = 3
TEN = {
    "params": [f"cfg.section0.option{number}" for number in range(5)],
    "metrics": [f"val/metric{number}" for number in range(5)],
    "tags": [],
}
T = TypeVar("T")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def hit(store: Store) -> float:
    """Median milliseconds of `require` on a finished run, after the one that imported."""
    with redirect_stdout(io.StringIO()):
        require(TOY, ToyConfig(), store=store)
    return 1000 * median(timed(lambda: require(TOY, ToyConfig(), store=store))[0] for _ in range(9))


def measure(name: str, uri: str, num_runs: int) -> None:
    """One store: filled, read in both ways, compared."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    filling, _ = timed(lambda: many_runs.fill(uri, num_runs))
    store = connect()
    milliseconds = hit(store)

    def ours() -> pd.DataFrame:
        return query.runs_table(store)

    def some() -> pd.DataFrame:
        return query.runs_table(store, **TEN)

    before = [timed(ours)[0] for _ in range(ROUNDS)]
    narrow = [timed(some)[0] for _ in range(ROUNDS)]
    begin = time.process_time()
    slow, theirs = timed(lambda: mlflow.search_runs(search_all_experiments=True))
    slow_cpu, begin = time.process_time() - begin, time.process_time()
    after = [timed(ours)[0] for _ in range(ROUNDS)]
    fast_cpu = (time.process_time() - begin) / ROUNDS
    narrow += [timed(some)[0] for _ in range(ROUNDS)]
    wide = ours()
    assert set(wide) == set(theirs)
    pd.testing.assert_frame_equal(wide[list(theirs)], theirs, check_exact=True)
    asked = some()
    pd.testing.assert_frame_equal(asked, wide[list(asked)], check_exact=True)
    fast = median([*before, *after])
    print(f"{name}: {len(wide):,} runs x {wide.shape[1]} columns, filled in {filling:.0f} s")
    print(f"  mlflow.search_runs        {slow:8.2f} s   (CPU {slow_cpu:.2f} s)")
    print(f"  papertrail, all columns   {fast:8.2f} s   (CPU {fast_cpu:.2f} s)  ", end="")
    print(f"x{slow / fast:.0f} (CPU x{slow_cpu / fast_cpu:.0f}), contents equal")
    print(f"  papertrail, ten columns   {median(narrow):8.2f} s   x{slow / median(narrow):.0f}")
    print(f"  require, a finished run   {milliseconds:8.0f} ms", flush=True)


def measure_server(uri: str, folder: Path) -> None:
    """The runs of a database as clients of a server get them."""
    with tracking.server(uri, 1, folder) as address:
        os.environ["MLFLOW_TRACKING_URI"] = address
        store, begin = connect(), time.process_time()
        wide, table = timed(lambda: query.runs_table(store))
        cpu, shape = time.process_time() - begin, table.shape
        print(f"mlflow server on PostgreSQL: {shape[0]:,} runs x {shape[1]} columns, by pages")
        print(f"  papertrail, all columns   {wide:8.2f} s   (CPU {cpu:.2f} s)", flush=True)
        narrow, _ = timed(lambda: query.runs_table(store, **TEN))
        print(f"  papertrail, ten columns   {narrow:8.2f} s")
        print(f"  require, a finished run   {hit(store):8.0f} ms", flush=True)


def main() -> None:
    words = sys.argv[1:]
    all_of_it = "server" not in words
    num_runs = int(next((word for word in words if word.isdigit()), 30_000))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PAPERTRAIL_WORK"] = f"{folder}/work"
        if all_of_it:
            measure("SQLite", f"sqlite:///{folder}/mlflow.db", num_runs)
        if reason := postgres.absent():
            print(reason)
        else:
            with postgres.server() as uri:
                if all_of_it:
                    measure("PostgreSQL", uri, num_runs)
                else:
                    many_runs.fill(uri, num_runs)
                measure_server(uri, Path(folder))
    print(f"load {', '.join(f'{load:.1f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()
