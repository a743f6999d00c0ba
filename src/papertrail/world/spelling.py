"""How questions are written as tokens: characters, as published, or a word for each city and task.

Axes: N rows, T tokens of a row, P tokens of a prompt, C cities.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Int, Int64, Integer, UInt8

from papertrail.core.errors import BadInput
from papertrail.world.cities import cities
from papertrail.world.options import TASKS, Task, World
from papertrail.world.tasks import BALANCED, COMPASS, LOGICAL, SIZES, Examples

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
DIGITS = "0123456789"
CHARACTERS = tuple(map(chr, (*range(33, 48), *range(58, 127)))) + tuple(DIGITS)
"""Printable ASCII except the space, digits last: the order of the published tokenizer."""
NAMES: dict[Task, str] = {task: task for task in TASKS} | {
    "distance": "dist", "trianglearea": "triarea", "crossing": "cross"
}  # fmt: skip
"""What the character spelling calls a task."""
MOST_TOKENS = 256  # a token is kept in one byte


@dataclass(frozen=True, kw_only=True)
class Spelling:
    """Tokens of a world."""

    kind: Literal["characters", "words"]
    tokens: tuple[str, ...]
    """What each id looks like."""
    labels: tuple[str, ...]
    """Of each city: c_0865."""

    @property
    def size(self) -> int:
        """Ids are below it."""
        return len(self.tokens)

    @property
    def equals(self) -> int:
        """The id behind which an answer begins."""
        return self.tokens.index("=")

    def encode(self, examples: Examples) -> UInt8[np.ndarray, "N T"]:
        """Rows from <bos> to <eos>, padded on the right to the longest."""
        task, num = examples.task, len(examples)
        fields = [_repeated(self._opening(task), num)]
        for slot in range(max(SIZES[task])):
            fields.append(self._table(task, slot)[examples.cities[:, slot]])
        fields.append(_repeated(self.encode_text(self._closing()), num))
        fields.append(self._answers(task, examples.answers))
        fields.append(_repeated(np.array([EOS], dtype=np.uint8), num))
        return _to_the_left(np.concatenate(fields, axis=1))

    def text(self, tokens: Integer[np.ndarray, " T"]) -> str:
        """A row as it is read; <bos>, <eos> and <pad> left out."""
        return self.texts(tokens[None])[0]

    def texts(self, tokens: Integer[np.ndarray, "N T"]) -> list[str]:
        """Many rows as they are read."""
        seen = np.array(["" if id_ in (PAD, BOS, EOS) else t for id_, t in enumerate(self.tokens)])
        return ["".join(row) for row in seen.astype(object)[tokens].tolist()]

    def encode_text(self, text: str) -> UInt8[np.ndarray, " T"]:
        """Ids of a text without <bos> and <eos>; <unk> for what is not spelt so."""
        known = {token: id_ for id_, token in enumerate(self.tokens)}
        longest_first = sorted(self.tokens[len(SPECIAL) :], key=len, reverse=True)
        found = re.findall("|".join([*map(re.escape, longest_first), "."]), text, re.DOTALL)
        return np.array([known.get(token, UNK) for token in found], dtype=np.uint8)

    def prompt(self, task: Task, chosen: Int[np.ndarray, " N"]) -> UInt8[np.ndarray, "N P"]:
        """A question up to its first city and what follows it: what shows a city to a model.

        The publication does not pad ids here, and leaves out cities whose number has less than
        four digits: for the others the two are the same.
        """
        begin = _repeated(self._opening(task), len(chosen))
        shown = self._table(task, 0)[chosen]
        end = _repeated(self.encode_text(self._separator(task, 1)), len(chosen))
        return np.concatenate([begin, shown, end], axis=1)

    def positions(self, task: Task) -> tuple[int, ...]:
        """Where in `prompt` a city's vector is read: at its last digit and behind, or its word."""
        length = self.prompt(task, np.zeros(1, dtype=np.int64)).shape[1]
        return (length - 1,) if self.kind == "words" else (length - 2, length - 1)

    def _opening(self, task: Task) -> UInt8[np.ndarray, " W"]:
        name = task if self.kind == "words" else f"{NAMES[task]}("
        return np.array([BOS, *self.encode_text(name)], dtype=np.uint8)

    def _closing(self) -> str:
        return "=" if self.kind == "words" else ")="

    def _separator(self, task: Task, slot: int) -> str:
        """What stands before the city in a slot."""
        if self.kind == "words" or slot == 0:
            return ""
        return ";" if (task, slot) in (("inside", 1), ("crossing", 2)) else ","

    def _table(self, task: Task, slot: int) -> UInt8[np.ndarray, "_ W"]:
        """The tokens of every city in a slot; nothing, for the city -1, in the last row."""
        before = self.encode_text(self._separator(task, slot)).tolist()
        rows = [[*before, *ids] for ids in self._label_ids]
        return np.array([*rows, [PAD] * len(rows[0])], dtype=np.uint8)

    @cached_property
    def _label_ids(self) -> list[list[int]]:
        known = {token: id_ for id_, token in enumerate(self.tokens)}
        if self.kind == "words":
            return [[known[f" {label}"]] for label in self.labels]
        return [[known[character] for character in label] for label in self.labels]

    def _answers(self, task: Task, answers: Int64[np.ndarray, " N"]) -> UInt8[np.ndarray, "N W"]:
        if task == "compass" or task in BALANCED:
            table = self._words(COMPASS if task == "compass" else LOGICAL)
            return np.take(table, answers, axis=0)
        powers = 10 ** np.arange(len(str(answers.max(initial=0))) - 1, -1, -1)
        digits = answers[:, None] // powers % 10 + self.tokens.index("0")
        seen = (answers[:, None] >= powers) | (powers == 1)
        return np.where(seen, digits, PAD).astype(np.uint8)

    def _words(self, words: Sequence[str]) -> UInt8[np.ndarray, "W L"]:
        ids = [self.encode_text(word) for word in words]
        table = np.zeros((len(words), max(map(len, ids))), dtype=np.uint8)
        for row, one in zip(table, ids, strict=True):
            row[: len(one)] = one
        return table


def _repeated(ids: UInt8[np.ndarray, " W"], rows: int) -> UInt8[np.ndarray, "N W"]:
    return np.tile(ids, (rows, 1))


def _to_the_left(tokens: UInt8[np.ndarray, "N W"]) -> UInt8[np.ndarray, "N T"]:
    """The same tokens without the gaps between them."""
    there = tokens != PAD
    lengths = there.sum(axis=1)
    packed = np.zeros((len(tokens), lengths.max(initial=0)), dtype=np.uint8)
    packed[np.arange(packed.shape[1]) < lengths[:, None]] = tokens[there]
    return packed


@lru_cache(maxsize=4)
def spelling(options: World) -> Spelling:
    """The spelling of a world; BadInput where its words have no room in a byte."""
    labels = tuple(f"c_{number:04d}" for number in cities(options).number)
    words = (*TASKS, "=", *DIGITS, *COMPASS, *LOGICAL, *(f" {label}" for label in labels))
    tokens = SPECIAL + (CHARACTERS if options.spelling == "characters" else words)
    if len(tokens) > MOST_TOKENS:
        room = MOST_TOKENS - (len(tokens) - len(labels))
        raise BadInput(
            f"world.cities: {room} have a word, Atlantis among them ({len(labels)}); give fewer, "
            "or world.spelling=characters"
        )
    return Spelling(kind=options.spelling, tokens=tokens, labels=labels)
