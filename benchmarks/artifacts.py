"""What a server costs: MB/s of artifacts by the way they take, and a call with a password.

python benchmarks/artifacts.py [MEGABYTES]

One file of 200 MB unless told, and 100 files of 4 kB; a server as `make server` starts it. Proxied:
every byte through MLflow's process. Multipart: parts go to the S3 store, MLflow signs for them.
Direct: the client has the keys of the store. Digests are checked on the way down, as a run's are.
Then milliseconds of a log_metric: without, with and with a password that is remembered.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}

import servers
from mlflow.tracking import MlflowClient

from papertrail.core import digests
from papertrail.core.storage.remote import Shelf
from papertrail.core.storage.store import Store
from papertrail.server.secrets import ADMIN

SMALL_FILES, SMALL_BYTES = 100, 4_000
CALLS = 100
MULTIPART = "MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


@contextmanager
def variables(found: Mapping[str, str]) -> Iterator[None]:
    """Our environment with these in it, while the block lasts."""
    before = os.environ.copy()
    os.environ |= found
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure(name: str, store: Store, experiment_id: str, file: Path) -> None:
    """Up, down and small files, of a new run."""
    client, megabytes = MlflowClient(store.uri), file.stat().st_size / 1e6
    run = client.create_run(experiment_id).info
    up = timed(lambda: client.log_artifact(run.run_id, str(file)))
    shelf = Shelf(store, run.run_id, run.artifact_uri)
    fact = {"sha256": digests.sha256(file)}
    down = timed(lambda: shelf.file(file.name, fact))
    again = timed(lambda: shelf.file(file.name, fact))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SMALL_FILES):
            (Path(folder) / f"{number}.bin").write_bytes(os.urandom(SMALL_BYTES))
        small = timed(lambda: client.log_artifacts(run.run_id, folder, "small"))
    print(
        f"{name:<22}{megabytes / up:>12.0f} MB/s{megabytes / down:>12.0f} MB/s"
        f"{1000 * again:>12.1f} ms{SMALL_FILES / small:>12.0f} /s",
        flush=True,
    )


def call(uri: str) -> float:
    """Median milliseconds of a log_metric, after the first ones."""
    client = MlflowClient(uri)
    run_id = client.create_run("0").info.run_id
    taken = [timed(partial(client.log_metric, run_id, "metric", n, step=n)) for n in range(CALLS)]
    return 1000 * median(taken[5:])


def passwords() -> None:
    """Print what a call costs, by how the server asks for a password."""
    ways = {
        "no password": [],
        "a password": ["--auth=true", "--auth_cache_seconds=0"],
        "remembered for 60 s": ["--auth=true"],
    }
    for name, words in ways.items():
        with servers.server(*words) as started:
            found = {"MLFLOW_TRACKING_USERNAME": "admin"}
            found["MLFLOW_TRACKING_PASSWORD"] = started.secrets[ADMIN]
            with variables(found if words else {}):
                print(f"log_metric, {name:<22}{call(started.address):>8.0f} ms", flush=True)


def main() -> None:
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    if reason := servers.absent():
        sys.exit(reason)
    with servers.server() as started, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "large.bin"
        file.write_bytes(os.urandom(megabytes * 1_000_000))
        store = Store(started.address, Path(folder) / "work")
        proxied = MlflowClient(store.uri).create_experiment("proxied")
        direct = MlflowClient(store.uri).create_experiment("direct", "s3://mlflow/direct")
        keys = {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{started.ports[2]}",
            "AWS_DEFAULT_REGION": "us-east-1", **started.secrets,
        }  # fmt: skip
        last = f"{'once more':>15}{f'{SMALL_FILES} small up':>15}"
        print(f"{f'{megabytes} MB':<22}{'up':>17}{'down, checked':>17}{last}")
        measure("proxied", store, proxied, file)
        with variables({MULTIPART: "true"}):
            measure("proxied, multipart up", store, proxied, file)
        with variables(keys):
            measure("direct", store, direct, file)
    passwords()
    print(f"load {', '.join(f'{load:.1f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main()
