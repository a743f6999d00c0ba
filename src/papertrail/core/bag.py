"""A folder that proves itself: BagIt, RFC 8493, with SHA-256. Any BagIt program can check one.

The payload lies under data/, manifest-sha256.txt lists it, tagmanifest-sha256.txt lists what is
beside it. So the digest of that last file stands for everything.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote

from papertrail.core.errors import BadInput
from papertrail.core.paths import checked
from papertrail.core.progress import Report

DATA = "data"
DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
PAYLOAD, TAGS = "manifest-sha256.txt", "tagmanifest-sha256.txt"
LINE = re.compile(r"(?P<digest>[0-9a-f]{64})  (?P<name>.+)")
THREADS = 4  # hashing and reading leave Python's lock to others
CHUNK = 1 << 20  # bytes


def copy(source: Path, target: Path) -> str:
    """Copy a file, and the SHA-256 of what was written: the content is read once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    total = hashlib.sha256()
    with source.open("rb") as old, target.open("xb") as new:
        while block := old.read(CHUNK):
            total.update(block)
            new.write(block)
    return total.hexdigest()


def seal(folder: Path, known: Mapping[str, str], described: str) -> str:
    """Make a bag of a folder with data/ in it; the one digest that stands for all of it.

    `known`: SHA-256 of payload files that need not be read again, by name under `folder`.
    """
    names = sorted(name for name in _files(folder) if name.startswith(f"{DATA}/"))
    payload = {name: known.get(name) or sha256(folder / name) for name in names}
    size = sum((folder / name).stat().st_size for name in names)
    info = {
        "Bagging-Date": datetime.now(UTC).date().isoformat(),
        "External-Description": " ".join(described.split()),
        "Payload-Oxum": f"{size}.{len(names)}",
    }
    _write(folder / "bagit.txt", DECLARATION)
    _write(folder / "bag-info.txt", "".join(f"{key}: {text}\n" for key, text in info.items()))
    _write(folder / PAYLOAD, _spelled(payload))
    beside = sorted(name for name in _files(folder) if name not in payload)
    _write(folder / TAGS, _spelled({name: sha256(folder / name) for name in beside}))
    return sha256(folder / TAGS)


def verify(folder: Path, report: Report = lambda done: None) -> dict[str, str]:
    """SHA-256 of every payload file by its name, all of them found as listed.

    BadInput at the first thing that is not: a file changed, missing, not listed or no plain file;
    a name that leads out of the folder.
    """
    if not (folder / "bagit.txt").is_file() or not (folder / PAYLOAD).is_file():
        raise _refused(folder, "has no bagit.txt and manifest", "give a folder that export wrote")
    beside, payload = (_listed(folder, name) for name in (TAGS, PAYLOAD))
    if stray := next((n for n in payload if not n.startswith(f"{DATA}/")), None):
        raise _refused(folder, f"lists {stray}, which is not under {DATA}/")
    there = set(_files(folder))
    listed = beside | payload
    if lost := sorted(listed.keys() - there):
        raise _refused(folder, f"lacks {lost[0]}")
    if strange := sorted(there - listed.keys() - {TAGS}):
        raise _refused(folder, f"holds {strange[0]}, which it does not list")
    for name, digest in _digests(folder, list(listed), report):
        if digest != listed[name]:
            raise _refused(folder, f"has another {name} than it lists")
    if (folder / "bagit.txt").read_text(encoding="utf-8") != DECLARATION:
        raise _refused(folder, "is no bag of version 1.0 in UTF-8")
    return payload


def size(folder: Path, names: Iterable[str]) -> int:
    """Bytes of these files."""
    return sum((folder / name).stat().st_size for name in names)


def sha256(path: Path) -> str:
    """Of the bytes that are on the disk now, whatever was remembered of them."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digests(folder: Path, names: list[str], report: Report) -> Iterator[tuple[str, str]]:
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(sha256, [folder / name for name in names])
        for number, (name, digest) in enumerate(zip(names, found, strict=True), 1):
            yield name, digest
            report(number / len(names))


def _files(folder: Path) -> Iterator[str]:
    """Names of all files under a folder; BadInput for what is neither file nor folder."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            short = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise _refused(folder, f"holds {short}, which is no plain file")
            if path.is_file():
                yield short


def _listed(folder: Path, name: str) -> dict[str, str]:
    try:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise _refused(folder, f"has no readable {name}") from None
    found: dict[str, str] = {}
    for line in lines:
        parts = LINE.fullmatch(line)
        if parts is None:
            raise _refused(folder, f"has a line in {name} that is none ({line[:60]!r})")
        try:
            file = checked(unquote(parts["name"]))
        except BadInput:
            raise _refused(folder, f"lists a name that leads out of it ({parts['name']})") from None
        if file in found:
            raise _refused(folder, f"lists {file} twice")
        found[file] = parts["digest"]
    return found


def _spelled(digests: Mapping[str, str]) -> str:
    return "".join(f"{digest}  {_encoded(name)}\n" for name, digest in digests.items())


def _encoded(name: str) -> str:
    """As the RFC has it: line ends and % alone are escaped."""
    return name.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _refused(folder: Path, reason: str, advice: str = "") -> BadInput:
    advice = advice or "nothing was read from it; fetch it again"
    return BadInput(f"folder: {folder} {reason}; {advice}")
