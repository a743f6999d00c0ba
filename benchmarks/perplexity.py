"""Rolling perplexity: tokens per second, ours against lm-evaluation-harness at its best batch size.

python benchmarks/perplexity.py

Same model (GPT-NeoX 11.5M, random weights), tokenizer, documents and windows; interleaved in one
process; medians. The bound is what the model's matrix products alone would take, as measured here.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from random import Random
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import lightning as L
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from papertrail.data.text import documents
from papertrail.nn.language_model import Shape, from_shape
from papertrail.nn.perplexity import corpus_level, evaluate
from papertrail.nn.scoring import rows_at_once

WINDOW = 512
NUM_TOKENS = 24_000
BATCH_SIZES = (1, 4, 8, 16)
ROUNDS = 3
SHAPE = Shape(layers=4, width=256, heads=8, context=WINDOW)
VOCAB = 16_384


def corpus() -> tuple[PreTrainedTokenizerFast, list[str]]:
    """A BPE trained on 6 MB of enwik8, and a random sample of its articles of NUM_TOKENS."""
    texts = list(documents("enwik8", 6, "main"))
    Random(0).shuffle(texts)
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        texts, vocab_size=VOCAB, special_tokens=["<|endoftext|>"], show_progress=False
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    chosen, num_tokens = [], 0
    while num_tokens < NUM_TOKENS:
        chosen.append(texts[len(chosen)])
        num_tokens += len(tokenizer.encode(chosen[-1]))
    return tokenizer, chosen


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bound_tokens_per_second(rows: int) -> float:
    """The linears alone: `rows` tokens at a time in the blocks, as scoring does in the head."""
    head_rows = rows_at_once(torch.device("cpu"), VOCAB)
    width = SHAPE.width
    block = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    products = [(rows, *sides, SHAPE.layers) for sides in block] + [(head_rows, width, VOCAB, 1)]
    seconds = 0.0
    for num_rows, into, out, times in products:
        x, W = torch.randn(num_rows, into), torch.randn(out, into)
        seconds += times * min(timed(lambda x=x, W=W: x @ W.T) for _ in range(20)) / num_rows
    return 1 / seconds


def main() -> None:
    for name in ("lightning.pytorch", "lm_eval", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    tokenizer, texts = corpus()
    model = from_shape(SHAPE, VOCAB, seed=0).eval()
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    requests = [Instance("loglikelihood_rolling", {}, (text,), i) for i, text in enumerate(texts)]
    harnesses = {
        size: HFLM(model, tokenizer=tokenizer, batch_size=size, max_length=WINDOW)
        for size in BATCH_SIZES
    }
    found: dict[str, list[float]] = {}

    def theirs(size: int) -> None:
        found["lm-eval"] = harnesses[size].loglikelihood_rolling(requests, disable_tqdm=True)

    def ours() -> None:
        scores = evaluate(model, tokenizer, texts, trainer, window=WINDOW, stride=WINDOW)
        found["ours"] = list(-scores["nll"])
        found["tokens"] = [scores["num_tokens"].sum()]
        found["bits per byte"] = [corpus_level(scores)["bits_per_byte"]]

    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        ours()
        sweep = {size: timed(lambda size=size: theirs(size)) for size in BATCH_SIZES}
        best = min(sweep, key=lambda size: sweep[size])
        rounds = [(timed(lambda: theirs(best)), timed(ours)) for _ in range(ROUNDS)]
        bound = bound_tokens_per_second(rows=8 * WINDOW)
    tokens = found["tokens"][0]
    speed_theirs, speed_ours = (tokens / median(column) for column in zip(*rounds, strict=True))
    ratio = median(slow / fast for slow, fast in rounds)
    apart = max(abs(a - b) / abs(b) for a, b in zip(found["ours"], found["lm-eval"], strict=True))
    sizes = ", ".join(f"{size}: {tokens / seconds:,.0f}" for size, seconds in sweep.items())
    load, threads = os.getloadavg()[0], torch.get_num_threads()
    print(f"{len(texts)} documents, {tokens:,} tokens, window {WINDOW}, ", end="")
    print(f"{threads} threads, load {load:.1f}")
    print(f"lm-eval by batch size, one pass {sizes} tokens/s")
    print(f"lm-eval, batch size {best:<2}      {speed_theirs:8,.0f} tokens/s")
    print(f"papertrail                  {speed_ours:8,.0f} tokens/s   x{ratio:.2f} paired median")
    print(f"matrix products alone       {bound:8,.0f} tokens/s   we reach {speed_ours / bound:.0%}")
    print(f"largest difference          {apart:8.0e} of a document's log-likelihood")


if __name__ == "__main__":
    main()
