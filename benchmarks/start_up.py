"""How long a person waits: for a typo, and for a finished run's table.

python benchmarks/start_up.py

Each is a process of its own, from the first byte to the last; medians of five after a warm-up, the
finished run at smoke scale in a store of its own.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = 5


def seconds(command: list[str], environment: dict[str, str], code: int) -> float:
    """Wall time of one process; an unexpected exit code ends the benchmark."""
    begin = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return time.perf_counter() - begin


def main() -> None:
    entry = [sys.executable, str(ROOT / "entrypoints" / "hotflip.py")]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "PYTHONPATH": str(ROOT / "src"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        }
        cases = {
            "a typo": ([*entry, "--attack.flps=3"], 2),
            "--help": ([*entry, "--help"], 0),
            "a finished run, with its table": ([*entry, "--scale=smoke"], 0),
        }
        for name, (command, code) in cases.items():
            first = seconds(command, environment, code)
            times = [seconds(command, environment, code) for _ in range(RUNS)]
            print(f"{name:<32} {statistics.median(times):6.2f} s  (first time {first:.1f} s)")


if __name__ == "__main__":
    main()
