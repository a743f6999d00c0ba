"""An open run as its writer holds it: a spool of what it logs, a manifest, a scratch folder.

Metrics go to the spool, on disk, and from there to the store, by a thread of their own. So does all
else where the store is remote: the process that computes asks it nothing.

The order at the end is what makes a run trustworthy: results, then the manifest of their digests,
then the completion mark, then FINISHED. MLflow's FINISHED alone proves nothing.
"""

import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from mlflow.entities import RunTag
from mlflow.exceptions import MlflowException

from papertrail.core import digests
from papertrail.core import progress as progress_
from papertrail.core.errors import Missing, in_a_line
from papertrail.core.paths import checked
from papertrail.core.patience import away, why_away
from papertrail.core.question.identity import Identity
from papertrail.core.storage.store import Store
from papertrail.core.writing import spool
from papertrail.core.writing.sending import Sender
from papertrail.core.writing.spool import Kind, Spool

COMPLETE = "papertrail.complete"
MANIFEST, FAILURE = "manifest.json", "failure.txt"
INVALIDATED = "papertrail.invalidated"
BATCH, FLUSH_SECONDS = 500, 5.0  # one call carries 500 metrics as cheaply as one: a call costs ms
GRACE_SECONDS = 5.0  # for the store to hear of an end that is no result
TAG_LIMIT, PARAM_LIMIT = 8000, 6000  # MLflow's own: it cuts without a word
PARENTS, PARENTS_PER_TAG = "papertrail.parents", 200  # 33 characters each


def shortened(text: str, limit: int = TAG_LIMIT) -> str:
    """A text that MLflow would cut, cut where one sees it; the whole stands in an artifact."""
    if len(text) <= limit:
        return text
    digest = sha256(text.encode()).hexdigest()[:12]
    return f"{text[: limit - 100]}... ({len(text)} characters, sha256 {digest})"


def parents_of(tags: Mapping[str, str]) -> list[str]:
    """Ids of the runs that a run with these tags was built on, in the order of first use."""
    keys = sorted((key for key in tags if key.startswith(PARENTS)), key=lambda key: (len(key), key))
    return [run_id for key in keys for run_id in tags[key].split(",") if run_id]


class Run:
    """An open MLflow run: spools what is logged, keeps a manifest, knows its scratch folder."""

    def __init__(self, store: Store, run_id: str, identity: Identity, seen: Mapping[str, int]):
        self.store, self.run_id, self.identity = store, run_id, identity
        self.folder = store.folder(identity.digest)
        self.pid = os.getpid()  # a forked child has a copy of this object, and no run
        self._seen = dict(seen)  # metric -> last step already in the store, from before a resume
        self._lock = threading.RLock()
        self._sender: Sender | None = None
        self._waiting, self._woken = 0, time.monotonic()  # metrics since the sender was last told
        self._pace = progress_.Pace()
        self._manifest: dict[str, dict[str, Any]] = {}
        self._failed_gates: list[str] = []
        self._parents: dict[str, None] = {}  # run ids in the order of first use
        self._marked = False  # whether the completion mark is written
        self.note = ""  # the paragraph for people
        self.headlines: dict[str, None] = {}  # metrics that people compare, in the order of logging
        self._ended = False  # whether nothing more is taken

    def metrics(self, values: Mapping[str, int | float], step: int = 0) -> None:
        """Log numbers. OSError where the disk has no room to keep them."""
        new = {k: float(v) for k, v in values.items() if step > self._seen.get(k, -1)}
        if not new:
            return
        with self._lock:
            if self._ended:
                return  # of a thread that has not noticed
            self._append("metrics", [int(time.time() * 1000), step, new])
            self._waiting += len(new)
            now = time.monotonic()
            if self._waiting >= BATCH or now - self._woken > FLUSH_SECONDS:
                self._waiting, self._woken = 0, now
                self.sender.wake()

    def flush(self) -> None:
        """Have all that was logged in the store; an outage of a remote one is waited out."""
        if self._sender is not None:
            self._sender.empty_patiently()

    def to_disk(self) -> None:
        """Have all that was logged survive whatever happens: a resumed run sends it first."""
        if self._sender is not None:
            self._sender.spool.to_disk()

    @property
    def sender(self) -> Sender:
        """Who empties the spool of this run, which is made when there is something to put there."""
        if self._sender is None:
            with self._lock:
                folder = spool.folder_of(self.store.work, self.identity.digest, self.run_id)
                made = Spool(folder)
                if not made.end:
                    made.append(
                        "head", spool.head(self.store.shown, self.run_id, self.identity.form)
                    )
                self._sender = Sender(made, self.run_id, self.store)
        return self._sender

    def _append(self, kind: Kind, body: Any) -> None:
        with self._lock:
            self.sender.spool.append(kind, body)
            if self.store.remote and self.sender.thread is None:
                self.sender.wake()

    def progress(self, done: float) -> None:
        left = self._pace.seconds_left(done)
        values = {"progress": done} | ({} if left is None else {"eta_seconds": left})
        self.metrics(values, step=int(done * 10_000))

    def tags(self, values: Mapping[str, str]) -> None:
        """Tag the run: at once on this machine, else soon and in order."""
        if self.store.remote:
            return self._append("tags", dict(values))
        tags = [RunTag(key, value) for key, value in values.items()]
        self.store.client.log_batch(self.run_id, tags=tags)
        return None

    def input(self, name: str, digest: str, source: str, context: str) -> None:
        """Note that the run read a dataset."""
        self._append("input", [name, digest, source, context])

    def gate(self, name: str, passed: bool, sentence: str) -> None:
        self.metrics({f"gate/{name}": float(passed)})
        if not passed:
            self._failed_gates.append(f"{name}: {sentence}")
            self.tags({"papertrail.failed_gates": shortened("; ".join(self._failed_gates))})

    def artifact(self, path: Path, under: str = "") -> None:
        """Log one file and note its digest for the manifest."""
        name = checked(f"{under}/{path.name}" if under else path.name)
        if self.store.remote:
            with self._lock:
                spooled = self.sender.spool
                ours = any(map(path.is_relative_to, (self.folder, spooled.folder)))
                spooled.keep(path, name, ours)
                self.sender.wake()
        else:
            self.store.client.log_artifact(self.run_id, str(path), under or None)
        self._manifest[name] = {"sha256": digests.sha256(path), "bytes": path.stat().st_size}

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write to; what is there when the block ends becomes the artifact `name`."""
        folder, _, file = name.rpartition("/")
        # What is written in the spool's folder needs no copy to stay there.
        beside = self.sender.spool.folder if self.store.remote else None
        with tempfile.TemporaryDirectory(dir=beside) as scratch:
            path = Path(scratch) / file
            yield path
            self.artifact(path, folder)

    def text(self, name: str, text: str) -> None:
        """Log `text` as the artifact `name` ("folder/file.txt")."""
        with self.file(name) as path:
            path.write_text(text, encoding="utf-8")

    @property
    def parents(self) -> list[str]:
        """Ids of the runs whose results this one used."""
        return list(self._parents)

    def built_on(self, *run_ids: str) -> None:
        """Note that this run used the results of others."""
        first = len(self._parents) // PARENTS_PER_TAG
        self._parents |= dict.fromkeys(run_ids)
        ids = list(self._parents)
        chunks = range(first, -(-len(ids) // PARENTS_PER_TAG))
        self.tags(
            {
                PARENTS + (f".{n + 1}" if n else ""): ",".join(
                    ids[n * PARENTS_PER_TAG : (n + 1) * PARENTS_PER_TAG]
                )
                for n in chunks
            }
        )

    def complete(self) -> None:
        """Manifest, then the mark that makes the run usable, then FINISHED.

        Missing where the store stays away for longer than one waits: all is on disk then.
        """
        self.metrics({"progress": 1.0, "eta_seconds": 0.0}, step=10_000)
        if not self.store.remote:
            self.flush()
        manifest = json.dumps(self._manifest, indent=1, sort_keys=True)
        self.text(MANIFEST, manifest)
        self.tags({COMPLETE: sha256(manifest.encode()).hexdigest()})
        self._marked = True
        if not self.store.remote:
            return self.store.client.set_terminated(self.run_id, "FINISHED")
        try:
            self._append("end", ["FINISHED", int(time.time() * 1000)])
            self._ended = True
            self.to_disk()
            return self.flush()
        except Exception as error:
            if not away(error):
                raise
            raise Missing(
                f"run {self.run_id} is complete on disk, but {self.store.shown} is away "
                f"({why_away(error)}): mlflow run . -e sync delivers it"
            ) from error

    def abandon(self, status: str, reason: str, trace: str = "") -> bool:
        """End without a result, keeping what was logged; whether `failure.txt` has the trace."""
        if self._marked:
            return False  # it is complete: who looks next finds the mark and ends it as FINISHED
        try:
            if not (self.store.remote and self._spooled(status, reason, trace)):
                self._end_at_once(status, reason, trace)
        except (MlflowException, OSError) as error:  # what ends the run matters more than this
            waits = self._sender is not None and self._sender.spool.waits
            said = why_away(error) + ("; what it logged last is on disk" if waits else "")
            if self.store.remote and away(error):
                said += "; mlflow run . -e sync delivers it"
            progress_.say(f"run {self.run_id}: could not be marked {status} ({said})")
            return False
        return bool(trace)

    def _end_at_once(self, status: str, reason: str, trace: str) -> None:
        unsent = ""
        try:
            if self._sender is not None:
                self._sender.empty(GRACE_SECONDS)
        except (MlflowException, OSError) as error:
            if self.store.remote and away(error):
                raise
            unsent = in_a_line(error)
        tags = [RunTag("papertrail.failure", shortened(reason))]
        self.store.impatient.log_batch(self.run_id, tags=tags)
        self.store.impatient.set_terminated(self.run_id, status)
        if unsent:
            progress_.say(f"run {self.run_id}: what it logged last is on disk only ({unsent})")
        if trace and not self.store.remote:
            self.text(FAILURE, trace)

    def _spooled(self, status: str, reason: str, trace: str) -> bool:
        """Send the end behind all else; False where the disk has no room to note it."""
        try:
            if trace:
                self.text(FAILURE, trace)
            self.tags({"papertrail.failure": shortened(reason)})
            self._append("end", [status, int(time.time() * 1000)])
        except OSError:
            return False
        self._ended = True
        self.to_disk()
        self.sender.empty(GRACE_SECONDS)
        return True

    def close(self) -> None:
        """Let go of the spool: it is gone if the store has everything."""
        if self.pid == os.getpid():
            with self._lock:
                self._ended = True
            if self._sender is not None:
                self._sender.stop()
