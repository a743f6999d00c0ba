"""From the spool of a run to its store: in order, in batches, as often as it takes.

Sending twice changes nothing: MLflow keeps one of two equal points (metric, step, time, value), and
a tag, an artifact or a status is what it was. So the store is asked again whenever its answer was
lost, and a spool whose sender was killed is sent from its last confirmed byte.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from papertrail.core import progress
from papertrail.core.errors import Missing, in_a_line
from papertrail.core.patience import away, patiently, pauses, why_away
from papertrail.core.storage import remote
from papertrail.core.storage.store import Store
from papertrail.core.writing import spool
from papertrail.core.writing.owner import Owner
from papertrail.core.writing.spool import Busy, Record, Spool

BATCH = 1000  # metrics that MLflow takes at once; a call costs milliseconds, whatever it carries
TAGS = 50  # of 8,000 characters each: half of what a request may hold
AT_WORK = "a process is at work on it"
SECONDS = 5.0  # what was logged is sent after that, at the latest


def metrics_of(body: Sequence[Any]) -> list[Metric]:
    """The points of a record: [milliseconds, step, {metric: value}]."""
    when, step, values = body
    return [Metric(key, float(value), when, step) for key, value in values.items()]


def log_input(client: MlflowClient, run_id: str, body: Sequence[str]) -> None:
    """Note that a run read a dataset: its name, digest, source and purpose."""
    name, digest, source, context = body
    inputs = [DatasetInput(Dataset(name, digest, "papertrail", source), [InputTag(
        "mlflow.data.context", context)])]  # fmt: skip
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if not any(word in str(error).lower() for word in ("unique", "duplicate")):
            raise
        # Another process was the first to name this dataset, between MLflow's look and its insert.
        client.log_inputs(run_id, inputs)


@dataclass
class _Batch:
    """What goes out in one call, or one artifact."""

    last: Record | None = None
    metrics: list[Metric] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    single: Record | None = None

    def takes(self, record: Record) -> bool:
        """Whether the record goes along; only neighbours do, so that order is kept."""
        if record.kind == "metrics" and len(self.metrics) + len(record.body[2]) <= BATCH - TAGS:
            self.metrics += metrics_of(record.body)
        elif record.kind == "tags" and len(self.tags) + len(record.body) <= TAGS:
            self.tags |= record.body
        elif record.kind == "head":
            pass  # for who looks at the folder
        elif self.last is None:
            self.single = record
        else:
            return False
        self.last = record
        return self.single is None


def send_next(one: Spool, run_id: str, client: MlflowClient) -> None:
    """Send the next batch of what waits, and note on disk that the store has it."""
    batch = _Batch()
    for record in one.records():
        if not batch.takes(record):
            break
    if batch.last is None:
        return
    if batch.single is not None:
        _send_single(one, batch.single, run_id, client)
    if batch.metrics or batch.tags:
        tags = [RunTag(*tag) for tag in batch.tags.items()]
        client.log_batch(run_id, metrics=batch.metrics, tags=tags)
    one.acknowledge(batch.last)
    if batch.single is not None and batch.single.kind == "artifact":
        with suppress(OSError):
            one.file(*batch.single.body).unlink()


def _send_single(one: Spool, record: Record, run_id: str, client: MlflowClient) -> None:
    match record.kind:
        case "artifact":
            number, name = record.body
            path = one.file(number, name)
            client.log_artifact(run_id, str(path), name.rpartition("/")[0])
            remote.confirm(client, run_id, name, path.stat().st_size)
        case "input":
            log_input(client, run_id, record.body)
        case "end":
            status, when = record.body
            client.set_terminated(run_id, status, when)
        case "metrics":  # more than a batch holds, in one call
            points = iter(metrics_of(record.body))
            while some := list(islice(points, BATCH)):
                client.log_batch(run_id, metrics=some)
        case "tags":
            items = iter(record.body.items())
            while some_tags := [RunTag(*tag) for tag in islice(items, TAGS)]:
                client.log_batch(run_id, tags=some_tags)


class Sender:
    """Empties the spool of an open run: a thread of its own, so that computing never waits."""

    def __init__(self, one: Spool, run_id: str, store: Store) -> None:
        self.spool, self._run_id, self._store = one, run_id, store
        self._sending = threading.Lock()
        self._due, self._over = threading.Event(), threading.Event()
        self._refused = False  # whether the store took nothing when it was last asked
        self._gone = False
        self.thread: threading.Thread | None = None

    def wake(self) -> None:
        """Have what waits sent soon, by the thread."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="sender", daemon=True)
            self.thread.start()
        self._due.set()

    def empty(self, seconds: float = -1.0) -> None:
        """Send everything now. Raises what the store answers; the rest goes on waiting.

        TimeoutError if the thread has been at one call for longer than so many seconds.
        """
        while self.spool.waits:
            self._send(seconds)

    def empty_patiently(self) -> None:
        """The same; where the store is remote, an outage is waited out, and so is the next."""
        while self.spool.waits:
            if self._store.remote:
                patiently(self._send, f"run {self._run_id}")
            else:
                self._send()

    def stop(self) -> None:
        """Nothing is sent any more, and the spool is let go: removed, if nothing waits in it."""
        self._over.set()
        self._due.set()
        if self._sending.acquire(timeout=1.0):
            try:
                self._let_go()
            finally:
                self._sending.release()
        # else the thread is at a call that takes long, and does it after that

    def _let_go(self) -> None:
        if not self._gone:
            self._gone = True
            try:
                if not self.spool.waits:
                    self.spool.remove()
            finally:
                self.spool.close()

    def _send(self, seconds: float = -1.0) -> None:
        if not self._sending.acquire(timeout=seconds):
            raise TimeoutError("it has not answered the call before")
        try:
            before = self.spool.sent
            send_next(self.spool, self._run_id, self._store.impatient)
            assert self.spool.sent > before or not self.spool.waits, "a record cannot be read"
        finally:
            self._sending.release()

    def _work(self) -> None:
        trying = pauses()
        while not self._over.is_set():
            self._due.wait(SECONDS)
            self._due.clear()
            try:
                while not self._over.is_set() and self.spool.waits:
                    with self._sending:
                        if not self._over.is_set():
                            send_next(self.spool, self._run_id, self._store.impatient)
                        self._refused = False
                trying = pauses()
            except Exception as error:  # whatever it is: it stays on disk, and `empty` will raise
                self._complain(error)
                self._over.wait(next(trying))
        with self._sending:
            self._let_go()

    def _complain(self, error: Exception) -> None:
        if not self._refused and not self._over.is_set():
            said = f"what it logs waits on disk for the store ({why_away(error)})"
            progress.say(f"run {self._run_id}: {said}")
        self._refused = True


# -- spools that others left -----------------------------------------------------------------------


@dataclass(frozen=True)
class Delivered:
    """What became of a spool that was left."""

    folder: Path
    run_id: str
    status: str
    """With which it ended; empty where its process died before its end."""
    trouble: str = ""
    """Why it still waits; empty where the store has all of it."""


def deliver(
    folder: Path, store: Store, dead: Callable[[Mapping[str, Any]], bool] = lambda head: False
) -> Delivered:
    """Send all of a spool that nobody writes any more, and remove it.

    One of another machine counts as left if it has its end, or if `dead` says so of its head.
    Raises what the store answers where it is away.
    """
    run_id = spool.run_of(folder)
    try:
        status, head = spool.ending_of(folder), spool.head_of(folder)
        if not status and head and Owner.parse(head["owner"]).alive() is None and not dead(head):
            where = Owner.parse(head["owner"]).name
            return Delivered(folder, run_id, "", f"{where} may still write it; sync there")
        one = Spool(folder, make=False)
    except Busy:
        return Delivered(folder, run_id, "", AT_WORK)
    except FileNotFoundError:
        return Delivered(folder, run_id, "")
    except Missing as error:  # spoiled
        return Delivered(folder, run_id, "", str(error))
    try:
        Sender(one, run_id, store).empty()
        one.remove()
    except Exception as error:
        if store.remote and away(error):
            raise
        return Delivered(folder, run_id, status, f"the store refuses it ({in_a_line(error)})")
    finally:
        one.close()
    return Delivered(folder, run_id, status)


def ended(identity: str, store: Store) -> bool:
    """Whether a run of this question came to its end while its store was away, and waits here."""
    return any(spool.ending_of(folder) for folder in spool.left(store.work, identity))


def deliver_left(identity: str, store: Store) -> bool:
    """Send what dead processes left of the runs of one question; whether there was anything.

    Where another process is sending it already, this waits for that. Whoever calls this holds the
    claim on the question, so nobody of this machine writes.
    """
    folders = spool.left(store.work, identity)
    for folder in folders:
        if spool.ending_of(folder) == "FINISHED":
            run_id = spool.run_of(folder)
            progress.say(f"run {run_id} is complete on disk: sending it to {store.shown}")
        for pause in pauses():
            found = patiently(partial(deliver, folder, store), f"tracking store {store.shown}")
            if found.trouble != AT_WORK:
                break
            time.sleep(min(1.0, pause))
        if found.trouble:
            progress.say(f"run {found.run_id}: what it left on disk stays there: {found.trouble}")
    return bool(folders)
