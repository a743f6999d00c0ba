"""Sixteen processes at one store: how long they take over one question, and over one each.

python benchmarks/claims.py [PROCESSES]

Real processes that have everything imported, so that claims and the store are measured and nothing
else; a new SQLite store each time. First all ask one question that takes one second to compute,
then each asks one of its own that takes none. Alone and together in turn, three times.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}

from crowd import Crowd, crowd

from papertrail.core.storage.store import connect

ROUNDS = 3
ONE_SECOND = "--do=second"


def asked(people: Crowd, empty: Path, questions: Sequence[Sequence[str]]) -> tuple[float, int]:
    """Seconds until all processes have their answers, from when the first starts; runs computed."""
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{shutil.copy(empty, folder)}"
        begin = time.perf_counter()
        where = {"MLFLOW_TRACKING_URI": uri}
        members = [people.starts(*words, environment=where) for words in questions]
        assert [member.ended() for member in members] == [0] * len(members)
        seconds = time.perf_counter() - begin
        return seconds, sum("working " in member.stdout for member in members)


def measure(people: Crowd, empty: Path, num_processes: int) -> None:
    one, many, none, each = [], [], [], []
    for _ in range(ROUNDS):
        one.append(asked(people, empty, [[ONE_SECOND]]))
        many.append(asked(people, empty, [[ONE_SECOND]] * num_processes))
        none.append(asked(people, empty, [[]]))
        each.append(asked(people, empty, [[f"--seed={n}"] for n in range(num_processes)]))
    report("one process, a question of 1 s", one)
    report(f"{num_processes} processes, the same question of 1 s", many)
    report("one process, a question of 0 s", none)
    report(f"{num_processes} processes, a question of 0 s each", each)
    rate = num_processes / median(seconds for seconds, _ in each)
    ratio = median(m / o for (m, _), (o, _) in zip(many, one, strict=True))
    print(f"\nthe same question: {ratio:.2f} times as long as alone")
    print(f"a question each: {rate:.1f} runs a second")


def report(name: str, rounds: Sequence[tuple[float, int]]) -> None:
    seconds = sorted(seconds for seconds, _ in rounds)
    computed = {num_runs for _, num_runs in rounds}
    spread = f"{seconds[0]:.2f} to {seconds[-1]:.2f}"
    print(f"{name:<44} {median(seconds):>6.2f} s  ({spread})  computed: {computed}")


if __name__ == "__main__":
    num_processes = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    with crowd() as people, tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "mlflow.db"
        connect(f"sqlite:///{empty}")
        asked(people, empty, [[]])  # the server of processes imports what they need
        measure(people, empty, num_processes)
