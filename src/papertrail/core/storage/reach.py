"""Whether what a study needs elsewhere answers: a model hub, the tracking store. In seconds.

Asks once and waits briefly; nothing is changed by asking. The libraries themselves retry for
minutes, which is right in the middle of a run and wrong before it.
"""

import os
import socket
import sqlite3
import struct
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import requests

SECONDS = 4.0, 8.0  # to connect, until the answer begins
LOCKED_SECONDS = 2.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
Kind = Literal["models", "datasets"]


@dataclass(frozen=True)
class Answer:
    """What the hub says of one repository."""

    state: Literal["there", "refused", "absent", "unreachable"]
    reason: str
    """In a few words; empty where it is there."""
    files: tuple[str, ...] = ()


class Hub:
    """The model hub; once it did not answer, it is not asked again."""

    def __init__(self) -> None:
        self._silent = ""

    def ask(self, kind: Kind, name: str, revision: str) -> Answer:
        """Whether this host can reach revision `revision` of a repository, with its rights."""
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            self._silent = "HF_HUB_OFFLINE is set"
        if not self._silent:
            url = f"{constants.ENDPOINT}/api/{kind}/{name}/revision/{revision}"
            try:
                # The library's own headers ask the hub something else first, and wait for that too.
                token = get_token()
                rights = {"Authorization": f"Bearer {token}"} if token else {}
                return self._read(requests.get(url, headers=rights, timeout=SECONDS))
            except requests.Timeout:
                self._silent = "the hub did not answer in time"
            except requests.RequestException:
                self._silent = "no connection to the hub"
        return Answer("unreachable", self._silent)

    def _read(self, answer: requests.Response) -> Answer:
        match answer.status_code:
            case 200:
                files = [one["rfilename"] for one in answer.json().get("siblings", [])]
                return Answer("there", "", tuple(files))
            case 401 | 403:
                return Answer("refused", f"the hub answered {answer.status_code}")
            case 404:
                return Answer("absent", "the hub has no such repository or revision")
        self._silent = f"the hub answered {answer.status_code}"
        return Answer("unreachable", self._silent)


def cached(kind: Literal["model", "dataset"], name: str, revision: str) -> Path | None:
    """The folder of the hub's cache that holds this revision, as far as it was downloaded."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    root = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type=kind)
    reference = root / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    found = root / "snapshots" / commit
    return found if found.is_dir() else None


# -- the tracking store ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where runs would be kept, looked at without making or changing anything."""

    uri: str
    stands: bool
    """False for a local database that the first run will make."""
    trouble: str
    """Why nothing can be kept there; empty if it can."""
    folder: Path | None
    """Where artifacts lie; None for storage that is no folder of this machine."""
    work: Path
    """Where checkpoints of unfinished runs lie."""


def tracking(uri: str | None = None) -> Place:
    """The store that the environment names, or the one at `uri`."""
    from papertrail.core.project import ROOT
    from papertrail.core.storage.store import Store, sqlite_path, tracking_uri

    uri = uri or tracking_uri()
    beside = Store(uri, ROOT).beside
    work = Path(os.environ.get("PAPERTRAIL_WORK") or beside / "mlruns" / "work").absolute()
    if not uri.startswith("sqlite"):
        return Place(uri, True, silence(uri), None, work)
    database = sqlite_path(uri)
    stands = database.is_file() and database.stat().st_size > 0
    trouble = _unwritable(database) if stands else _unmakable(database)
    return Place(uri, stands, trouble, beside / "mlruns", work)


def _unmakable(database: Path) -> str:
    from papertrail.core.machine import writable

    return "" if writable(database.parent) else f"{database.parent} cannot be written"


def _unwritable(database: Path) -> str:
    """Why this user cannot write to a database: the lock of a writer is taken and given back."""
    from papertrail.core.machine import writable

    if not writable(database.parent):
        return f"{database.parent} cannot be written, where SQLite keeps its journal"
    address = f"file:{database.as_posix()}?mode=rw"
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=LOCKED_SECONDS)) as connection:
            connection.isolation_level = None
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
    except sqlite3.Error as error:
        return f"{database}: {error}"
    return ""


def silence(uri: str) -> str:
    """Why a server does not answer; empty if it does."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        try:
            status = requests.get(f"{uri.rstrip('/')}/health", timeout=SECONDS).status_code
        except requests.RequestException as error:
            return f"no answer ({type(error).__name__})"
        return f"it answered {status}" if status >= 500 else ""
    kind = parts.scheme.partition("+")[0]
    port = parts.port or PORTS.get(kind)
    if parts.hostname is None or port is None:
        return ""  # a folder, or a service that only its own client knows
    try:
        with socket.create_connection((parts.hostname, port), timeout=SECONDS[0]) as line:
            return _no_postgres(line) if kind == "postgresql" else ""
    except OSError as error:
        return f"no connection to {parts.hostname}:{port} ({error.strerror or error})"


def _no_postgres(line: socket.socket) -> str:
    """Why no PostgreSQL speaks at the other end; empty if one does. Asked whether it would encrypt
    (length 8, code 80877103), it says S or N before anything else: a process that hangs does not,
    and one that starts up or shuts down says more than one letter."""
    line.settimeout(SECONDS[1])
    line.sendall(struct.pack("!ii", 8, 80877103))
    return "" if line.recv(1) in (b"S", b"N") else "what listens there is no PostgreSQL"
