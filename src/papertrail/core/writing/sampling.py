"""What a run does to its machine: CPU, memory, disk, network and GPU, as metrics of the run.

MLflow measures; its own loop asks the store about the run every ten seconds and gives up when it is
away, so here the measurements go the way of all other metrics.
"""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from papertrail.core.writing.run import Run

PREFIX = "system/"


@contextmanager
def sampled(run: Run, seen: Mapping[str, int]) -> Iterator[None]:
    """While the block lasts, and if it lasts longer than a minute: each sample averages six
    measurements of ten seconds each, and follows those of before a resume."""
    monitor = SystemMetricsMonitor(run.run_id, 10, 6, tracking_uri=run.store.uri)
    over = threading.Event()
    steps = [step for key, step in seen.items() if key.startswith(PREFIX)]
    first = max(steps, default=-1) + 1
    thread = threading.Thread(
        target=_measure, args=(monitor, run, first, over), name="sampling", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _measure(monitor: SystemMetricsMonitor, run: Run, step: int, over: threading.Event) -> None:
    while True:
        for _ in range(monitor.samples_before_logging):
            monitor.collect_metrics()
            if over.wait(monitor.sampling_interval):
                return
        run.metrics({PREFIX + k: v for k, v in monitor.aggregate_metrics().items()}, step)
        step += 1
        for one in monitor.monitors:
            one.clear_metrics()
