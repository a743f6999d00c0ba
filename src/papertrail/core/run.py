"""An open run as its writer holds it: buffered metrics, a manifest of artifacts, a scratch folder.

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

from mlflow.entities import Metric, RunTag
from mlflow.exceptions import MlflowException

from papertrail.core import digests
from papertrail.core import progress as progress_
from papertrail.core.errors import in_a_line
from papertrail.core.identity import Identity
from papertrail.core.store import Store

COMPLETE = "papertrail.complete"
MANIFEST, FAILURE = "manifest.json", "failure.txt"
INVALIDATED = "papertrail.invalidated"
BATCH, FLUSH_SECONDS = 500, 5.0  # one call carries 500 metrics as cheaply as one: a call costs ms
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
    """An open MLflow run: buffers metrics, keeps a manifest, knows its scratch folder."""

    def __init__(self, store: Store, run_id: str, identity: Identity, seen: Mapping[str, int]):
        self.store, self.run_id, self.identity = store, run_id, identity
        self.folder = store.folder(identity.digest)
        self.pid = os.getpid()  # a forked child has a copy of this object, and no run
        self._seen = dict(seen)  # metric -> last step already in the store, from before a resume
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()
        self._refused = False  # whether the store took nothing when it was last asked
        self._lock = threading.Lock()
        self._pace = progress_.Pace()
        self._manifest: dict[str, dict[str, Any]] = {}
        self._failed_gates: list[str] = []
        self._parents: dict[str, None] = {}  # run ids in the order of first use
        self._marked = False  # whether the completion mark is written

    def metrics(self, values: Mapping[str, int | float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        with self._lock:
            self._buffer += [
                Metric(key, float(value), now, step)
                for key, value in values.items()
                if step > self._seen.get(key, -1)
            ]
            full = len(self._buffer) >= BATCH and not self._refused
        if full or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._try_to_flush()

    def flush(self) -> None:
        """Send what is buffered; what could not be sent stays buffered and the error is raised."""
        with self._lock:
            while self._buffer:
                self.store.client.log_batch(self.run_id, metrics=self._buffer[:BATCH])
                del self._buffer[:BATCH]
        self._flushed, self._refused = time.monotonic(), False

    def _try_to_flush(self) -> None:
        """A store that does not answer delays metrics; it must not end hours of training."""
        try:
            self.flush()
        except MlflowException as error:
            if not self._refused:
                progress_.say(f"run {self.run_id}: metrics wait for the store ({in_a_line(error)})")
            self._flushed, self._refused = time.monotonic(), True

    def progress(self, done: float) -> None:
        left = self._pace.seconds_left(done)
        values = {"progress": done} | ({} if left is None else {"eta_seconds": left})
        self.metrics(values, step=int(done * 10_000))

    def tags(self, values: Mapping[str, str]) -> None:
        tags = [RunTag(key, value) for key, value in values.items()]
        self.store.client.log_batch(self.run_id, tags=tags)

    def gate(self, name: str, passed: bool, sentence: str) -> None:
        self.metrics({f"gate/{name}": float(passed)})
        if not passed:
            self._failed_gates.append(f"{name}: {sentence}")
            self.tags({"papertrail.failed_gates": shortened("; ".join(self._failed_gates))})

    def artifact(self, path: Path, under: str = "") -> None:
        """Log one file and note its digest for the manifest."""
        self.store.client.log_artifact(self.run_id, str(path), under or None)
        name = f"{under}/{path.name}" if under else path.name
        self._manifest[name] = {"sha256": digests.sha256(path), "bytes": path.stat().st_size}

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A path to write to; what is there when the block ends becomes the artifact `name`."""
        folder, _, file = name.rpartition("/")
        with tempfile.TemporaryDirectory() as scratch:
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
        """Manifest, then the mark that makes the run usable, then FINISHED."""
        self.metrics({"progress": 1.0, "eta_seconds": 0.0}, step=10_000)
        self.flush()
        manifest = json.dumps(self._manifest, indent=1, sort_keys=True)
        self.text(MANIFEST, manifest)
        self.tags({COMPLETE: sha256(manifest.encode()).hexdigest()})
        self._marked = True
        self.store.client.set_terminated(self.run_id, "FINISHED")

    def abandon(self, status: str, reason: str, trace: str = "") -> bool:
        """End without a result, keeping what was logged; whether `failure.txt` has the trace."""
        if self._marked:
            return False  # it is complete: who looks next finds the mark and ends it as FINISHED
        try:
            self.flush()
            self.tags({"papertrail.failure": shortened(reason)})
            self.store.client.set_terminated(self.run_id, status)
            if trace:
                self.text(FAILURE, trace)
        except (MlflowException, OSError) as error:  # what ends the run matters more than this
            said = f"{in_a_line(error)}; {len(self._buffer)} metrics unsent"
            progress_.say(f"run {self.run_id}: could not be marked {status} ({said})")
            return False
        return bool(trace)
