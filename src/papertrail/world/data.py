"""The rows of all models: drawn and written once, read as memory maps.

Test questions are reserved first; training draws, with replacement, from what is left. The
published rows of two cities are not apart: 8 to 18 % of the tested pairs were trained on.
Axes: N rows, T tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import sqrt
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Int32, UInt8, UInt64

from papertrail.core import progress
from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import narrow
from papertrail.core.writing import track
from papertrail.world.cities import EXTRACT_SHA256, Cities, cities, stream
from papertrail.world.config import WORLD_DATA
from papertrail.world.options import ERROR, GUESS, TASKS, Task, World
from papertrail.world.schemas import DataConfig
from papertrail.world.spelling import spelling
from papertrail.world.tasks import (
    BALANCED,
    NONE,
    Examples,
    Kind,
    draw,
    num_questions,
    question_keys,
)

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Asked = Literal["real", "atlantis"]
KINDS: tuple[Asked, ...] = get_args(Asked)
FOLDER = "rows"
RESERVED = 0.3  # of all questions: training must not be left with what testing did not want
SIGMAS = 5


@dataclass(frozen=True)
class Rows:
    """The rows of a world, in a folder."""

    folder: Path

    def get(self, kind: Asked, task: Task, split: Split) -> UInt8[np.ndarray, "N T"]:
        """A memory map: right-padded rows of one set."""
        found: np.ndarray = np.load(self.folder / filename(kind, task, split), mmap_mode="r")
        return found


@dataclass(frozen=True, kw_only=True)
class Written:
    """What is known of one task's sets once they are logged."""

    answers: Mapping[str, Mapping[str, float]]
    """task/kind -> `statistics` of its training rows."""
    sha256: Mapping[str, str]
    """Of every file, by name."""
    num_shared: int


def open_rows(config: Any) -> Rows:
    """The rows that the experiment of `config` is built on."""
    return Rows(require(WORLD_DATA, narrow(config, DataConfig)).artifact(FOLDER))


def filename(kind: Asked, task: Task, split: Split) -> str:
    """Of a set, in the artifact folder `rows`."""
    return f"{kind}_{task}_{split}.npy"


def data(config: DataConfig) -> None:
    """Draw cities and rows; log `cities.parquet`, `rows/` and `results/data.json`."""
    found = cities(config.world)
    track.dataset("GeoNames", EXTRACT_SHA256, "https://www.geonames.org", context="cities")
    with track.file("cities.parquet") as path:
        as_frame(found).to_parquet(path, index=False)
    written = []
    with progress.bar("rows") as bar:
        for num, task in enumerate(TASKS, start=1):
            written.append(_write_task(config.world, task, found))
            track.progress(num / len(TASKS))
            bar(num / len(TASKS))
    _report(config.world, written)


def as_frame(found: Cities) -> pd.DataFrame:
    """One row per city: x, y, real, number, name, country, region."""
    columns = ("x", "y", "real", "number", "name", "country", "region")
    return pd.DataFrame({name: getattr(found, name) for name in columns})


def drawn(world: World, task: Task, found: Cities) -> dict[tuple[Asked, Split], Examples]:
    """All sets of one task; no question of val or test is in another set of it.

    Where the world is pretrained on all cities, the sets called real are drawn among all.
    """
    among: Mapping[Asked, Kind] = {
        "real": "all" if world.pretrained_on == "all" else "real", "atlantis": "atlantis"
    }  # fmt: skip
    num_train = {"real": world.train_rows, "atlantis": world.atlantis_rows}
    sets: dict[tuple[Asked, Split], Examples] = {}
    reserved = NONE
    for kind in KINDS:
        _refuse_too_many(world, task, found, among[kind])
        num = world.test_rows + world.validation_rows
        random = stream(world.seed, task, kind, "test")
        held = draw(task, found, among[kind], num, random, avoid=reserved, distinct=True)
        reserved = np.concatenate([reserved, question_keys(task, held.cities)])
        sets[kind, "test"] = held[: world.test_rows]
        sets[kind, "val"] = held[world.test_rows :]
    for kind in KINDS:
        random = stream(world.seed, task, kind, "train")
        sets[kind, "train"] = draw(
            task, found, among[kind], num_train[kind], random, avoid=reserved
        )
    return sets


def _refuse_too_many(world: World, task: Task, found: Cities, kind: Kind) -> None:
    most = int(RESERVED * num_questions(task, found, kind)) - world.validation_rows
    if world.test_rows > most:
        raise BadInput(
            f"world.test_rows: {RESERVED:.0%} of the {kind} questions of {task} may be kept from "
            f"training, which leaves {max(0, most)} ({world.test_rows}); ask for fewer, or raise "
            "world.cities and world.atlantis"
        )


def num_shared(sets: Mapping[tuple[Asked, Split], Examples]) -> int:
    """Training rows that are a question of val or test, and such questions that are twice there."""
    keys = {name: question_keys(one.task, one.cities) for name, one in sets.items()}
    held: UInt64[np.ndarray, " K"] = np.concatenate(
        [one for (_, split), one in keys.items() if split != "train"]
    )
    twice = len(held) - len(np.unique(held))
    seen = [np.isin(one, held).sum() for (_, split), one in keys.items() if split == "train"]
    return int(twice + sum(seen))


def statistics(examples: Examples) -> dict[str, float]:
    """What a model that has learnt nothing but the answers' frequencies scores."""
    found, task = examples.answers, examples.task
    if task in ERROR:
        middle = np.median(found)
        return {
            "mean": float(found.mean()),
            "median": float(middle),
            "best_constant_error": float(np.abs(found - middle).mean()),
        }
    numbers = {"majority": float(np.bincount(found).max() / len(found))}
    if task in BALANCED:
        numbers["true"] = float(found.mean())
    if task == "inside":
        numbers["hull_rule"] = hull_rule(examples.cities, found)
    return numbers


def guess(facts: Mapping[str, float]) -> float:
    """The best that the numbers of `statistics` allow: an error, or a share of right answers."""
    best = ("hull_rule", "majority", "best_constant_error")
    return next(facts[name] for name in best if name in facts)


def hull_rule(chosen: Int32[np.ndarray, "N 6"], found: np.ndarray) -> float:
    """Share of `inside` that the number of cities alone gets right.

    Balancing tells of it: 0.60, on which the published curves rest before they rise.
    """
    sizes = (chosen >= 0).sum(axis=1)
    counts = pd.crosstab(sizes, found).to_numpy()
    return float(counts.max(axis=1).sum() / len(found))


def _write_task(world: World, task: Task, found: Cities) -> Written:
    """Draw the sets of a task and log them."""
    sets = drawn(world, task, found)
    digests = {}
    for (kind, split), examples in sets.items():
        name = filename(kind, task, split)
        with track.file(f"{FOLDER}/{name}") as path:
            np.save(path, spelling(world).encode(examples))
            digests[name] = sha256(path.read_bytes()).hexdigest()
    answers = {f"{task}/{kind}": statistics(sets[kind, "train"]) for kind in KINDS}
    return Written(answers=answers, sha256=digests, num_shared=num_shared(sets))


def _report(world: World, written: Sequence[Written]) -> None:
    """Log what is in the sets, and the controls."""
    answers = {name: facts for one in written for name, facts in one.answers.items()}
    for name, facts in answers.items():
        track.metrics({f"answers/{name}/{key}": value for key, value in facts.items()})
        task, kind = name.split("/")
        track.metrics({GUESS.format(task=task, kind=kind): guess(facts)})
    sizes = {
        "train/real": world.train_rows, "train/atlantis": world.atlantis_rows,
        "val": world.validation_rows, "test": world.test_rows,
    }  # fmt: skip
    track.metrics({f"rows/{name}": num for name, num in sizes.items()})
    digests = {name: digest for one in written for name, digest in one.sha256.items()}
    track.json_result("data", {"answers": answers, "sha256": digests})
    shared = sum(one.num_shared for one in written)
    for name, passed, sentence in controls(world, answers, shared):
        track.gate(name, passed, sentence)
    track.describe(
        f"{world.cities} cities of GeoNames (geonames.org, CC BY 4.0) and {world.atlantis} of "
        f"Atlantis, seven tasks: {world.train_rows} training rows of each without Atlantis, "
        f"{world.atlantis_rows} with, {world.test_rows} test rows of each kind."
    )


def controls(
    world: World, answers: Mapping[str, Mapping[str, float]], shared: int
) -> Iterator[tuple[str, bool, str]]:
    """What the data say about themselves: name, whether it holds, and a sentence."""
    yield "disjoint", shared == 0, f"{shared} rows are a question of another set"
    for kind, rows in (("real", world.train_rows), ("atlantis", world.atlantis_rows)):
        allowed = SIGMAS * 0.5 / sqrt(rows)
        for task in BALANCED:
            share = answers[f"{task}/{kind}"]["true"]
            sentence = f"{share:.4f} of the {kind} rows of {task} are TRUE, 0.5 +- {allowed:.4f}"
            yield f"balanced/{task}/{kind}", abs(share - 0.5) < allowed, sentence
