"""Where runs live: one tracking store, made once, reached through one client.

By default a SQLite file beside the code, with artifacts under mlruns/; MLFLOW_TRACKING_URI names
another, a server for example.
"""

import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote, unquote, urlparse

from filelock import FileLock

# MLflow takes two seconds to import and is needed by everything that follows.
from mlflow.entities import Experiment
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from papertrail.core import progress
from papertrail.core.errors import BadInput, Missing, in_a_line, without_password
from papertrail.core.patience import Patient, patience, pauses, why_away
from papertrail.core.project import ROOT

DATABASE = "mlflow.db"
MODEL_VIEW = ("mlflow.experimentKind", "custom_model_development")
logging.getLogger("mlflow").setLevel(logging.WARNING)  # migrations, monitors: not for a paper
# A page of traceback for each statement that a full disk refuses; the exception says it too.
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
# A bar for each small file that comes from a server: our own bars say what takes long.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# MLflow would print the address of each run, with a password that may be in it.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# MLflow would try seven times, for two to four minutes, in whatever thread asks. Here one call ends
# soon, and who can wait does so where it hurts nobody: see patience and sending.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0.2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
# MLflow's client believes a server that it can be bypassed, and would fetch from a storage that
# maybe only the server reaches. A large upload goes there in parts where the environment says so.
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
os.environ.setdefault("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(64 << 20))
HEALTHY_SECONDS = 10.0  # a process that asks one question after another does not ask this as often
_HEALTHY: dict[str, float] = {}  # address -> when it last answered


@dataclass(frozen=True)
class Store:
    """A tracking address and the folder for what is not (yet) in it: claims, checkpoints."""

    uri: str
    work: Path

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; where the store is remote, each call waits out an outage."""
        return _patient(self.uri) if self.remote else _client(self.uri)

    @property
    def impatient(self) -> MlflowClient:
        """The same, whose calls fail as soon as a remote store does not answer."""
        return _client(self.uri)

    @property
    def remote(self) -> bool:
        """Whether a server has to answer: it may be away for a while, or slow."""
        return "://" in self.uri and urlparse(self.uri).scheme not in ("sqlite", "file")

    @property
    def shown(self) -> str:
        """The address as it may be printed: without a password."""
        return without_password(self.uri)

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
                found = self.client.get_experiment_by_name(name) or self._created(name)
        if found.lifecycle_stage == "deleted":
            again = f"mlflow experiments restore --experiment-id {found.experiment_id}"
            raise BadInput(
                f"experiment: it was deleted in {self.shown} ({name}); restore it with {again}, or "
                "name another by MLFLOW_EXPERIMENT_NAME"
            )
        self.refuse_proxied(found.artifact_location)
        return str(found.experiment_id)

    def _created(self, name: str) -> Experiment:
        """A new experiment, or the one that another machine has made since we looked."""
        try:
            self.show_as_models(self.client.create_experiment(name, self._artifacts(name)))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = self.client.get_experiment_by_name(name)
        assert found is not None, f"{name} was created, and is not there"
        return found

    def refuse_proxied(self, address: str) -> None:
        """BadInput where artifacts are reached through a server, and this is its database."""
        if address.startswith("mlflow-artifacts:") and not self.uri.startswith("http"):
            raise BadInput(
                "run.tracking: artifacts of its runs are reached through its server only "
                f"({self.shown}); name the server's address, http://..."
            )

    def show_as_models(self, experiment_id: str) -> None:
        """Have the UI open this experiment in its view for trained models, not for chat traces."""
        self.client.set_experiment_tag(experiment_id, *MODEL_VIEW)

    def lock(self, name: str) -> FileLock:
        """Held by one process of this machine; the kernel frees it when its owner dies."""
        self.work.mkdir(parents=True, exist_ok=True)
        return FileLock(self.work / f"{name}.lock")

    def run_url(self, experiment_id: str, run_id: str) -> str:
        """Address of a run's page; for a local file, as `mlflow ui` shows it on its usual port."""
        # Whoever opens it is asked for a name and a password, which stand in no page of a run.
        base = re.sub(r"(?<=://)[^/]*@", "", self.uri)
        base = base if base.startswith("http") else "http://127.0.0.1:5000"
        return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    def ui_command(self) -> str | None:
        """The command that opens this store in a browser; None where a server already does."""
        if self.uri.startswith("http"):
            return None
        return f"mlflow ui --backend-store-uri {self.shown}"

    def _artifacts(self, name: str) -> str | None:
        """Artifacts of a SQLite store lie beside its file, not in the current folder."""
        if not self.uri.startswith("sqlite"):
            return None
        return (self.beside / "mlruns" / quote(name, safe="")).as_uri()


def connect(uri: str | None = None, work: Path | None = None) -> Store:
    """The store that the environment names; creates a local database under a lock if needed.

    `uri` and the scratch folder `work` stand above what the environment says.
    OSError where it can neither be read nor made; Missing, within seconds, where a server is away.
    """
    uri = uri or tracking_uri()
    named = os.environ.get("PAPERTRAIL_WORK") or Store(uri, ROOT).beside / "mlruns" / "work"
    store = Store(uri, Path(work or named).absolute())
    if store.remote:
        _answers(store)
    if uri.startswith("sqlite") and not _stands(sqlite_path(uri)):
        with store.lock("database"):
            if not _stands(sqlite_path(uri)):
                _make(store)
    return store


@contextmanager
def in_one_line() -> Iterator[None]:
    """Failures that are no bug of ours as Missing: a full disk, a store that may not be written,
    a file that is gone, a verb that left the process. The run keeps their traceback."""
    try:
        yield
    except (MlflowException, OSError) as error:
        kept = "".join(f"; {note}" for note in getattr(error, "__notes__", [])[:1])
        where = without_password(tracking_uri())
        raise Missing(f"{why_away(error)} (store {where}){kept}") from error
    except SystemExit as error:
        raise Missing(f"no result: its code left the process by exit({error.code})") from error


def tracking_uri() -> str:
    """Of the store that the environment names, else of the one beside the code."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{ROOT / DATABASE}"


def _answers(store: Store) -> None:
    """Missing unless the server answers. Whoever computes for somebody else waits for it instead:
    the plan that started it should not lose a run to a restart."""
    from papertrail.core.storage import reach  # knows stores itself

    if time.monotonic() - _HEALTHY.get(store.uri, -HEALTHY_SECONDS) < HEALTHY_SECONDS:
        return
    silence = reach.silence(store.uri)
    if silence and progress.WORKER in os.environ:
        progress.say(f"{store.shown}: {silence}; waiting up to {patience():.0f} s for it")
        end = time.monotonic() + patience()
        for pause in pauses():
            if not silence or time.monotonic() > end:
                break
            time.sleep(pause)
            silence = reach.silence(store.uri)
    if silence:
        raise Missing(
            f"tracking store {store.shown}: {silence}; start it, or compute without it by "
            "-P tracking=local and bring the runs over later by -e export and -e import"
        )
    _HEALTHY[store.uri] = time.monotonic()


def _stands(database: Path) -> bool:
    """Whether it is there. MLflow would try ten times to open a file that it may not read."""
    try:
        with database.open("rb"):
            return database.stat().st_size > 0
    except FileNotFoundError:
        return False


def _make(store: Store) -> None:
    """An empty store. It gets its name when all its tables are there, so nobody sees half of it:
    two processes that migrate one empty file corrupt each other."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore  # a hit never needs it
    from sqlalchemy.exc import SQLAlchemyError

    head, mark, options = store.uri.partition("?")
    part = sqlite_path(f"{head}.part")
    for left in (part, part.with_name(f"{part.name}-journal")):  # of a process that was killed
        left.unlink(missing_ok=True)
    part.touch()  # MLflow would try ten times
    try:
        made = SqlAlchemyStore(f"{head}.part{mark}{options}", (store.beside / "mlruns").as_uri())
    except SQLAlchemyError as error:
        raise OSError(in_a_line(error)) from error
    made.engine.dispose()
    part.replace(sqlite_path(store.uri))


@lru_cache
def _client(uri: str) -> MlflowClient:
    return MlflowClient(tracking_uri=uri)


@lru_cache
def _patient(uri: str) -> MlflowClient:
    return Patient(_client(uri), f"tracking store {without_password(uri)}")


def folder_behind(address: str) -> Path | None:
    """The folder behind a file: or plain address of artifacts; None for storage elsewhere."""
    parts = urlparse(address)
    return Path(unquote(parts.path)) if parts.scheme in ("", "file") else None


def sqlite_path(uri: str) -> Path:
    """The file behind a SQLite address."""
    return Path(unquote(urlparse(uri).path.removeprefix("/"))).absolute()
