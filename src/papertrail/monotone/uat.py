"""Stage 5: a universal trigger for one model with its controls, and two models side by side.

Axes: N texts, T text tokens.
"""

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import AutoTokenizer

from papertrail.attacks import gates
from papertrail.attacks.gates import Gate
from papertrail.attacks.tokens import banned_ids, round_trips
from papertrail.attacks.trigger_losses import whole_texts
from papertrail.attacks.under_trainer import Tensors, under_trainer
from papertrail.attacks.universal import Trigger as Ids
from papertrail.core.answering.launch import require_all
from papertrail.core.question.experiment import Question
from papertrail.core.reading import page
from papertrail.core.reading.record import Record
from papertrail.core.writing import track
from papertrail.data.splits import Split
from papertrail.monotone import triggers
from papertrail.monotone.arms import behind, pair
from papertrail.monotone.config import TRIGGER
from papertrail.monotone.models import open_corpus
from papertrail.monotone.perplexity import trained
from papertrail.monotone.robustness import COMPARED
from papertrail.monotone.schemas import TriggerConfig, UatConfig
from papertrail.monotone.trigger_figure import trigger_bars
from papertrail.monotone.trigger_run import (
    Losses,
    Put,
    attacked,
    chosen_texts,
    decoded,
    frame,
    losses_behind,
    own_trigger,
    refuse_too_long,
)
from papertrail.tables.figures import save


def trigger(config: TriggerConfig) -> None:
    """Search a trigger on validation texts, or take the one given, and measure it on test texts."""
    options, corpus = config.trigger, open_corpus(config)
    given = own_trigger(
        AutoTokenizer.from_pretrained(corpus.tokenizer_folder, trust_remote_code=False), options
    )
    texts: dict[Split, Tensor] = {
        "val": chosen_texts(corpus, "val", options.optimised_on, options),
        "test": chosen_texts(corpus, "test", options.evaluated_on, options),
    }
    model, tokenizer = trained(config)
    length = len(given) if given else options.length
    refuse_too_long(model, length, options)
    banned = banned_ids(tokenizer, model)

    def job(there: Any, tensors: Tensors) -> tuple[Put, pd.DataFrame]:
        return attacked(there, tensors, options, given)

    tensors = {"banned": banned, "val": texts["val"], "test": texts["test"]}
    put, rows = under_trainer(config.compute, model, tensors, job)
    rows = triggers.judged(_as_text(rows, put, texts, tokenizer))
    (found,) = put["trigger"]
    track.parquet("triggers", rows)
    track.metrics(triggers.metrics(rows) | {"uat/texts": len(texts["test"]), "uat/length": length})
    track.json_result("trigger", _described(put, tokenizer))
    allowed = torch.zeros_like(banned) if given else banned
    for gate in [*_rules(found, texts["test"], length, allowed), *triggers.controls(rows)]:
        track.gate(gate.name, gate.passed, gate.sentence)
    how = "given" if given else f"searched on {options.optimised_on} validation texts"
    track.describe(
        f"A trigger of {length} tokens, {how}, before {len(texts['test'])} test texts: "
        f"{decoded(tokenizer, found)!r} (constraint {config.constraint.kind})."
    )


def uat(config: UatConfig) -> None:
    """The triggers of the baseline and of the arm beside it, each also before the other."""
    asked = pair(config, TriggerConfig)
    records = dict(
        zip(asked, require_all([Question(TRIGGER, one) for one in asked.values()]), strict=True)
    )
    found = {arm: record.json("trigger") for arm, record in records.items()}
    rows = {arm: _rows(record) for arm, record in records.items()}
    if not config.trigger.text:  # one that was given is the same on both
        (left, right) = asked
        for arm, other in ((left, right), (right, left)):
            foreign = tuple(found[other]["trigger"]["ids"])
            crossed = _transferred(asked[arm], rows[arm], arm, foreign)
            rows[arm] = pd.concat([rows[arm], crossed], ignore_index=True)
            gate = triggers.own_not_below_transfer(rows[arm])
            track.gate(f"{arm}/{gate.name}", gate.passed, gate.sentence)
    tests = triggers.paired_tests(*rows.values())
    track.metrics(tests)
    for arm, mine in rows.items():
        numbers = triggers.metrics(mine, f"uat/{arm}")
        track.metrics(numbers)
        page.headline({f"uat/{key}": numbers[f"uat/{arm}/{key}"] for key in COMPARED}, behind(arm))
        if failed := records[arm].failed_gates:
            track.gate(f"{arm}/trigger", False, failed)
    track.parquet("triggers", pd.concat([mine.assign(arm=arm) for arm, mine in rows.items()]))
    track.json_result("uat_results", triggers.results(rows, found, tests, config.trigger))
    with track.file("figures/triggers.png") as path:
        save(trigger_bars(triggers.bars(rows)), path)
    track.describe(
        f"Universal triggers with their controls and transfers: {' against '.join(rows)}."
    )


def _transferred(config: TriggerConfig, rows: pd.DataFrame, arm: str, foreign: Ids) -> pd.DataFrame:
    """The trigger of the other arm before the texts of this one's run, whose clean losses stand."""
    ids = chosen_texts(open_corpus(config), "test", config.trigger.evaluated_on, config.trigger)
    model, tokenizer = trained(config)

    def job(there: Any, tensors: Tensors) -> Losses:
        texts = whole_texts(tensors["ids"])
        return losses_behind(there, texts, [foreign], f"transfer-to-{arm}")

    losses = under_trainer(config.compute, model, {"ids": ids}, job)
    clean = triggers.unseen(rows, "trigger").sort_values("text")["clean_nll"].to_numpy()
    found = frame(whole_texts(ids), "transfer", "test", clean, losses)
    return triggers.judged(_as_text(found, {"transfer": [foreign]}, {"test": ids}, tokenizer))


def _as_text(
    rows: pd.DataFrame, put: Put, texts: Mapping[Split, Tensor], tokenizer: Any
) -> pd.DataFrame:
    """With `round_trip`: whether trigger and text, read as one string, give the ids back.

    `clean_round_trip` says so of the text alone, which may have been cut within a character.
    """
    alone = {split: round_trips(tokenizer, ids).numpy() for split, ids in texts.items()}
    found = []
    for key, some in rows.groupby(["split", "attack", "draw"], sort=False):
        split, attack, draw = cast("tuple[Split, str, int]", key)
        ids, text = texts[split], some["text"]
        before = torch.tensor(put[attack][draw]).expand(len(ids), -1)
        together = round_trips(tokenizer, torch.cat([before, ids], 1)).numpy()
        found.append(some.assign(round_trip=together[text], clean_round_trip=alone[split][text]))
    return pd.concat(found, ignore_index=True)


def _described(put: Put, tokenizer: Any) -> Mapping[str, Any]:
    """Every trigger as ids and as text; the random ones as ids."""
    single = {attack: some[0] for attack, some in put.items() if attack != "random"}
    return {"schema": 1, "random": [list(ids) for ids in put["random"]]} | {
        attack: {"ids": list(ids), "text": decoded(tokenizer, ids)}
        for attack, ids in single.items()
    }


def _rules(found: Ids, ids: Int[Tensor, "N T"], most: int, banned: Tensor) -> Iterator[Gate]:
    """The trigger kept to its length, wrote what it may, and left every target where it was."""
    forbidden = int(banned[list(found)].sum())
    yield Gate(
        "within_length",
        len(found) <= most and not forbidden,
        f"{len(found)} tokens (at most {most}), {forbidden} of them banned",
    )
    task = whole_texts(ids).behind(torch.tensor([found]))
    behind, scored = task.ids[:, len(found) :], task.scored[:, len(found) :]
    gate = gates.fixed_targets(ids.numpy(), behind.numpy(), scored.numpy())
    own = int(task.scored[:, : len(found) + 1].sum())
    same = bool((scored == whole_texts(ids).scored).all())
    yield Gate(
        gate.name,
        gate.passed and same and not own,
        f"{gate.sentence}; {own} tokens of the trigger were",
    )


def _rows(record: Record) -> pd.DataFrame:
    return pd.read_parquet(record.artifact("samples/triggers.parquet"))
