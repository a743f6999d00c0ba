"""Rolling perplexity of documents: every token scored once, sums over the corpus, one row each.

The text of a document is predicted from a prefix token on, in windows of at most `window` tokens.
Axes: B windows, T tokens.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import lightning as L
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papertrail.core.errors import BadInput
from papertrail.nn.scoring import span_nll

CPU_TOKENS, TOKENS = 1024, 16_384
"""In one batch. On a CPU, activations that stay in cache: 8 % faster than 4,096 at a time."""


@dataclass(frozen=True)
class Document:
    """What is scored of one text, and what its score is divided by."""

    ids: list[int]
    """The prefix token, then the text."""
    num_bytes: int
    """UTF-8."""
    num_words: int
    """Pieces between white space, as lm-evaluation-harness counts them."""


@dataclass(frozen=True)
class Window:
    """`ids[begin:end]` of a document; those from `first_scored` on are scored."""

    begin: int
    first_scored: int
    end: int


class Batch(NamedTuple):
    """Windows of nearly one length, right-padded."""

    ids: Int[Tensor, "B T"]
    scored: Bool[Tensor, "B T"]
    windows: Int[Tensor, " B"]
    """Number of each window in the order of `plan`."""


def read(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[Document]:
    """Tokenized documents behind the tokenizer's BOS, or its EOS where it has no BOS.

    The tokenizer adds nothing of its own: where it would put a BOS, the prefix is one already.
    """
    prefix = tokenizer.bos_token_id
    prefix = tokenizer.eos_token_id if prefix is None else prefix
    if prefix is None:
        raise BadInput(
            "tokenizer: neither a BOS nor an EOS token; set one, the text starts behind it"
        )
    if not texts:
        raise BadInput("texts: no document (0); give at least one")
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
    return [
        Document([prefix, *ids], len(text.encode()), len(re.split(r"\s+", text)))
        for text, ids in zip(texts, encoded["input_ids"], strict=True)
    ]


def windows(num_tokens: int, window: int, stride: int) -> Iterator[Window]:
    """Spans over one prefix and `num_tokens` tokens in which every token is scored exactly once.

    The model reads at most `window` tokens, to predict `window` of them in the first span and
    `stride` in each later one. At stride == window these are the windows of lm-evaluation-harness:
    one token of context at the start of each, and only the last reaches back to be full. A smaller
    stride gives every later token at least window - stride + 1 tokens of context, which comes
    closer to the perplexity under full context, for window / stride times the work.
    """
    end = 0
    while end < num_tokens:
        first_scored = end + 1
        end = min(end + (stride if end else window), num_tokens)
        yield Window(max(0, end - window), first_scored, end + 1)


def plan(documents: Sequence[Document], window: int, stride: int) -> list[tuple[int, Window]]:
    """All windows with the number of their document, longest first.

    Raises BadInput unless 1 <= stride <= window, and for documents without a single token.
    """
    if not 1 <= stride <= window:
        raise BadInput(f"stride: not within 1..window ({stride}, window {window}); try {window}")
    spans = [
        (number, span)
        for number, document in enumerate(documents)
        for span in windows(len(document.ids) - 1, window, stride)
    ]
    if not spans:
        raise BadInput(f"texts: no token in any of {len(documents)} documents; give some text")
    return sorted(spans, key=lambda numbered: numbered[1].begin - numbered[1].end)


class WindowBatches(Dataset[Batch]):
    """`spans` in their order, as many at a time as `tokens_per_batch` holds, at least one."""

    def __init__(
        self,
        documents: Sequence[Document],
        spans: Sequence[tuple[int, Window]],
        tokens_per_batch: int,
    ) -> None:
        self.documents = documents
        self.spans = spans
        self.starts = [0]
        while self.starts[-1] < len(spans):
            longest = spans[self.starts[-1]][1]  # the first one: `plan` sorts them
            rows = max(1, tokens_per_batch // (longest.end - longest.begin))
            self.starts.append(min(len(spans), self.starts[-1] + rows))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Batch:
        rows = range(self.starts[index], self.starts[index + 1])
        longest = self.spans[rows[0]][1]
        ids = torch.zeros(len(rows), longest.end - longest.begin, dtype=torch.long)
        scored = torch.zeros_like(ids, dtype=torch.bool)
        for row, (number, span) in enumerate(self.spans[rows.start : rows.stop]):
            length = span.end - span.begin
            ids[row, :length] = torch.tensor(self.documents[number].ids[span.begin : span.end])
            scored[row, span.first_scored - span.begin : length] = True
        return Batch(ids, scored, torch.arange(rows.start, rows.stop))


class RollingPerplexity(L.LightningModule):
    """Scores windows under `trainer.test`; devices and precision are the Trainer's."""

    def __init__(self, model: PreTrainedModel, num_windows: int) -> None:
        super().__init__()
        self.model = model
        self.nll = torch.full((num_windows,), -math.inf, dtype=torch.float64)

    def test_step(self, batch: Batch, _: int) -> None:
        # Set, not added: a distributed sampler may hand the same window to two processes.
        nll = nll_within_memory(self.model, batch.ids, batch.scored)
        self.nll[batch.windows.cpu()] = nll.double().cpu()

    def on_test_epoch_end(self) -> None:
        gathered = self.all_gather(self.nll.to(self.device))
        assert isinstance(gathered, Tensor)
        self.nll = gathered.reshape(-1, len(self.nll)).amax(0).cpu()
        assert not self.nll.eq(-math.inf).any(), "a window was not scored"


def nll_within_memory(
    model: PreTrainedModel, ids: Int[Tensor, "B T"], scored: Bool[Tensor, "B T"]
) -> Float[Tensor, " B"]:
    """Summed NLL of each row in nats; a batch that does not fit is halved until it does.

    Raises torch.OutOfMemoryError when a single row does not fit: no row is ever left out.
    """
    try:
        return span_nll(model, ids, scored)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise
    torch.cuda.empty_cache()  # behind the except block: its traceback held the tensors
    half = len(ids) // 2
    parts = [(ids[:half], scored[:half]), (ids[half:], scored[half:])]
    return torch.cat([nll_within_memory(model, *part) for part in parts])


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    trainer: L.Trainer,
    *,
    window: int,
    stride: int,
    tokens_per_batch: int | None = None,
) -> pd.DataFrame:
    """One row per text: `doc`, `num_tokens`, `num_bytes`, `num_words`, `nll` (sum, in nats).

    Raises BadInput for a window that the model was not made for, and as `read` and `plan` do.
    """
    context = model.config.max_position_embeddings
    if window > context:
        raise BadInput(f"window: longer than the model's context ({window}); use at most {context}")
    documents = read(texts, tokenizer)
    spans = plan(documents, window, stride)
    module = RollingPerplexity(model, len(spans))
    if tokens_per_batch is None:
        on_cpu = trainer.strategy.root_device.type == "cpu"
        tokens_per_batch = CPU_TOKENS if on_cpu else TOKENS
    loader = DataLoader(WindowBatches(documents, spans, tokens_per_batch), batch_size=None)
    trainer.test(module, loader, verbose=False)
    owners = torch.tensor([number for number, _ in spans])
    nll = torch.zeros(len(documents), dtype=torch.float64).index_add(0, owners, module.nll)
    return pd.DataFrame(
        {
            "doc": range(len(documents)),
            "num_tokens": [len(document.ids) - 1 for document in documents],
            "num_bytes": [document.num_bytes for document in documents],
            "num_words": [document.num_words for document in documents],
            "nll": nll.numpy(),
        }
    )


def corpus_level(scores: pd.DataFrame) -> dict[str, float]:
    """Sums over all documents, divided once: a mean over documents would weigh short ones up.

    `perplexity` is per token and so depends on the tokenizer; `bits_per_byte`, `byte_perplexity`
    and `word_perplexity` do not.
    """
    total = scores[["num_tokens", "num_bytes", "num_words", "nll"]].sum()
    return {
        "loss": total.nll / total.num_tokens,
        "perplexity": math.exp(total.nll / total.num_tokens),
        "bits_per_byte": total.nll / total.num_bytes / math.log(2),
        "byte_perplexity": math.exp(total.nll / total.num_bytes),
        "word_perplexity": math.exp(total.nll / total.num_words),
    }
