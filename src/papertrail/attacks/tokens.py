"""Which ids an attack may write, and whether ids survive being read as text.

Axes: B texts, T tokens, V vocabulary (rows of the embedding).
"""

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def banned_ids(tokenizer: Any, model: Any, readable: bool = False) -> Bool[Tensor, " V"]:
    """Ids that no attack may write: special ids and rows behind the tokenizer's last id.

    Embedding tables are padded to round sizes; the spare rows are untrained and have no text.
    `readable` also bans ids whose text is not printable or does not encode to that id alone, such
    as lone bytes of a multi-byte character.
    """
    num_rows = model.get_input_embeddings().weight.shape[0]
    banned = torch.arange(num_rows) >= len(tokenizer)
    banned[[i for i in tokenizer.all_special_ids if i < num_rows]] = True
    if readable:
        free = (~banned).nonzero()
        strange = [not _printable(tokenizer.decode(row)) for row in free.tolist()]
        banned[free[:, 0]] = torch.tensor(strange) | ~round_trips(tokenizer, free)
    return banned


def round_trips(
    tokenizer: Any, ids: Int[Tensor, "B T"], num_tokens: Int[Tensor, " B"] | None = None
) -> Bool[Tensor, " B"]:
    """Whether each text decodes to a string that encodes to the same ids.

    Where it does not, the attack exists in id space only. `num_tokens` are the lengths before
    right-padding (default: T).
    """
    lengths = [ids.shape[1]] * len(ids) if num_tokens is None else num_tokens.tolist()
    rows = [row[:length] for row, length in zip(ids.tolist(), lengths, strict=True)]
    if not rows:
        return torch.zeros(0, dtype=torch.bool)
    strings = [
        tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for row in rows
    ]
    encoded = tokenizer(strings, add_special_tokens=False)["input_ids"]
    return torch.tensor([a == b for a, b in zip(rows, encoded, strict=True)])


def _printable(text: str) -> bool:
    # "\ufffd" stands for bytes that are no character; line breaks and tabs are readable text.
    return "\ufffd" not in text and all(c.isprintable() or c in "\n\t" for c in text)
