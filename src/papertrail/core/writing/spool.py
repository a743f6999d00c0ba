"""What a run has to send, on disk until its store has it: a folder under the store's work folder.

`log` is only ever appended to, one record a line, each with its checksum: what a crash cut off is
seen and left out. `sent` says up to which byte the store has confirmed. Files that wait lie under
`files`. Who writes or sends holds a lock of the kernel, which ends with its process.
"""

import fcntl
import json
import os
import shutil
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any, Literal
from zlib import crc32

from papertrail.core.errors import Missing
from papertrail.core.writing.owner import Owner

FOLDER, LOG, SENT, FILES = "spool", "log", "sent", "files"
DONE = ".done"
READ = 1 << 16  # bytes
Kind = Literal["head", "metrics", "tags", "artifact", "input", "end"]
_OPEN: "weakref.WeakSet[Spool]" = weakref.WeakSet()


class Busy(Exception):
    """Another process writes this spool, or sends it."""


@dataclass(frozen=True)
class Record:
    """One line of a spool."""

    kind: Kind
    body: Any
    end: int
    """Byte of the log at which the next one begins."""


def folder_of(work: Path, identity: str, run_id: str) -> Path:
    """Where the spool of a run lies; its name says which question it answers."""
    return work / FOLDER / f"{identity}.{run_id}"


def run_of(folder: Path) -> str:
    """Id of the run whose spool this is."""
    return folder.name.partition(".")[2]


def left(work: Path, identity: str = "") -> list[Path]:
    """Folders of spools, oldest first; those of one question only if it is named."""
    found = [path for path in (work / FOLDER).glob(f"{identity or '*'}.*") if path.suffix != DONE]
    with suppress(FileNotFoundError):  # one was delivered meanwhile
        return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))
    return left(work, identity)


def tidy(work: Path) -> None:
    """Remove what is left of spools whose process was killed while it removed them."""
    for path in (work / FOLDER).glob(f"*{DONE}"):
        shutil.rmtree(path, ignore_errors=True)


class Spool:
    """One spool, held by this process.

    Busy if another holds it; FileNotFoundError if it is gone and not to be made.
    """

    def __init__(self, folder: Path, make: bool = True) -> None:
        self.folder = folder
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | (os.O_CREAT if make else 0)
        self._log = os.open(folder / LOG, flags, 0o666)
        _OPEN.add(self)
        self._safe = 0  # up to here it is known to survive a power cut
        self._unsafe: list[Path] = []  # files of which that is not known
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Somebody may have sent and removed it since we opened it.
            (folder / LOG).stat()
            self.sent = self._kept()
            """Up to here the store has confirmed."""
            self._cut()
        except BlockingIOError:
            self.close()
            raise Busy(str(folder)) from None
        except BaseException:
            self.close()
            raise
        self._num_files = max([int(p.name) for p in (folder / FILES).glob("*")], default=0)

    @property
    def end(self) -> int:
        """Up to here something was written."""
        return os.fstat(self._log).st_size

    @property
    def waits(self) -> bool:
        """Whether there is something that the store has not confirmed."""
        return self.sent < self.end

    def append(self, kind: Kind, body: Any) -> None:
        """Add a record. Nothing is added where the disk has no room: OSError."""
        text = json.dumps([kind, body], separators=(",", ":")).encode()
        line = b"%08x %s\n" % (crc32(text), text)
        written = os.write(self._log, line)
        if written < len(line):  # as much as there was room for
            os.ftruncate(self._log, self.end - written)
            raise OSError(ENOSPC, os.strerror(ENOSPC), str(self.folder / LOG))

    def keep(self, path: Path, name: str, ours: bool) -> None:
        """Add a file as the artifact `name`; a file that is `ours` is never changed in place."""
        self._num_files += 1
        kept = self.folder / FILES / str(self._num_files) / name.rpartition("/")[2]
        kept.parent.mkdir(parents=True)
        if not (ours and _linked(path.resolve(), kept)):
            shutil.copyfile(path, kept)
        self._unsafe.append(kept)
        self.append("artifact", [str(self._num_files), name])

    def file(self, number: str, name: str) -> Path:
        """Where a file that waits lies."""
        return self.folder / FILES / number / name.rpartition("/")[2]

    def to_disk(self) -> None:
        """Return when everything survives a power cut, here or in the store."""
        end = self.end
        if self.sent < end and self._safe < end:
            while self._unsafe:
                with suppress(FileNotFoundError):  # the store has it
                    _to_disk(self._unsafe[-1])
                self._unsafe.pop()
            os.fsync(self._log)
            if not self._safe:
                for folder in (self.folder, self.folder.parent):
                    _to_disk(folder)
            self._safe = end

    def records(self) -> Iterator[Record]:
        """What waits, in order. Missing where the log is spoiled before its end."""
        for text, end in self._lines(self.sent, self.end):
            kind, body = json.loads(text)
            yield Record(kind, body, end)

    def acknowledge(self, record: Record) -> None:
        """The store has everything up to this record."""
        path = self.folder / SENT
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(b"%020d\n" % record.end)  # one sector: old or new, never half
        self.sent = record.end

    def remove(self) -> None:
        """Everything was confirmed: nothing is left."""
        assert not self.waits, f"{self.folder}: the store lacks some of it"
        done = self.folder.with_name(self.folder.name + DONE)
        self.folder.rename(done)  # at once: a half-removed spool would be sent again
        shutil.rmtree(done, ignore_errors=True)

    def close(self) -> None:
        """Let go of it."""
        if self in _OPEN:
            _OPEN.discard(self)
            os.close(self._log)
            self._log = -1  # the number will be another file's

    def _kept(self) -> int:
        with suppress(FileNotFoundError, ValueError):
            return int((self.folder / SENT).read_bytes())
        return 0

    def _cut(self) -> None:
        """Cut off what a crash left of a last record. Missing where whole ones follow it."""
        size = self.end
        end = self.sent = min(self.sent, size)
        for _, end in self._lines(self.sent, size):  # noqa: B007
            pass
        if end < size:
            rest = os.pread(self._log, size - end, end)
            if b"\n" in rest[:-1] and any(_checked(line) for line in rest.split(b"\n")[1:]):
                raise Missing(f"{self.folder / LOG}: spoiled at byte {end}; what follows is whole")
            os.ftruncate(self._log, end)

    def _lines(self, start: int, stop: int) -> Iterator[tuple[bytes, int]]:
        """Each record from `start` on with its end, up to the first that is not whole."""
        rest = b""
        while start < stop and (block := os.pread(self._log, min(READ, stop - start), start)):
            at, start = start - len(rest), start + len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                at += len(line) + 1
                text = _checked(line)
                if text is None:
                    return
                yield text, at


def head(store: str, run_id: str, identity: Mapping[str, Any]) -> dict[str, Any]:
    """The first record: whose spool it is, for people and for who sends it later."""
    name = identity.get("experiment", "")
    return {
        "store": store, "run": run_id, "experiment": name, "owner": str(Owner.current()),
        "time": time.time(),
    }  # fmt: skip


def head_of(folder: Path) -> Mapping[str, Any]:
    """The first record of a spool that somebody else may hold; empty where it is not whole."""
    with (folder / LOG).open("rb") as file:
        text = _checked(file.readline().rstrip(b"\n"))
    return {} if text is None else dict(json.loads(text)[1])


def ending_of(folder: Path) -> str:
    """The status with which a spool ends; empty where its writer had not come to its end."""
    try:
        with (folder / LOG).open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - READ))
            lines = [text for text in map(_checked, file.read().split(b"\n")) if text]
    except FileNotFoundError:  # it was sent meanwhile
        return ""
    kind, body = json.loads(lines[-1]) if lines else ("", [])
    return str(body[0]) if kind == "end" else ""


def _checked(line: bytes) -> bytes | None:
    """The record in a line; None where it is not what was written."""
    text = line[9:]
    return text if line[:9] == b"%08x " % crc32(text) and text else None


def _linked(path: Path, kept: Path) -> bool:
    """Whether a second name could be had for a file instead of a copy."""
    try:
        os.link(path, kept)
    except OSError:  # another disk
        return False
    return True


def _to_disk(path: Path) -> None:
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)


def _let_go() -> None:
    """In a forked child: a lock that it kept open would outlive the process that holds it."""
    for one in list(_OPEN):
        one.close()


os.register_at_fork(after_in_child=_let_go)
