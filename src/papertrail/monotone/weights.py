"""The model that the study begins with: is it whole, of which size, and do the arms fit it?"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from papertrail.core.reading import address
from papertrail.core.storage.reach import Answer, Hub, cached
from papertrail.data.config import TOKENIZER_FILES
from papertrail.monotone.arms import arm
from papertrail.monotone.estimate import FP32, Size, gpt_neox, published
from papertrail.monotone.options import NANO
from papertrail.monotone.schemas import StudyConfig
from papertrail.monotone.setup import FETCH, Input, found

SINGLE = ("model.safetensors", "pytorch_model.bin")
INDEX = ".index.json"
DOWNLOADED = ("*.json", "*.txt", "*.model", "*.safetensors")
TOKENIZER = "tokenizer.json"


def model(config: StudyConfig, hub: Hub) -> tuple[Input, Size | None]:
    name, revision = config.model.name, config.model.revision
    if name == NANO:
        return _nano(config)
    local = address.folder(name)
    if local is not None:
        return _in_folder(config, local, name)
    folder = cached("model", name, revision)
    if folder is not None and not lacking(folder):
        return _in_folder(config, folder, f"{name}@{revision} in the hub's cache")
    answer = hub.ask("models", name, revision)
    if answer.state == "there":
        return _on_hub(config, answer)
    size = published(name)
    known = f"; from its name, {size.parameters:,} parameters" if size else ""
    partly = f" (its cache lacks {', '.join(lacking(folder))})" if folder is not None else ""
    return found("model", "missing", f"{name}@{revision}: {answer.reason}{partly}{known}; "
                  f"{_remedy(answer)}"), size  # fmt: skip


def _remedy(answer: Answer) -> str:
    match answer.state:
        case "refused":
            return "accept its licence on the hub and log in with `hf auth login`"
        case "absent":
            return "give another model.name and model.revision, or a local folder"
    return (
        "connect and use -P fetch=true, or give a local folder as model.name with config.json, "
        "model.safetensors and tokenizer.json"
    )


def _nano(config: StudyConfig) -> tuple[Input, Size | None]:
    model = config.model
    rows = vocabulary(config)
    if rows is None:
        sentence = f"{NANO}: trained here; its size depends on {config.data.tokenizer}"
        return found("model", "warning", f"{sentence}, which is not here yet"), None
    size = gpt_neox(layers=model.layers, width=model.width, vocabulary=rows)
    sentence = f"{NANO}: {size.parameters:,} parameters, trained here; nothing to download"
    return found("model", "ok", sentence), size


def vocabulary(config: StudyConfig) -> int | None:
    """Tokens of the corpus' tokenizer; None where it cannot be read yet."""
    name = config.data.tokenizer
    if name == "bpe":
        return config.data.vocab_size
    folder = address.folder(name) or cached("model", name, "main")
    if folder is None or not (folder / TOKENIZER).is_file():
        return None
    from tokenizers import Tokenizer

    return int(Tokenizer.from_file(str(folder / TOKENIZER)).get_vocab_size())


def lacking(folder: Path) -> list[str]:
    """Files without which no model and tokenizer can be loaded from a folder."""
    needed = [] if (folder / "config.json").is_file() else ["config.json"]
    needed += [] if (folder / TOKENIZER).is_file() else [TOKENIZER]
    for single in SINGLE:
        index = folder / f"{single}{INDEX}"
        if index.is_file():
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
            return needed + [shard for shard in shards if not (folder / shard).is_file()]
        if (folder / single).is_file():
            return needed
    return [*needed, SINGLE[0]]


def _in_folder(config: StudyConfig, folder: Path, where: str) -> tuple[Input, Size | None]:
    gone = lacking(folder)
    size, reason = architecture(folder, config) if "config.json" not in gone else (None, "")
    if gone or size is None:
        said = f"lacks {', '.join(gone)}; save_pretrained of model and tokenizer writes them"
        return found("model", "missing", f"{where}: {said if gone else reason}"), size
    kinds = ", ".join(sorted(dtypes(folder))) or "unknown"
    sentence = f"{where}: {size.parameters:,} parameters, stored as {kinds}, trained in F32"
    return found("model", "ok", sentence), size


def dtypes(folder: Path) -> set[str]:
    """In what the weights are stored, by safetensors' names; empty for other formats."""
    found = set()
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:  # eight bytes of length, then a header in JSON
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        found |= {one["dtype"] for name, one in header.items() if name != "__metadata__"}
    return found


def architecture(folder: Path, config: StudyConfig) -> tuple[Size | None, str]:
    """The size of the model that config.json describes, built without weights; or why none is.

    Every arm's matrices are looked for where training will look.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from papertrail.nn import families

    try:
        described = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        families.family(described.model_type)
        with torch.device("meta"):
            model: Any = AutoModelForCausalLM.from_config(described)  # type: ignore[no-untyped-call]
        held = [arm(name, config.constraint) for name in config.arms]
        for one in held:
            if one.kind != "none":
                families.constrained_linears(model, one.scope)
        first = families.family(described.model_type).mlp_in
    except (OSError, ValueError) as error:
        return None, " ".join(str(error).split())[:300]
    matrix: Any = families.blocks(model)[0].get_submodule(first).weight
    return Size(
        layers=described.num_hidden_layers,
        width=described.hidden_size,
        feed_forward=matrix.numel() // described.hidden_size,
        vocabulary=model.get_input_embeddings().num_embeddings,
        parameters=model.num_parameters(),
        tied=bool(described.tie_word_embeddings),
    ), ""


def _on_hub(config: StudyConfig, answer: Answer) -> tuple[Input, Size | None]:
    """A model that can be downloaded: its config is read now, its weights when they are wanted."""
    from huggingface_hub import hf_hub_download

    name, revision = config.model.name, config.model.revision
    try:
        described = Path(hf_hub_download(name, "config.json", revision=revision))
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        return found("model", "missing", f"{name}@{revision}: no config.json ({reason})"), None
    size, reason = architecture(described.parent, config)
    if size is None:
        return found("model", "missing", f"{name}@{revision}: {reason}"), None
    sentence = f"{name}@{revision}: {size.parameters:,} parameters, on the hub; {FETCH}"

    def fetch() -> None:
        download(name, revision, answer.files)

    return found("model", "warning", sentence, fetch, float(FP32 * size.parameters)), size


def download(name: str, revision: str, files: Sequence[str]) -> None:
    """Weights, config and tokenizer into the hub's own cache, as far as they are not there yet."""
    from huggingface_hub import snapshot_download

    safe = any(file.endswith(".safetensors") for file in files)
    patterns = [*DOWNLOADED, *([] if safe else ["*.bin"])]
    snapshot_download(name, revision=revision, allow_patterns=patterns)


def tokenizer(name: str, hub: Hub) -> Input:
    folder = address.folder(name)
    kept = folder if folder is not None else cached("model", name, "main")
    if kept is not None and (kept / TOKENIZER).is_file():
        return found("tokenizer", "ok", f"{name}: {kept / TOKENIZER}")
    if folder is not None:
        return found("tokenizer", "missing", f"{name}: lacks {TOKENIZER}; save_pretrained it")
    answer = hub.ask("models", name, "main")
    if answer.state == "there":
        sentence = f"{name}: on the hub; {FETCH}"
        return found("tokenizer", "warning", sentence, lambda: _download_tokenizer(name))
    return found("tokenizer", "missing", f"{name}: {answer.reason}; give a local folder with "
                  f"{TOKENIZER} as data.tokenizer, or bpe")  # fmt: skip


def _download_tokenizer(name: str) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(name, allow_patterns=[*TOKENIZER_FILES])
