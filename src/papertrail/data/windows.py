"""A corpus as a trainer and an evaluation read it: windows of memory-mapped ids.

What optimizer step `step` sees is a pure function of (corpus, seed, step): a resumed run needs no
loader state. Axes: B windows, T tokens of a window, N tokens of a split, D documents.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Integer
from torch import Tensor

from papertrail.core.errors import BadInput, Missing
from papertrail.data.card import CARD, TOKENIZER, CorpusCard
from papertrail.data.splits import SPLITS, Split


@dataclass(frozen=True)
class TokenizedSplit:
    """The ids of one split, packed: every document is followed by the end-of-text token."""

    ids: Integer[np.ndarray, " N"]
    num_bytes: Int[np.ndarray, " D"]
    """UTF-8 bytes of each document's text."""
    offsets: Int[np.ndarray, " D+1"]
    """Where each document begins, and the end."""

    def chosen(self, num: int) -> Int[np.ndarray, " K"]:
        """Indices of `num` documents spread evenly over the split, or of all there are."""
        total = len(self.num_bytes)
        num = min(num, total)
        return np.arange(num) * total // max(num, 1)

    def document(self, index: int) -> Int[np.ndarray, " T"]:
        """Ids of one document's text, without the end-of-text token behind it."""
        begin, end = self.offsets[index], self.offsets[index + 1] - 1
        return np.asarray(self.ids[begin:end], dtype=np.int64)


@dataclass(frozen=True)
class Corpus:
    """A folder that `papertrail.data.corpus.build` wrote, opened."""

    folder: Path
    card: CorpusCard
    splits: dict[Split, TokenizedSplit]

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Map the ids of a corpus folder; Missing when it is not whole."""
        try:
            card = CorpusCard.model_validate_json((folder / CARD).read_bytes())
            splits = {name: _opened(folder, name, card) for name in SPLITS}
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise Missing(f"corpus: not one that can be read ({folder}: {reason})") from None
        return cls(folder, card, splits)

    @property
    def vocab_size(self) -> int:
        """Ids are below it."""
        return self.card.vocab_size

    @property
    def eos_id(self) -> int:
        """The end-of-text token; it also begins a text that nothing precedes."""
        return self.card.eos_id

    @property
    def tokenizer_folder(self) -> Path:
        """For `AutoTokenizer.from_pretrained`."""
        return self.folder / TOKENIZER

    def split(self, name: Split) -> TokenizedSplit:
        """One of train, val and test."""
        return self.splits[name]

    def training_batch(
        self, step: int, batch_size: int, window: int, seed: int
    ) -> Int[Tensor, "B T"]:
        """The windows of optimizer step `step`, counted from 0: a pure function of its arguments.

        An epoch shows every window exactly once, in an order of its own; where the first window
        begins is drawn per epoch too, so that no token is always the first of its window.
        """
        ids = self._long_enough("train", window).ids
        num_windows = _windows_per_epoch(len(ids), window)
        drawn = np.arange(step * batch_size, (step + 1) * batch_size)
        starts = [
            int(_epoch_starts(len(ids), window, seed, int(epoch))[position])
            for epoch, position in zip(*np.divmod(drawn, num_windows), strict=True)
        ]
        return _gather(ids, np.array(starts), window)

    def validation_windows(self, split: Split, window: int, num: int) -> Int[Tensor, "B T"]:
        """`num` disjoint windows spread evenly over a split, or as many as it holds."""
        ids = self._long_enough(split, window).ids
        total = len(ids) // window
        num = min(num, total)
        return _gather(ids, np.arange(num) * total // num * window, window)

    def documents(self, split: Split, num: int) -> list[Int[np.ndarray, " _"]]:
        """Ids of `num` documents spread evenly over a split; see `TokenizedSplit.chosen`."""
        found = self.split(split)
        return [found.document(int(index)) for index in found.chosen(num)]

    def _long_enough(self, split: Split, window: int) -> TokenizedSplit:
        found = self.split(split)
        if len(found.ids) < window:
            raise BadInput(
                f"data.text: the {split} split holds {len(found.ids)} tokens, less than one window "
                f"({window}); give more text, raise data.megabytes, or shorten the window"
            )
        return found


def _opened(folder: Path, name: Split, card: CorpusCard) -> TokenizedSplit:
    path = folder / f"{name}.bin"
    dtype = np.dtype(card.dtype).newbyteorder("<")
    expected = card.splits[name].tokens * dtype.itemsize
    if path.stat().st_size != expected:
        raise Missing(
            f"corpus: {path} has {path.stat().st_size} bytes instead of {expected}; build it again"
        )
    return TokenizedSplit(
        ids=np.memmap(path, dtype=dtype, mode="r"),
        offsets=np.load(folder / f"{name}.offsets.npy"),
        num_bytes=np.load(folder / f"{name}.bytes.npy"),
    )


def _windows_per_epoch(num_tokens: int, window: int) -> int:
    """One window less than would fit, where that leaves any: room for the offset of an epoch."""
    return max(1, num_tokens // window - 1)


@lru_cache(maxsize=4)  # a batch reads one epoch, or two where they meet
def _epoch_starts(num_tokens: int, window: int, seed: int, epoch: int) -> Int[np.ndarray, " W"]:
    """Where the windows of one epoch begin, in the order they are shown."""
    random = np.random.default_rng([seed, epoch])
    num_windows = _windows_per_epoch(num_tokens, window)
    offset = random.integers(0, num_tokens - num_windows * window, endpoint=True)
    return np.asarray(offset + window * random.permutation(num_windows), dtype=np.int64)


def _gather(ids: Any, starts: Int[np.ndarray, " B"], window: int) -> Int[Tensor, "B T"]:
    taken = ids[starts[:, None] + np.arange(window)]  # (B, T), the only part read from disk
    return torch.from_numpy(taken.astype(np.int64))
