"""Stage 6: an arm beside the baseline under HotFlip and its controls, on the same texts."""

from typing import Any

import numpy as np
import pandas as pd

from papertrail.core.answering.launch import require_all
from papertrail.core.question.experiment import Question
from papertrail.core.reading import page
from papertrail.core.reading.record import Record
from papertrail.core.writing import track
from papertrail.monotone import robustness
from papertrail.monotone.arms import behind, pair
from papertrail.monotone.config import PERPLEXITY, TRAIN, attacks
from papertrail.monotone.robustness import COMPARED
from papertrail.monotone.schemas import HotFlipConfig, PerplexityConfig, TrainConfig
from papertrail.stats.intervals import paired_bootstrap
from papertrail.tables.figures import budget_curves, save


def hotflip(config: HotFlipConfig) -> None:
    """Train, score and attack both arms if need be; log rates, rises, paired tests and gates."""
    options = config.attack
    records = [*_scored(config).values(), *(found := _attacked(config)).values()]
    rows = pd.concat(
        [_rows(record, arm, attack) for (arm, attack), record in found.items()], ignore_index=True
    )
    track.parquet("attacks", rows)
    for flips, metrics in robustness.budget_curves(rows):
        track.metrics(metrics, step=flips)
        for arm in robustness.arms_of(rows):
            own = {f"attack/{k}": metrics[f"attack/{arm}/hotflip/{k}"] for k in COMPARED}
            page.headline(own, behind(arm), step=flips)
    track.metrics(robustness.paired_tests(rows) | robustness.costs(rows))
    track.metrics({"attack/texts": rows["text"].nunique(), "attack/flips": options.flips})
    track.json_result("hotflip_results", robustness.results(rows, options))
    for arm, gate in robustness.controls(rows, options.protocol):
        track.gate(f"{arm}/{gate.name}", gate.passed, gate.sentence)
    if failed := "; ".join(filter(None, (record.failed_gates for record in records))):
        track.gate("built_on", False, failed)
    with track.file("figures/budget_curves.png") as path:
        save(budget_curves(robustness.curve_frame(rows)), path)
    track.describe(
        f"HotFlip ({options.protocol}, up to {options.flips} flips, top {options.top_k}) with "
        f"random, query and transfer controls on {rows['text'].nunique()} texts: "
        f"{' against '.join(rows['arm'].unique())}."
    )


def _scored(config: HotFlipConfig) -> dict[str, Record]:
    """Both arms trained and scored, side by side where there are workers; headline numbers."""
    require_all([Question(TRAIN, one) for one in pair(config, TrainConfig).values()])
    track.progress(0.5)
    asked = pair(config, PerplexityConfig)
    answers = require_all([Question(PERPLEXITY, one) for one in asked.values()])
    scored = dict(zip(asked, answers, strict=True))
    track.progress(0.6)
    split = config.perplexity.split
    for arm, record in scored.items():
        value = record.metrics[f"{split}/perplexity"]
        page.headline({f"{split}/perplexity": value}, behind(arm))
        track.metrics({f"{arm}/perplexity": value})
    price = gap(*(documents(record) for record in scored.values()))
    track.metrics(price)
    page.headline({"gap/perplexity": price["gap/perplexity"]})
    return scored


def _attacked(config: HotFlipConfig) -> dict[tuple[str, str], Record]:
    """(arm, attack) -> its run; transfers come last, since HotFlip makes their texts."""
    asked = attacks(config)
    own = {key: question for key, question in asked.items() if key[1] != "transfer"}
    crossed = {key: question for key, question in asked.items() if key not in own}
    found: dict[tuple[str, str], Record] = {}
    for questions, done in ((own, 0.9), (crossed, 1.0)):
        found |= zip(questions, require_all([*questions.values()]), strict=True)
        track.progress(done)
    return found


def _rows(record: Record, arm: str, attack: str) -> pd.DataFrame:
    found = pd.read_parquet(record.artifact("samples/attacks.parquet"))
    return found.assign(arm=arm, attack=attack)


def documents(record: Record) -> pd.DataFrame:
    """One row per scored document of a perplexity run."""
    return pd.read_parquet(record.artifact("samples/documents.parquet"))


def gap(baseline: pd.DataFrame, monotone: pd.DataFrame) -> dict[str, float]:
    """Perplexity of the monotone arm over the baseline's - 1, with a BCa interval over documents.

    A document's share in the log ratio is its NLL difference per token of the mean document.
    """
    weight = len(baseline) / baseline["num_tokens"].sum()
    interval: Any = paired_bootstrap(
        monotone["nll"].to_numpy() * weight, baseline["nll"].to_numpy() * weight
    )
    names = ("gap/perplexity", "gap/perplexity/low", "gap/perplexity/high")
    return {name: float(np.expm1(value)) for name, value in zip(names, interval, strict=True)}
