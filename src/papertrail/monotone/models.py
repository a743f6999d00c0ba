"""Where the models of this study come from and where they go: text, starting point, export."""

from transformers import AutoTokenizer, PreTrainedModel

from papertrail.core.answering.require import require
from papertrail.core.question.experiment import narrow
from papertrail.core.reading import address, registry
from papertrail.core.writing import track
from papertrail.data.config import CORPUS
from papertrail.data.windows import Corpus
from papertrail.monotone.config import PRETRAIN, corpus_config
from papertrail.monotone.options import NANO
from papertrail.monotone.schemas import PretrainConfig
from papertrail.nn import nonnegative
from papertrail.nn.language_model import from_pretrained


def open_corpus(config: PretrainConfig) -> Corpus:
    """The prepared text that `config` trains and is judged on."""
    record = require(CORPUS, corpus_config(config))
    identity = record.tags["papertrail.identity"]
    track.dataset("corpus", identity, config.data.text, context="corpus")
    return Corpus.open(record.artifact("corpus"))


def starting_point(config: PretrainConfig) -> PreTrainedModel:
    """The pretrained model in float32: our own if `nano`, else from the hub or a local folder."""
    if config.model.name == NANO:
        record = require(PRETRAIN, narrow(config, PretrainConfig))
        return from_pretrained(str(record.artifact("model")))
    if address.registered(config.model.name):
        track.run().built_on(registry.find(config.model.name).record.run_id)
    return from_pretrained(config.model.name, config.model.revision)


def finish(model: PreTrainedModel, corpus: Corpus) -> None:
    """Export plain weights with the tokenizer: what `from_pretrained` loads anywhere."""
    tokenizer = AutoTokenizer.from_pretrained(corpus.tokenizer_folder, trust_remote_code=False)
    folder = track.run().folder / "model"
    nonnegative.export(model, folder, tokenizer)
    track.artifacts(folder, "model")
    track.metrics(
        {
            "model/parameters": model.num_parameters(),
            "baseline/unigram_perplexity": corpus.card.splits["val"].unigram_perplexity,
        }
    )
