"""Stage 4: corpus-level perplexity of one trained model on held-out documents."""

import lightning as L
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from papertrail.core import track
from papertrail.core.experiment import narrow
from papertrail.core.fit import trainer_options
from papertrail.core.require import require
from papertrail.monotone.config import TRAIN, PerplexityConfig, TrainConfig
from papertrail.monotone.train import open_corpus
from papertrail.nn.perplexity import corpus_level, evaluate


def perplexity(config: PerplexityConfig) -> None:
    """Score `config.perplexity.documents` documents; one row per document goes to samples/."""
    options = config.perplexity
    corpus = open_corpus(config)
    model, tokenizer = trained(narrow(config, TrainConfig))
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


def trained(config: TrainConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The exported model of a training run, plain weights in evaluation mode, and its tokenizer."""
    folder = require(TRAIN, config).artifact("model")
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    model.eval()  # type: ignore[no-untyped-call]
    return model, tokenizer
