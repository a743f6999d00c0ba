"""Stage 4: corpus-level perplexity of one trained model on held-out documents."""

from typing import Any

import lightning as L
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papertrail.core.answering.require import require
from papertrail.core.question.experiment import narrow
from papertrail.core.training.fit import trainer_options
from papertrail.core.writing import track
from papertrail.monotone.config import TRAIN
from papertrail.monotone.models import open_corpus
from papertrail.monotone.schemas import PerplexityConfig, TrainConfig
from papertrail.nn import loading
from papertrail.nn.perplexity import corpus_level, evaluate


def perplexity(config: PerplexityConfig) -> None:
    """Score `config.perplexity.documents` documents; one row per document goes to samples/."""
    options = config.perplexity
    corpus = open_corpus(config)
    model, tokenizer = trained(config)
    documents = corpus.documents(options.split, options.documents)
    texts = [str(tokenizer.decode(ids)) for ids in documents]
    trainer = L.Trainer(**trainer_options(config.compute), logger=False, inference_mode=True)
    scores = evaluate(
        model, tokenizer, texts, trainer, window=options.window, stride=options.stride
    )
    result = corpus_level(scores)
    track.parquet("documents", scores)
    track.metrics({f"{options.split}/{key}": value for key, value in result.items()})
    track.metrics({f"{options.split}/tokens": int(scores["num_tokens"].sum())})
    unigram = corpus.card.splits[options.split].unigram_perplexity
    track.metrics({f"{options.split}/unigram_perplexity": unigram})
    track.json_result("perplexity", {"schema": 1, "split": options.split, **result})
    track.gate(
        "beats_unigram",
        result["perplexity"] < unigram,
        f"perplexity {result['perplexity']:.1f} against {unigram:.1f} of the unigram model",
    )
    track.describe(
        f"Perplexity on {len(texts)} {options.split} documents (constraint "
        f"{config.constraint.kind}), token-weighted: window {options.window}, "
        f"stride {options.stride}."
    )


def trained(config: Any) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The exported model that `config` is about, in evaluation mode, and its tokenizer.

    `config` has the sections of TrainConfig and `load`.
    """
    folder = require(TRAIN, narrow(config, TrainConfig)).artifact("model")
    return loading.load(folder, config.load.quantization)
