"""What a corpus is: every option, its default and its meaning. Imports neither torch nor mlflow."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Lt
from pydantic import PositiveFloat

from papertrail.core import digests
from papertrail.core.question.experiment import Experiment
from papertrail.core.reading import address
from papertrail.data.text import digest

Fraction = Annotated[float, Gt(0), Lt(0.5)]
VocabularySize = Annotated[int, Ge(257)]
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)


@dataclass(frozen=True, kw_only=True)
class Data:
    text: str = "enwik8"
    """`enwik8`, a text file, a folder of .txt, .md and .jsonl files, or a hub dataset id."""
    revision: str = "main"
    """Revision of a hub dataset; name a commit to fix its content."""
    megabytes: PositiveFloat = 24.0
    """Raw text read at most, in MB (10^6 bytes)."""
    tokenizer: str = "bpe"
    """`bpe` trains one on the train split; else hub id, local folder or models:/NAME@ALIAS."""
    vocab_size: VocabularySize = 4096
    """Tokens of the trained BPE: 256 bytes, end of text, and merges."""
    val_fraction: Fraction = 0.05
    """Share of documents in the validation split."""
    test_fraction: Fraction = 0.05
    """Share of documents in the test split."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    data: Data = field(default_factory=Data)
    """Text, tokenizer and split."""


def fingerprints(data: Data) -> Mapping[str, str]:
    """Digests of what `data` names on this machine or elsewhere, by option."""
    found = {"data.text": digest(data.text, data.revision)}
    tokenizer = Path(data.tokenizer).expanduser()
    if address.registered(data.tokenizer):
        found["data.tokenizer"] = f"tokenizer:{address.content(data.tokenizer, _of_tokenizer)}"
    elif data.tokenizer != "bpe" and tokenizer.is_dir():
        found["data.tokenizer"] = _tokenizer_digest(tokenizer)
    return found


def _tokenizer_digest(folder: Path) -> str:
    """Over the files that make a tokenizer, so that weights in the same folder do not count."""
    names = _of_tokenizer([path.name for path in folder.glob("*")])
    return f"tokenizer:{digests.of_named([folder / name for name in names])}"


def _of_tokenizer(names: Collection[str]) -> list[str]:
    return [name for name in TOKENIZER_FILES if name in names]


CORPUS = Experiment(
    name="corpus",
    study="data",
    schema=CorpusConfig,
    verb="papertrail.data.corpus:prepare",
    data=lambda config: fingerprints(config.data),
)
"""Text to ids, split by document; raise its revision when cleaning, split or packing change."""
