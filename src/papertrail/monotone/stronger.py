"""Attacks without a budget of flips on one arm: what a greedy search of few flips may have missed.

Coordinate gradient writes over the whole attackable half; gradient ascent leaves the texts behind
and moves their embeddings. Same texts, targets and definitions of success as HotFlip.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from torch import Tensor

from papertrail.attacks.gates import Gate
from papertrail.attacks.module import AttackModule, AttackSettings, reported_steps
from papertrail.attacks.tokens import banned_ids
from papertrail.core.writing import track
from papertrail.monotone import robustness
from papertrail.monotone.attack import MADE, attack_texts, log_budgets, rules, tested
from papertrail.monotone.models import open_corpus
from papertrail.monotone.perplexity import trained
from papertrail.monotone.schemas import GcgConfig, PgdConfig

COSTS = {
    "evaluations": "evaluations",
    "gradients": "gradients",
    "seconds": "seconds",
    "oom_retries": "num_oom_retries",
}
"""Metric -> column of the rows; summed over texts at the largest budget."""
ROUNDING = 1e-4
"""Nats per token: far above what the order of sums changes, far below any attack."""


def gcg(config: GcgConfig) -> None:
    """Attack every text with greedy coordinate gradient; one row per text and number of moves."""
    options, search = config.attack, config.gcg
    texts = attack_texts(open_corpus(config), options)
    module = _attacked(
        config, texts, method="gcg", steps=search.steps, width=search.width, top_k=search.top_k
    )
    made = module.adversarial_ids()
    with track.file(MADE) as path:
        np.savez_compressed(path, ids=made.numpy(), steps=reported_steps(search.steps))
    rows = _logged(module.records(), config)
    survive = robustness.at_full_budget(rows)["round_trip"].astype(float).mean()
    track.metrics({"attack/survive_as_text": float(survive)})
    # Every position of a text may be moved: its length is the budget.
    _gates(rows, *rules(texts, made, replace(options, flips=options.tokens)))
    track.describe(
        f"Greedy coordinate gradient ({options.protocol}, {search.steps} moves, width "
        f"{search.width}) on {len(texts)} texts, constraint {config.constraint.kind}."
    )


def pgd(config: PgdConfig) -> None:
    """Displace the embeddings of every text; one row per text and radius. There is no text."""
    options, search = config.attack, config.pgd
    texts = attack_texts(open_corpus(config), options)
    module = _attacked(
        config, texts, method="pgd", steps=search.steps, radii=search.radii, norm=search.norm,
        step_size=search.step_size,
    )  # fmt: skip
    rows = _logged(module.records(), config)
    for index, radius in enumerate((0.0, *search.radii)):
        track.metrics({"attack/radius": radius}, step=index)
    _gates(rows, *_of_embeddings(rows))
    track.describe(
        f"Projected gradient ascent in embedding space ({options.protocol}, {search.norm} radii "
        f"{', '.join(f'{radius:g}' for radius in search.radii)} of an embedding, {search.steps} "
        f"steps each) on {len(texts)} texts, constraint {config.constraint.kind}."
    )


def _attacked(
    config: GcgConfig | PgdConfig, texts: Int[Tensor, "N T"], **search: Any
) -> AttackModule:
    """The attack on the arm that `config` is about, after it went over all texts."""
    model, tokenizer = trained(config)
    settings = AttackSettings(protocol=config.attack.protocol, seed=config.attack.seed, **search)
    return tested(
        AttackModule(model, settings, banned_ids(tokenizer, model), tokenizer), config, texts
    )


def _logged(records: pd.DataFrame, config: GcgConfig | PgdConfig) -> pd.DataFrame:
    """`log_budgets`, and what the attack spent at the largest budget."""
    rows = log_budgets(records, config.attack)
    full = robustness.at_full_budget(rows)
    track.metrics({f"attack/{name}": float(full[column].sum()) for name, column in COSTS.items()})
    return rows


def _gates(rows: pd.DataFrame, *more: Gate) -> None:
    for gate in (_never_falls(rows), *more):
        track.gate(gate.name, gate.passed, gate.sentence)


def _never_falls(rows: pd.DataFrame) -> Gate:
    """A larger budget contains every smaller one: no text may come out of it better."""
    curves = rows.pivot(index="text", columns="flips", values="attacked_nll").to_numpy()
    falls = int((np.diff(curves, axis=1) < 0).sum())
    sentence = f"the NLL falls {falls} times over {curves.shape[1]} budgets of {len(curves)} texts"
    return Gate("loss_never_falls_with_budget", falls == 0, sentence)


def _of_embeddings(rows: pd.DataFrame) -> Iterator[Gate]:
    """Displacements kept to their balls and positions, and none at all is the text itself."""
    over, strayed = float((rows["moved"] - rows["radius"]).max()), float(rows["strayed"].max())
    yield Gate(
        "within_radius",
        over <= 1e-5 and strayed == 0,
        f"a token moved at most {over:.1e} beyond its radius, and {strayed:g} where none may move",
    )
    clean = rows[rows["radius"] == 0]
    gap = (clean["attacked_nll"] - clean["clean_nll"]).abs() / clean["num_scored_tokens"]
    yield Gate(
        "radius_zero_is_clean",
        float(gap.max()) <= ROUNDING,
        f"without displacement the NLL differs by at most {gap.max():.1e} nats per token",
    )
