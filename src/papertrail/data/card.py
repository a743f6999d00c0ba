"""corpus.json: what lies in a corpus folder, as its writer states it and its readers trust it."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt

from papertrail.data.splits import Split

CARD = "corpus.json"
TOKENIZER = "tokenizer"


class SplitCard(BaseModel):
    """Counts of one split, and the perplexity any language model has to beat on it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    documents: PositiveInt
    tokens: PositiveInt
    """With the end-of-text token behind every document."""
    bytes: PositiveInt
    """UTF-8 bytes of the text; end-of-text tokens have none."""
    unigram_perplexity: float
    """Under the train split's token frequencies, one added to each count."""
    unigram_bits_per_byte: float
    """The same baseline per byte of text, comparable between tokenizers."""


class CorpusCard(BaseModel):
    """A corpus folder. SPLIT.bin: ids, each document followed by `eos_id`; SPLIT.offsets.npy: where
    each document begins, and the end; SPLIT.bytes.npy: UTF-8 bytes of each document's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    text: str
    """Digest of the source text."""
    tokenizer: str
    """`bpe`, or the tokenizer that was named."""
    vocab_size: PositiveInt
    """Ids are below it."""
    eos_id: NonNegativeInt
    dtype: Literal["uint16", "uint32"]
    """Of the ids, little endian."""
    bytes_per_token: float
    """Over all splits, end-of-text tokens not counted."""
    splits: dict[Split, SplitCard]
    files: dict[str, str]
    """SHA-256 of every other file of the folder."""
