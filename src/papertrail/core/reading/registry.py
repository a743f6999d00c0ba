"""Registered models: a name, versions and aliases in front of the runs that trained them.

A version points at the folder `model/` that its run exported, so nothing is stored twice, and it
is an answer for as long as its run is one: an alias of an invalidated run is refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from papertrail.core.digests import seen_once
from papertrail.core.errors import BadInput, Missing
from papertrail.core.reading import query
from papertrail.core.reading.address import REGISTERED
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect

FOLDER = "model"
"""Artifact folder of every run that exports weights, as `save_pretrained` writes it."""
ADDRESS = re.compile(rf"{REGISTERED}(?P<name>[\w.-]+)(@(?P<alias>[\w-]+)|/(?P<version>\d+))")
NAME, ALIAS = re.compile(r"\w[\w.-]*"), re.compile(r"(?!(latest|v\d+)$)[\w-]+", re.IGNORECASE)
"""What MLflow takes, and no more than an address and a shell take unquoted."""
NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


@dataclass(frozen=True, kw_only=True)
class Registered:
    """One version of a registered model."""

    name: str
    version: int
    record: Record
    """The run that trained it, usable."""

    @property
    def folder(self) -> Path:
        """Its files on this machine; fetched, if the store keeps them elsewhere."""
        return self.record.artifact(FOLDER)

    @property
    def files(self) -> Mapping[str, str]:
        """Name -> SHA-256 of every file in its folder."""
        return files_of(self.record)


@seen_once
def find(address: str, store: Store | None = None) -> Registered:
    """The version at models:/NAME@ALIAS or models:/NAME/VERSION.

    BadInput if there is none; Missing if its run is no answer (any more).
    """
    store = store or connect()
    parts = ADDRESS.fullmatch(address)
    if parts is None:
        raise BadInput(f"model: no address ({address}); write {REGISTERED}NAME@ALIAS")
    version = _version(store, address, parts["name"], parts["alias"], parts["version"])
    if not version.run_id:
        raise BadInput(f"model: {address} was registered from no run; see -e register")
    record = query.by_id(version.run_id, store)
    if reason := record.unusable():
        raise Missing(f"{address}: run {record.run_id} is no answer any more: {reason}")
    return Registered(name=version.name, version=int(version.version), record=record)


def files_of(record: Record) -> dict[str, str]:
    """Name -> SHA-256 of the files in the model folder of a run; empty if it exported none."""
    facts = record.manifest.items()
    return {
        n.removeprefix(f"{FOLDER}/"): f["sha256"] for n, f in facts if n.startswith(f"{FOLDER}/")
    }


def register(record: Record, name: str, tags: Mapping[str, str], note: str) -> int:
    """The version of `name` that is this run; made if there is none yet."""
    store = record.store
    with store.lock("registry"):
        versions = versions_of(store, name)
        if versions is None:
            store.client.create_registered_model(name)
        for one in versions or ():
            if one.run_id == record.run_id:
                return int(one.version)
        source = f"runs:/{record.run_id}/{FOLDER}"
        made = store.client.create_model_version(
            name, source, run_id=record.run_id, tags=dict(tags), description=note
        )
        return int(made.version)


def versions_of(store: Store, name: str) -> list[ModelVersion] | None:
    """Every version of a registered model, newest first; None if the name is not taken."""
    try:
        store.client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code in NOT_THERE:
            return None
        raise
    return list(store.client.search_model_versions(f"name='{name}'", max_results=10_000))


def versions_behind(record: Record) -> list[ModelVersion]:
    """Every version of any registered model that is this run."""
    found = record.store.client.search_model_versions(f"run_id='{record.run_id}'")
    return sorted(found, key=lambda one: (one.name, int(one.version)))


def aliases_of(store: Store, name: str) -> dict[str, int]:
    """Alias -> version that it points at now."""
    aliases = store.client.get_registered_model(name).aliases
    return {alias: int(version) for alias, version in aliases.items()}


def point(store: Store, name: str, alias: str, version: int) -> None:
    """Have an alias point at a version, wherever it pointed before."""
    store.client.set_registered_model_alias(name, alias, str(version))


def addresses(store: Store) -> list[str]:
    """Every NAME@ALIAS that is registered."""
    models = store.client.search_registered_models(max_results=1000)
    named = [(one.name, alias) for one in models for alias in aliases_of(store, one.name)]
    return sorted(f"{name}@{alias}" for name, alias in named)


def _version(
    store: Store, address: str, name: str, alias: str | None, version: str | None
) -> ModelVersion:
    try:
        if version is not None:
            return store.client.get_model_version(name, version)
        return store.client.get_model_version_by_alias(name, alias or "")
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        known = ", ".join(addresses(store)[:10]) or "none; -e register makes one"
        raise BadInput(f"model: nothing is registered there ({address}); there are {known}") from (
            None
        )
