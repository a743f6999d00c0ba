"""Where runs live: one tracking store, made once, reached through one client.

By default a SQLite file beside the code, with artifacts under mlruns/; MLFLOW_TRACKING_URI names
another, a server for example.
"""

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from filelock import FileLock

# MLflow takes two seconds to import and is needed by everything that follows.
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

ROOT = Path(__file__).parents[3]
DATABASE = "mlflow.db"
MODEL_VIEW = ("mlflow.experimentKind", "custom_model_development")
logging.getLogger("mlflow").setLevel(logging.WARNING)  # migrations, monitors: not for a paper


@dataclass(frozen=True)
class Store:
    """A tracking address and the folder for what is not (yet) in it: claims, checkpoints."""

    uri: str
    work: Path

    @property
    def client(self) -> MlflowClient:
        return _client(self.uri)

    @property
    def beside(self) -> Path:
        """The folder of a local store: artifacts of new experiments go under it."""
        return sqlite_path(self.uri).parent if self.uri.startswith("sqlite") else ROOT

    def folder(self, identity: str) -> Path:
        """Scratch folder of one identity: survives the process, so that a run can resume."""
        path = self.work / identity
        path.mkdir(parents=True, exist_ok=True)
        return path

    def experiment_id(self, name: str) -> str:
        """Id of the MLflow experiment `name`, created once however many processes ask."""
        found = self.client.get_experiment_by_name(name)
        if found is None:
            with self.lock("experiment"):
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    made = self.client.create_experiment(name, self._artifacts(name))
                    self.show_as_models(made)
                    return made
        if found.lifecycle_stage == "deleted":
            raise MlflowException(f"experiment {name} was deleted in the store; restore it first")
        return str(found.experiment_id)

    def show_as_models(self, experiment_id: str) -> None:
        """Have the UI open this experiment in its view for trained models, not for chat traces."""
        self.client.set_experiment_tag(experiment_id, *MODEL_VIEW)

    def experiment_ids(self) -> list[str]:
        """Ids of all experiments that are not deleted, however many pages there are."""
        ids: list[str] = []
        token: str | None = None
        while True:
            page = self.client.search_experiments(ViewType.ACTIVE_ONLY, page_token=token)
            ids += [experiment.experiment_id for experiment in page]
            token = page.token
            if not token:
                return ids

    def lock(self, name: str) -> FileLock:
        """Held by one process of this machine; the kernel frees it when its owner dies."""
        self.work.mkdir(parents=True, exist_ok=True)
        return FileLock(self.work / f"{name}.lock")

    def run_url(self, experiment_id: str, run_id: str) -> str:
        """Address of a run's page; for a local file, as `mlflow ui` shows it on its usual port."""
        base = self.uri if self.uri.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def ui_command(self) -> str | None:
        """The command that opens this store in a browser; None where a server already does."""
        if self.uri.startswith("http"):
            return None
        return f"mlflow ui --backend-store-uri {self.uri}"

    def _artifacts(self, name: str) -> str | None:
        """Artifacts of a SQLite store lie beside its file, not in the current folder."""
        if not self.uri.startswith("sqlite"):
            return None
        return (self.beside / "mlruns" / quote(name, safe="")).as_uri()


def connect(uri: str | None = None) -> Store:
    """The store that the environment names; creates a local database under a lock if needed."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{ROOT / DATABASE}"
    work = os.environ.get("PAPERTRAIL_WORK") or Store(uri, ROOT).beside / "mlruns" / "work"
    store = Store(uri, Path(work).absolute())
    if uri.startswith("sqlite") and not sqlite_path(uri).exists():
        with store.lock("database"):  # two processes migrating one empty file corrupt each other
            store.client.search_experiments(max_results=1)
    return store


@lru_cache
def _client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


def sqlite_path(uri: str) -> Path:
    """The file behind a SQLite address."""
    return Path(unquote(urlparse(uri).path.removeprefix("/"))).absolute()
