"""A sign of life that other machines can see: a tag of the run that changes while it is computed.

Who waits compares two looks by its own clock, so clocks that disagree by hours prove nothing.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException

from papertrail.core.storage.store import Store

BEAT = "papertrail.heartbeat"
SILENCE = 3.0  # missed beats after which a run counts as dead
LONG_SECONDS = 2 * 86_400.0  # older than any clock is wrong: no need to watch


def interval() -> float:
    """Seconds between beats: PAPERTRAIL_HEARTBEAT_SECONDS, else 30."""
    return float(os.environ.get("PAPERTRAIL_HEARTBEAT_SECONDS") or 30.0)


def beat(number: int) -> str:
    """Number of the beat, the writer's clock, and seconds until the next one."""
    return f"{number} {time.time():.0f} {interval():g}"


@contextmanager
def beating(store: Store, run_id: str) -> Iterator[None]:
    """While the block lasts, the run's tag changes; its first beat is written with its tags."""
    over = threading.Event()

    def keep() -> None:
        number = 0
        while not over.wait(interval()):
            number += 1
            try:
                store.impatient.set_tag(run_id, BEAT, beat(number))
            except MlflowException:
                continue  # the store is away: the next beat tells, and work goes on meanwhile

    threading.Thread(target=keep, name="heartbeat", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def silent(store: Store, run_id: str) -> bool:
    """Whether a RUNNING run stops giving signs of life, watched for as long as it takes to know.

    A run that never had a heartbeat cannot be shown to be dead.
    """
    before = store.client.get_run(run_id).data.tags.get(BEAT)
    if before is None:
        return False
    _, written, seconds = before.split()
    if time.time() - float(written) > LONG_SECONDS:
        return True
    end = time.monotonic() + SILENCE * float(seconds)
    while time.monotonic() < end:
        time.sleep(min(1.0, float(seconds) / 10))
        now = store.client.get_run(run_id)
        if now.info.status != "RUNNING" or now.data.tags.get(BEAT) != before:
            return False
    return True
