"""Finished parts of a long verb, kept beside its checkpoints: a killed run goes on behind the last.

A part is a pure function of the run's config and of the parts before it, so it need not be done
twice. Parts are arrays in files, written whole or not at all; they go when the run is complete.
"""

import io
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from papertrail.core import progress, stopping
from papertrail.core.writing import track
from papertrail.core.writing.run import Run

FOLDER, CHECKPOINTS = "parts", "checkpoints"
DIGEST_BYTES = 32
Arrays = Mapping[str, np.ndarray]
_ASKED: WeakKeyDictionary[Run, set[str]] = WeakKeyDictionary()


def part(name: str, compute: Callable[[], Arrays]) -> dict[str, np.ndarray]:
    """What `compute` gave in this run before it was killed, or what it gives now: the same bits.

    Arrays of numbers or text; objects are refused. Raises Interrupted between parts if the process
    was asked to stop, and OSError where there is no room to keep a part.
    """
    asked = _ASKED.setdefault(track.run(), set())
    assert name not in asked and Path(name).name == name, f"{name}: no part's own plain name"
    asked.add(name)
    path = track.run().folder / FOLDER / f"{name}.npz"
    if path.exists() and (found := _read(path)) is not None:
        return found
    stopping.check()
    written = _packed(name, compute())
    _write(path, written)
    return _unpacked(written)


def num_parts(folder: Path) -> int:
    """How many finished parts the scratch folder of a run holds."""
    return len(list((folder / FOLDER).glob("*.npz")))


def discard(folder: Path) -> None:
    """Remove the parts and checkpoints of a run that is complete, from its scratch folder."""
    for path in (*(folder / FOLDER).glob("*"), *(folder / CHECKPOINTS).glob("*")):
        path.unlink()


def _packed(name: str, arrays: Arrays) -> bytes:
    """The arrays as a file; a digest behind them, for zip notices less than every spoiled byte."""
    plain = {key: np.asarray(value) for key, value in arrays.items()}
    odd = [key for key, value in plain.items() if value.dtype.hasobject]
    assert not odd, f"{name}: {odd} are arrays of objects, which cannot be read back safely"
    assert not {"file", "allow_pickle"} & set(plain), f"{name}: savez has names of its own"
    buffer = io.BytesIO()
    np.savez(buffer, **plain)  # type: ignore[arg-type]
    return buffer.getvalue() + sha256(buffer.getvalue()).digest()


def _unpacked(written: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(written[:-DIGEST_BYTES]), allow_pickle=False) as found:
        return dict(found)


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a part; None, said, where the disk spoiled it: it is then done again."""
    written = path.read_bytes()
    if sha256(written[:-DIGEST_BYTES]).digest() == written[-DIGEST_BYTES:]:
        return _unpacked(written)
    progress.say(f"{path.name} cannot be read (its digest is another); doing that part again")
    return None


def _write(path: Path, written: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        file.write(written)
        file.flush()
        os.fsync(file.fileno())  # a name must not reach the disk before the content does
    unfinished.replace(path)
