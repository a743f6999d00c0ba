"""A run as the store has it, read-only: its numbers, its files, and whether it is an answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlflow.entities import Run as MlflowRun

from papertrail.core import digests
from papertrail.core.errors import Missing
from papertrail.core.paths import inside
from papertrail.core.question.identity import Identity, differences
from papertrail.core.storage.remote import Shelf
from papertrail.core.storage.store import Store, folder_behind
from papertrail.core.writing.run import COMPLETE, INVALIDATED, MANIFEST
from papertrail.core.writing.track import QUESTION

MACHINE = re.compile(r"^(system/|progress$)|(^|[/_])seconds$|per_second|oom_retries")
"""Metrics that measure the machine: they differ between two runs of one question."""
LARGE = 64 << 20  # bytes
_SEEN: set[tuple[str, str]] = set()  # address and run id of remote manifests that this process saw


@dataclass(frozen=True)
class Record:
    """A run as the store has it: read-only."""

    store: Store
    run: MlflowRun

    @property
    def run_id(self) -> str:
        return str(self.run.info.run_id)

    @property
    def status(self) -> str:
        return str(self.run.info.status)

    @property
    def metrics(self) -> Mapping[str, float]:
        return dict(self.run.data.metrics)

    @property
    def tags(self) -> Mapping[str, str]:
        return dict(self.run.data.tags)

    @cached_property
    def config(self) -> Mapping[str, str]:
        """Resolved options by dotted path, as text."""
        params = self.run.data.params.items()
        return {key.removeprefix("cfg."): value for key, value in params if key.startswith("cfg.")}

    @property
    def failed_gates(self) -> str:
        """Sentences of the controls that did not hold; empty when all did."""
        return self.tags.get("papertrail.failed_gates", "")

    @property
    def url(self) -> str:
        return self.store.run_url(self.run.info.experiment_id, self.run_id)

    def artifact(self, name: str) -> Path:
        """Local path of an artifact file or folder; Missing if the run does not have it.

        Of a remote one, the path of a copy, which has the digest of the manifest.
        """
        local = self._local
        if local is not None:
            path = inside(local, name)
            if path.exists():
                return path
            raise Missing(f"run {self.run_id}: no artifact {name} in {local}; recompute the run")
        return self._copy(name)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """(step, value) of a metric over the whole run, by step; empty if it was never logged."""
        points = self.store.client.get_metric_history(self.run_id, metric)
        return sorted((point.step, point.value) for point in points)

    def json(self, name: str) -> Any:
        """The parsed artifact `results/NAME.json`."""
        return json.loads(self.artifact(f"results/{name}.json").read_text(encoding="utf-8"))

    def other_numbers(self, other: Record) -> str:
        """The first result that differs from that of `other`, machine measurements aside."""
        for key in sorted(self.metrics.keys() | other.metrics.keys()):
            mine, theirs = self.metrics.get(key, math.nan), other.metrics.get(key, math.nan)
            same = math.isclose(mine, theirs, rel_tol=1e-9) or (mine != mine and theirs != theirs)
            if not same and not MACHINE.search(key):
                return f"{key} {mine:.6g} against {theirs:.6g}"
        return ""

    def unusable(self, identity: Identity | None = None) -> str:
        """Why the run is no answer, in one clause; empty when it is usable."""
        if self.run.info.lifecycle_stage != "active":
            return "it was deleted in the store"
        if self.status != "FINISHED":
            cause = self.tags.get("papertrail.failure", "")
            return f"it is {self.status}" + (f" ({cause})" if cause else "")
        if COMPLETE not in self.tags:
            return "it ended without its completion mark"
        if reason := self.tags.get(INVALIDATED):
            return f"it was invalidated ({reason})"
        try:
            return self.changed(identity) or self.incomplete()
        except Missing as error:
            return str(error)

    def changed(self, identity: Identity | None) -> str:
        """The keys in which the run's own question differs from `identity`; empty if in none."""
        if identity is None:
            return ""
        stored = json.loads(self.artifact(QUESTION).read_text(encoding="utf-8"))
        return "; ".join(differences(stored, identity.form))

    def incomplete(self, thorough: bool = False) -> str:
        """The first artifact of the manifest that is gone or has another content.

        Of files beyond 64 MiB only the size is looked at, unless `thorough`: a hit must not wait
        for gigabytes. A remote artifact is checked when it is fetched; until then its manifest
        has to be there, and if `thorough` each file has to have its size.
        """
        local, facts = self._local, self.manifest
        if local is None:
            there = dict(self._shelf.listed("")) if thorough else None
            lacking = [n for n in facts if there is not None and there.get(n) != facts[n]["bytes"]]
            return f"its artifact {lacking[0]} is gone or changed" if lacking else ""
        for name, fact in facts.items():
            path = local / name
            if not path.is_file() or path.stat().st_size != fact["bytes"]:
                return f"its artifact {name} is gone or changed"
        checked = [name for name, fact in facts.items() if thorough or fact["bytes"] <= LARGE]
        found = digests.of_each([local / name for name in checked])
        for name, digest in zip(checked, found, strict=True):
            if digest != facts[name]["sha256"]:
                return f"its artifact {name} is gone or changed"
        return ""

    @cached_property
    def manifest(self) -> Mapping[str, Mapping[str, Any]]:
        """Digest and bytes of each artifact by name; Missing unless the run wrote it at its end.

        A remote one is asked for once a process, whatever copies are here: who deletes artifacts
        in the storage makes runs compute again.
        """
        found: dict[str, dict[str, Any]] = json.loads(
            self.artifact(MANIFEST).read_text(encoding="utf-8")
        )
        return found

    @property
    def _shelf(self) -> Shelf:
        return Shelf(self.store, self.run_id, str(self.run.info.artifact_uri))

    def _copy(self, name: str) -> Path:
        """A checked copy of a remote artifact, or of every file in a remote folder."""
        shelf = self._shelf
        if name == MANIFEST:
            digest, key = self.tags.get(COMPLETE), (self.store.uri, self.run_id)
            path = shelf.file(name, {"sha256": digest} if digest else None, key not in _SEEN)
            _SEEN.add(key)
            return path
        facts = self.manifest if COMPLETE in self.tags else {}
        inner = [one for one in facts if one.startswith(f"{name}/")]
        if COMPLETE not in self.tags:
            inner = [one for one, _ in shelf.listed(name)]
        for one in inner:
            shelf.file(one, facts.get(one))
        return shelf.folder / name if inner else shelf.file(name, facts.get(name))

    @property
    def _local(self) -> Path | None:
        """The folder of its artifacts, if it lies on this machine."""
        folder = folder_behind(self.run.info.artifact_uri)
        if folder is None or folder.exists():
            return folder
        # The database keeps absolute addresses: after a move, look beside it.
        *_, experiment, run_id, last = folder.parts
        moved = self.store.beside / "mlruns" / experiment / run_id / last
        return moved if moved.exists() else folder
