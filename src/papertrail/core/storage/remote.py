"""Artifacts that lie elsewhere: fetched once, checked against the run's manifest, kept here.

A copy gets its name when it is whole and is what the run left. What cannot be reached now is asked
for again for a while; what is gone or spoiled is Missing, and the run has to be computed again.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from mlflow.entities import FileInfo
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from papertrail.core import digests, progress
from papertrail.core.errors import Missing, in_a_line
from papertrail.core.paths import inside
from papertrail.core.patience import away, patience, patiently
from papertrail.core.storage.store import Store

FOLDER, LIMIT = "fetched", "PAPERTRAIL_FETCHED_GB"
"""Where copies lie, under the store's work folder; environment variable: what they may take."""
GIGABYTES = 50.0
IN_USE_SECONDS = 24 * 3600.0  # somebody may still read a copy of that age
WAIT_SECONDS = 60.0  # a person waits for a table
TRIES = 2  # a transfer may be spoiled on its way; what is spoiled where it lies stays so
LARGE_UPLOAD = 16 << 20  # bytes; to ask for the size of one file takes as long as to send 1 MB
_TIDY: set[Path] = set()


@dataclass(frozen=True)
class Shelf:
    """The copies of one run's artifacts on this machine."""

    store: Store
    run_id: str
    address: str
    """Where the run's artifacts lie."""

    @property
    def folder(self) -> Path:
        return self.store.work / FOLDER / self.run_id

    @cached_property
    def _there(self) -> ArtifactRepository:
        self.store.refuse_proxied(self.address)
        return get_artifact_repository(self.address, tracking_uri=self.store.uri)

    def file(self, name: str, fact: Mapping[str, Any] | None, again: bool = False) -> Path:
        """A copy of one file, with the digest of `fact`; Missing if there is none such.

        Without a `fact`, the run has no manifest (yet), and every call fetches what there is now.
        `again`: fetch it though a copy is here.
        """
        path = inside(self.folder, name)
        if fact and not again and path.is_file() and digests.sha256(path) == fact["sha256"]:
            os.utime(self.folder)
            return path
        _tidy_once(self.store.work / FOLDER)
        for _ in range(TRIES):
            aside = self._fetched(name)
            if fact is None or digests.sha256(aside) == fact["sha256"]:
                path.parent.mkdir(parents=True, exist_ok=True)
                return aside.replace(path)
            size = aside.stat().st_size
            aside.unlink()
        assert fact
        raise Missing(
            f"run {self.run_id}: its artifact {name} is not what the run left ({size} bytes that "
            f"do not have sha256 {fact['sha256'][:12]}...); recompute the run"
        )

    def listed(self, name: str) -> Iterator[tuple[str, int]]:
        """Names and bytes of the files in a folder of the run, at any depth."""

        def ask() -> list[FileInfo]:
            return list(self._there.list_artifacts(name or None))

        for info in patiently(ask, self._what(name), _wait()):
            if info.is_dir:
                yield from self.listed(info.path)
            else:
                yield info.path, int(info.file_size or 0)

    def _fetched(self, name: str) -> Path:
        """What lies there, in a file of its own that nobody else knows."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / f".{uuid4().hex}.part"
        try:
            patiently(lambda: self._download(name, aside), self._what(name), _wait())
        except BaseException as error:
            aside.unlink(missing_ok=True)
            if isinstance(error, Exception) and away(error):
                raise ConnectionError(f"{self._what(name)}: {in_a_line(error)}") from error
            raise
        return aside

    def _download(self, name: str, to: Path) -> None:
        try:
            self._there._download_file(name, str(to))
        except Exception as error:
            if status := _refusal(error):
                where = f"no artifact {name} in {self.address} ({status})"
                raise Missing(f"run {self.run_id}: {where}; recompute the run") from None
            raise

    def _what(self, name: str) -> str:
        return f"artifact {name} of run {self.run_id}"


def confirm(client: MlflowClient, run_id: str, name: str, size: int) -> None:
    """ConnectionError unless a large file arrived whole, as far as its size tells."""
    if size >= LARGE_UPLOAD:
        folder = name.rpartition("/")[0]
        found = {one.path: one.file_size for one in client.list_artifacts(run_id, folder or None)}
        if found.get(name) != size:
            said = f"{found.get(name) or 0} of {size} bytes arrived"
            raise ConnectionError(f"artifact {name} of run {run_id}: {said}")


def _wait() -> float:
    return min(WAIT_SECONDS, patience())


def _refusal(error: Exception) -> int:
    """The status with which the other end said that it will not give the file; 0 if it did not."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore's
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    else:
        status = int(getattr(answer, "status_code", 0) or 0)
    return status if 400 <= status < 500 and status not in (408, 429) else 0


def _tidy_once(folder: Path) -> None:
    """Let go of the runs that were not read for longest, where copies take too much room."""
    if folder in _TIDY or not folder.is_dir():
        return
    _TIDY.add(folder)
    runs = sorted((one.stat().st_mtime, one) for one in folder.iterdir() if one.is_dir())
    sizes = {one: sum(p.stat().st_size for p in one.rglob("*") if p.is_file()) for _, one in runs}
    most = float(os.environ.get(LIMIT) or GIGABYTES) * 1e9
    surplus = sum(sizes.values()) - most
    for used, one in runs:
        if surplus > 0 and time.time() - used > IN_USE_SECONDS:
            progress.say(f"{one}: {sizes[one] / 1e9:.1f} GB of copies were let go ({LIMIT})")
            shutil.rmtree(one, ignore_errors=True)
            surplus -= sizes[one]
