"""The SHA-256 of a file's content, remembered for as long as the file is left alone.

Left alone: path, device, inode, size, mtime and ctime are what they were when it was read. A change
that restores size and mtime is noticed, because no program can restore ctime. What is younger than
a tick of its clock is read every time: a second change in that tick would leave no trace. The
memory only saves time; where it cannot be used, every digest is computed.
"""

import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from papertrail.core import progress
from papertrail.core.cache import cache_folder
from papertrail.core.errors import BadInput

SMALL = 16 << 10  # bytes; to read them takes no longer than to look them up
YOUNG_NS = 2 * 10**9  # of the file systems in use, FAT has the slowest clock: 2 s
TRIES = 3  # a chmod or a new hard link also moves ctime, and is over at once
MOST = 1_000_000  # digests kept, about 100 MB
BATCH, FLUSH_SECONDS = 500, 1.0  # so much of the work is lost to a kill -9, at most
PATIENCE_SECONDS = 5.0  # for the other processes that write
FILE = "digests.sqlite"
COLUMNS = "key BLOB PRIMARY KEY, sha256 BLOB, seal BLOB, kept INTEGER"

P = ParamSpec("P")
R = TypeVar("R")
_LOOK: ContextVar[dict[Any, Any] | None] = ContextVar("look", default=None)


def sha256(path: Path) -> str:
    """Hex digest of a file's content.

    OSError where it cannot be read, BadInput where somebody writes to it at this moment.
    """
    return of_each([path])[0]


def of_each(paths: Sequence[Path]) -> list[str]:
    """`sha256` of many files."""
    memory = _Memory()
    try:
        return [_of(path, memory) for path in paths]
    finally:
        memory.close()


def of_named(paths: Sequence[Path]) -> str:
    """One hex digest of several files, by name and content, in this order."""
    return of_pairs(zip((path.name for path in paths), of_each(paths), strict=True))


def of_pairs(files: Iterable[tuple[str, str]]) -> str:
    """`of_named` of files whose names and digests are known."""
    total = hashlib.sha256()
    for name, content in files:
        total.update(f"{name} {content}\n".encode())
    return total.hexdigest()


@contextmanager
def one_look() -> Iterator[None]:
    """While it lasts, nothing that is `seen_once` is looked at twice: an identity is of one moment,
    however many of the runs below it read the same data."""
    token = _LOOK.set({} if (now := _LOOK.get()) is None else now)
    try:
        yield
    finally:
        _LOOK.reset(token)


def seen_once(function: Callable[P, R]) -> Callable[P, R]:
    """Called again with the same arguments within `one_look`, the answer is the first one."""

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        look = _LOOK.get()
        if look is None:
            return function(*args, **kwargs)
        key = (function, args, tuple(kwargs.items()))
        if key not in look:
            look[key] = function(*args, **kwargs)
        found: R = look[key]
        return found

    return answer


class _Memory:
    """Digests by state of a file: one SQLite file for all processes of a user.

    A digest that was damaged on disk does not match its seal and is not believed.
    """

    given_up: ClassVar[set[str]] = set()  # what this process no longer tries: "read", "write"

    def __init__(self) -> None:
        self._connection: sqlite3.Connection | None = None
        self._new: list[Any] = []
        self._written = time.monotonic()

    def recall(self, key: bytes) -> str | None:
        for digest, seal in self._do("read", "SELECT sha256, seal FROM digests WHERE key = ?", key):
            if seal == _seal(key, digest):
                return str(digest.hex())
        return None

    def keep(self, key: bytes, digest: bytes) -> None:
        self._new += key, digest, _seal(key, digest), time.time_ns()
        # A transaction for each of 10,000 files would take longer than to read them.
        if len(self._new) >= BATCH * 4 or time.monotonic() > self._written + FLUSH_SECONDS:
            self._write()

    def close(self) -> None:
        if self._new:
            self._write()
        if self._connection:
            self._connection.close()

    def _write(self) -> None:
        """Write what is new, and let go of the oldest where there is too much."""
        rows = ", ".join(["(?, ?, ?, ?)"] * (len(self._new) // 4))
        self._do("write", f"INSERT OR REPLACE INTO digests VALUES {rows}", *self._new)
        self._new, self._written = [], time.monotonic()
        [(count,)] = self._do("write", "SELECT count(*) FROM digests") or [(0,)]
        if count > MOST:  # a tenth at once: not one for each that is added
            newest = "SELECT key FROM digests ORDER BY kept DESC LIMIT ?"
            dropped = f"DELETE FROM digests WHERE key NOT IN ({newest})"
            self._do("write", dropped, MOST * 9 // 10)

    def _do(self, purpose: str, statement: str, *values: Any) -> list[Any]:
        """Rows, or none where the memory cannot be used; the reason is said once a process."""
        if purpose in self.given_up:
            return []
        try:
            self._connection = self._connection or _open(cache_folder() / FILE)
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, BadInput) as error:
            where = "" if isinstance(error, BadInput) else f"{cache_folder() / FILE}: "
            line = f"digests of files are not remembered ({where}{error}); they are computed"
            progress.say_once("digests", line)
            self.given_up.add(purpose)
            return []


def _open(path: Path) -> sqlite3.Connection:
    # isolation_level None: each statement is a transaction of its own.
    connection = sqlite3.connect(path, timeout=PATIENCE_SECONDS, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")  # a digest lost with the power is computed again
    connection.execute(f"CREATE TABLE IF NOT EXISTS digests ({COLUMNS})")
    return connection


def _of(path: Path, memory: _Memory) -> str:
    state = path.stat()
    if state.st_size <= SMALL:
        return _read(path)[0].hex()
    known = memory.recall(_key(path, state))
    if known is not None:
        return known
    digest, state = _read(path)
    if not _young(state):
        memory.keep(_key(path, state), digest)
    return digest.hex()


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    """The digest of the content, and the state that the file had before and after it was read."""
    for _ in range(TRIES):
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            digest = hashlib.file_digest(file, "sha256").digest()
            after = os.fstat(file.fileno())
        if _state(before) == _state(after):
            return digest, after
    raise BadInput(f"{path}: changes while it is read; wait until it is written")


def _key(path: Path, stat: os.stat_result) -> bytes:
    """Short name of a file in this state. The path counts because not every inode is for ever."""
    words = os.fsencode(os.path.realpath(path)), repr(_state(stat)).encode()
    return hashlib.blake2b(b"\0".join(words), digest_size=16).digest()


def _state(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _young(state: os.stat_result) -> bool:
    return max(state.st_mtime_ns, state.st_ctime_ns) > time.time_ns() - YOUNG_NS


def _seal(key: bytes, digest: bytes) -> bytes:
    return hashlib.blake2b(key + digest, digest_size=8).digest()
