"""The code as it was when jobs were handed over, stored once under the digest of its content.

Whoever edits the tree while jobs wait changes nothing of theirs. What a run needs is taken whether
git tracks it or not.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from papertrail.core.errors import Missing

FOLDERS = ("src", "entrypoints", "conf")
FILES = ("MLproject", "conda.yaml", "pyproject.toml", "requirements.txt")
LEFT_OUT = ("__pycache__", "*.pyc", "*.egg-info", ".*")
"""What tools leave behind, and editors."""


def take(root: Path, kept: Path) -> Path:
    """The folder under `kept` that holds the code of the project `root` as it is now."""
    kept.mkdir(parents=True, exist_ok=True)
    part = kept / f".{secrets.token_hex(6)}"
    try:
        _copy(root, part)
        place = kept / digest(part)  # of the copy: somebody may be editing the tree right now
        if not place.exists():
            _put(part, place)
        return place
    finally:
        shutil.rmtree(part, ignore_errors=True)


def digest(folder: Path) -> str:
    """Of the names and the content of all its files."""
    total = hashlib.sha256()
    for path in sorted(_files(folder)):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()}\0{content}\0".encode())
    return total.hexdigest()[:16]


def verify(place: Path) -> None:
    """Missing if a snapshot is not what its name says any more."""
    if not place.is_dir():
        raise Missing(f"snapshot: it is gone ({place}); start the command again")
    if digest(place) != place.name:
        raise Missing(f"snapshot: somebody changed it ({place}); remove the folder and start again")


def _copy(root: Path, part: Path) -> None:
    part.mkdir()
    for name in FOLDERS:
        if (root / name).is_dir():
            leave_out = shutil.ignore_patterns(*LEFT_OUT)
            shutil.copytree(root / name, part / name, ignore=leave_out)
    for name in FILES:
        if (root / name).is_file():
            shutil.copy(root / name, part / name)
    for path in _files(part):
        path.chmod(0o444)


def _put(part: Path, place: Path) -> None:
    """Under its name at once: nobody sees half of it."""
    try:
        part.rename(place)
    except OSError:
        if not place.is_dir():
            raise
        return  # another process was faster, with the same content


def _files(folder: Path) -> Iterator[Path]:
    """Files of a snapshot; Python keeps its bytecode beside them later."""
    for home, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(home) / name for name in names)
