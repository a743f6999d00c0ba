"""Text to token ids: read, split by document, train the tokenizer on the train split, encode.

Every document is followed by one end-of-text token, which is also what the first token of the
next document is predicted from. `build` needs no run; `prepare` is the verb that logs one.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from papertrail.core import progress
from papertrail.core.assets import sha256_of
from papertrail.core.errors import BadInput
from papertrail.core.reading import address
from papertrail.core.writing import track
from papertrail.data.card import CARD, TOKENIZER, CorpusCard, SplitCard
from papertrail.data.config import CorpusConfig, Data
from papertrail.data.splits import SPLITS, Shelf, Split, split_of
from papertrail.data.text import digest, documents

END_OF_TEXT = "<|endoftext|>"
READ, TRAINED = 0.25, 0.45  # share of the time spent when a phase ends, for the progress bar
BATCH_BYTES = 1 << 20
Report = Callable[[float], None]


def prepare(config: CorpusConfig) -> None:
    """Build the corpus of `config` and log it under the artifact folder `corpus`."""
    with tempfile.TemporaryDirectory() as scratch, progress.bar("corpus") as bar:
        folder = Path(scratch)

        def report(done: float) -> None:
            bar(done)
            track.progress(done)

        card = build(config.data, folder, report)
        track.dataset(config.data.text, card["text"], config.data.text, context="corpus")
        track.metrics(_metrics(card))
        track.json_result("corpus", card)
        track.artifacts(folder, under="corpus")


def build(config: Data, folder: Path, report: Report = lambda done: None) -> dict[str, Any]:
    """Write the corpus into `folder` and return its card, the content of corpus.json.

    `report` takes the fraction done. BadInput when a split gets no document.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, ExitStack() as open_shelves:
        shelves = {
            name: open_shelves.enter_context(closing(Shelf(Path(scratch) / name)))
            for name in SPLITS
        }
        _read(config, shelves, report)
        tokenizer = _tokenizer(config, shelves["train"])
        report(TRAINED)
        _encode_all(tokenizer, shelves, folder, report)
    tokenizer.save_pretrained(folder / TOKENIZER)
    card = _card(config, folder, tokenizer)
    (folder / CARD).write_text(card.model_dump_json(indent=1))  # last: it makes the folder whole
    report(1.0)
    return card.model_dump()


def _metrics(card: Mapping[str, Any]) -> dict[str, float]:
    """The card's numbers under the run's metric names."""
    counts = {f"{name}/{k}": float(v) for name, of in card["splits"].items() for k, v in of.items()}
    return counts | {k: float(card[k]) for k in ("vocab_size", "bytes_per_token")}


def _read(config: Data, shelves: Mapping[Split, Shelf], report: Report) -> None:
    num_bytes = reported = 0
    for document in documents(config.text, config.megabytes, config.revision):
        text = document.encode()
        shelves[split_of(text, config.val_fraction, config.test_fraction)].add(text)
        num_bytes += len(text)
        if num_bytes >= reported + BATCH_BYTES:
            reported = num_bytes
            report(READ * min(1.0, num_bytes / (config.megabytes * 1e6)))
    num_documents = sum(len(shelf.lengths) for shelf in shelves.values())
    for name, shelf in shelves.items():
        if not shelf.lengths:
            raise BadInput(
                f"data.text: no document fell into the {name} split ({num_documents} documents, "
                f"{num_bytes / 1e6:.3g} MB); give more text, or raise data.megabytes, "
                "data.val_fraction or data.test_fraction"
            )


def _tokenizer(config: Data, train: Iterable[str]) -> Any:
    if config.tokenizer == "bpe":
        return train_bpe(train, config.vocab_size)
    source = address.folder(config.tokenizer) or config.tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BadInput(
            f"data.tokenizer: cannot be loaded ({config.tokenizer}: {reason}); give 'bpe', a hub "
            "id, or a folder that save_pretrained wrote"
        ) from None
    if not tokenizer.is_fast or tokenizer.eos_token_id is None:
        raise BadInput(
            f"data.tokenizer: has no tokenizer.json or no end-of-text token ({config.tokenizer}); "
            "give another, or 'bpe'"
        )
    return tokenizer


def train_bpe(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2) with <|endoftext|> as id 0.

    Set up as Pythia's: one token is beginning, end and unknown; there is no padding token.
    `vocab_size` is an upper bound: a small text has no more merges to offer.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(ByteLevel.alphabet()),  # all bytes: any text can be encoded
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,  # decode(encode(x)) == x, spaces before commas too
    )


def _encode_all(
    tokenizer: Any, shelves: Mapping[Split, Shelf], folder: Path, report: Report
) -> None:
    total = sum(sum(shelf.lengths) for shelf in shelves.values())
    done = 0
    for name, shelf in shelves.items():
        with (folder / f"{name}.bin").open("wb") as out:
            ends = [0]
            for batch in _batches(shelf):
                for ids in _encode(tokenizer, batch):
                    ids.tofile(out)
                    ends.append(ends[-1] + len(ids))
                done += sum(len(text) for text in batch)
                report(TRAINED + (1 - TRAINED) * min(1.0, done / total))
        np.save(folder / f"{name}.offsets.npy", np.array(ends, dtype=np.int64))
        np.save(folder / f"{name}.bytes.npy", np.array(shelf.lengths, dtype=np.int64))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of about BATCH_BYTES of text: enough for every core, little enough for memory."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Any, texts: list[str]) -> list[Integer[np.ndarray, " _"]]:
    """Ids of each text and the end-of-text token; a special token's name in a text is just text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    encodings = backend.encode_batch_fast(texts, add_special_tokens=False)
    backend.encode_special_tokens = False
    eos, dtype = tokenizer.eos_token_id, _dtype(tokenizer)
    return [np.array([*encoding.ids, eos], dtype=dtype) for encoding in encodings]


def _dtype(tokenizer: Any) -> str:
    return "<u2" if len(tokenizer) <= 1 << 16 else "<u4"


def _card(config: Data, folder: Path, tokenizer: Any) -> CorpusCard:
    dtype = _dtype(tokenizer)
    counts = {name: _counts(folder, name, dtype, len(tokenizer)) for name in SPLITS}
    nats = -np.log((counts["train"] + 1) / (counts["train"] + 1).sum())  # (V,)
    splits = {name: _split_card(folder, name, counts[name], nats) for name in SPLITS}
    num_text_tokens = sum(card.tokens - card.documents for card in splits.values())
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    return CorpusCard(
        text=digest(config.text, config.revision),
        tokenizer=config.tokenizer,
        vocab_size=len(tokenizer),
        eos_id=tokenizer.eos_token_id,
        dtype="uint16" if dtype == "<u2" else "uint32",
        bytes_per_token=sum(card.bytes for card in splits.values()) / num_text_tokens,
        splits=splits,
        files={path.relative_to(folder).as_posix(): sha256_of(path) for path in written},
    )


def _counts(folder: Path, name: Split, dtype: str, vocab_size: int) -> Int[np.ndarray, " V"]:
    """How often each id occurs in a split."""
    ids = np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r")
    counts = np.zeros(vocab_size, dtype=np.int64)
    for start in range(0, len(ids), 1 << 22):  # bincount would copy all ids to 8 bytes each
        counts += np.bincount(ids[start : start + (1 << 22)], minlength=vocab_size)
    return counts


def _split_card(folder: Path, name: Split, counts: Any, nats: Any) -> SplitCard:
    lengths = np.load(folder / f"{name}.bytes.npy")
    total_nats = float(counts @ nats)
    return SplitCard(
        documents=len(lengths),
        tokens=int(counts.sum()),
        bytes=int(lengths.sum()),
        unigram_perplexity=math.exp(total_nats / counts.sum()),
        unigram_bits_per_byte=total_nats / math.log(2) / float(lengths.sum()),
    )
