"""An open run as its writer holds it: buffered metrics, a manifest of artifacts, a scratch folder.

The order at the end is what makes a run trustworthy: results, then the manifest of their digests,
then the completion mark, then FINISHED. MLflow's FINISHED alone proves nothing.
"""

import json
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

from papertrail.core import progress as progress_
from papertrail.core.identity import Identity
from papertrail.core.store import Store

COMPLETE = "papertrail.complete"
MANIFEST = "manifest.json"
BATCH, FLUSH_SECONDS = 500, 5.0  # one call carries 500 metrics as cheaply as one: a call costs ms
TAG_LIMIT = 8000  # MLflow's own


class Run:
    """An open MLflow run: buffers metrics, keeps a manifest, knows its scratch folder."""

    def __init__(self, store: Store, run_id: str, identity: Identity, seen: Mapping[str, int]):
        self.store, self.run_id, self.identity = store, run_id, identity
        self.folder = store.folder(identity.digest)
        self._seen = dict(seen)  # metric -> last step already in the store, from before a resume
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()
        self._lock = threading.Lock()
        self._pace = progress_.Pace()
        self._manifest: dict[str, dict[str, Any]] = {}
        self._failed_gates: list[str] = []
        self._parents: dict[str, None] = {}  # run ids in the order of first use

    def metrics(self, values: Mapping[str, int | float], step: int = 0) -> None:
        now = int(time.time() * 1000)
        with self._lock:
            self._buffer += [
                Metric(key, float(value), now, step)
                for key, value in values.items()
                if step > self._seen.get(key, -1)
            ]
            full = len(self._buffer) >= BATCH
        if full or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._try_to_flush()

    def flush(self) -> None:
        """Send what is buffered; what could not be sent stays buffered and the error is raised."""
        with self._lock:
            while self._buffer:
                self.store.client.log_batch(self.run_id, metrics=self._buffer[:BATCH])
                del self._buffer[:BATCH]
        self._flushed = time.monotonic()

    def _try_to_flush(self) -> None:
        """A store that does not answer delays metrics; it must not end hours of training."""
        try:
            self.flush()
        except MlflowException as error:
            self._flushed = time.monotonic()
            progress_.say(
                f"{self.run_id}: {len(self._buffer)} metrics wait for the store ({error})"
            )

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
            self.tags({"papertrail.failed_gates": "; ".join(self._failed_gates)[:TAG_LIMIT]})

    def artifact(self, path: Path, under: str = "") -> None:
        """Log one file and note its digest for the manifest."""
        self.store.client.log_artifact(self.run_id, str(path), under or None)
        name = f"{under}/{path.name}" if under else path.name
        self._manifest[name] = {"sha256": _digest(path), "bytes": path.stat().st_size}

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

    def built_on(self, run_id: str) -> None:
        """Note that this run used the result of another."""
        self._parents[run_id] = None
        self.tags({"papertrail.parents": ",".join(self._parents)})

    def complete(self) -> None:
        """Manifest, then the mark that makes the run usable, then FINISHED."""
        self.metrics({"progress": 1.0, "eta_seconds": 0.0}, step=10_000)
        self.flush()
        manifest = json.dumps(self._manifest, indent=1, sort_keys=True)
        self.text(MANIFEST, manifest)
        self.tags({COMPLETE: sha256(manifest.encode()).hexdigest()})
        self.store.client.set_terminated(self.run_id, "FINISHED")

    def abandon(self, status: str, reason: str) -> None:
        """End without a result, keeping what was logged."""
        try:
            self.flush()
            self.tags({"papertrail.failure": reason[:TAG_LIMIT]})
            self.store.client.set_terminated(self.run_id, status)
        except MlflowException as error:  # the cause that ends the run matters more than this one
            lost = f"{len(self._buffer)} metrics unsent"
            progress_.say(f"{self.run_id}: could not be marked {status} ({error}); {lost}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        hasher = sha256()
        while chunk := file.read(1 << 20):
            hasher.update(chunk)
    return hasher.hexdigest()
