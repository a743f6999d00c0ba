"""Which split a document belongs to, and where its text waits until it is encoded."""

from array import array
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Literal, get_args

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


def split_of(text: bytes, val_fraction: float, test_fraction: float) -> Split:
    """The split of a document is a function of its text alone.

    Neither order nor cap nor the other documents can move it, equal documents share a split, and
    the test split stays what it is when `val_fraction` changes.
    """
    uniform = int.from_bytes(sha256(text).digest()[:8], "big") / 2**64  # in [0, 1]
    if uniform < test_fraction:
        return "test"
    return "val" if uniform < test_fraction + val_fraction else "train"


class Shelf:
    """The documents of one split in a file: text that need not fit in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._out = path.open("wb")
        self.lengths = array("q")
        """UTF-8 bytes of each document."""

    def add(self, text: bytes) -> None:
        """Append one document."""
        self._out.write(text)
        self.lengths.append(len(text))

    def __iter__(self) -> Iterator[str]:
        self._out.flush()
        with self._path.open("rb") as file:
            for length in self.lengths:
                yield file.read(length).decode()

    def close(self) -> None:
        """Close and delete the file."""
        self._out.close()
        self._path.unlink()
