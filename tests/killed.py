"""A study whose process is killed on its way, and what it had finished by then."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence

from conftest import ROOT
from forked import Popen
from mlflow.entities import Run

from papertrail.core.storage.store import Store


def runs(store: Store) -> list[Run]:
    """All runs of the store, newest first."""
    groups = [one.experiment_id for one in store.client.search_experiments()]
    return list(store.client.search_runs(groups, max_results=1000))


def finished(store: Store) -> Counter[str]:
    """Identity -> how many runs finished it."""
    return Counter(
        run.data.tags["papertrail.identity"] for run in runs(store) if run.info.status == "FINISHED"
    )


def killed(name: str, words: Sequence[str], store: Store, at: int) -> Counter[str]:
    """What the entry point `name` had finished when it was killed, after it had begun `at` runs."""
    entry = str(ROOT / "entrypoints" / f"{name}.py")
    process = Popen([sys.executable, entry, *words], stdout=subprocess.DEVNULL)
    while len(runs(store)) < at:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return finished(store)
