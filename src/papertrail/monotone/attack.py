"""Stage 6, one arm and one method at a time: HotFlip, its controls, and texts made elsewhere.

Axes: N texts, T tokens, n = flips + 1 budgets.
"""

from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from papertrail.attacks import gates
from papertrail.attacks.module import AttackModule, AttackSettings, Method, text_loader
from papertrail.attacks.objectives import Objective, fixed_targets, paper_compat
from papertrail.attacks.tokens import banned_ids
from papertrail.core import progress
from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import narrow
from papertrail.core.training.fit import trainer_options
from papertrail.core.writing import track
from papertrail.data.windows import Corpus
from papertrail.monotone import robustness
from papertrail.monotone.config import ATTACK
from papertrail.monotone.models import open_corpus
from papertrail.monotone.options import Attack
from papertrail.monotone.perplexity import trained
from papertrail.monotone.schemas import AttackConfig, TransferConfig

MADE = "samples/adversarial.npz"
"""Ids of the texts at every budget, (N, n, T), as the array `ids`."""


def attack(config: AttackConfig) -> None:
    """Attack every text with `config.method`; one row per text, draw and budget."""
    options = config.attack
    texts = attack_texts(open_corpus(config), options)
    compat = options.protocol == "paper_compat"
    module = run(
        config, texts, "one_shot" if compat and config.method == "hotflip" else config.method
    )
    made = module.adversarial_ids()
    with track.file(MADE) as path:
        np.savez_compressed(path, ids=made.numpy())
    log(module.records(), options)
    for gate in rules(texts, made, options):
        track.gate(gate.name, gate.passed, gate.sentence)
    track.describe(
        f"{config.method} ({options.protocol}, up to {options.flips} flips, top {options.top_k}) "
        f"on {len(texts)} texts, constraint {config.constraint.kind}."
    )


def transfer(config: TransferConfig) -> None:
    """What HotFlip made on the arm `source`, read by the arm `constraint`."""
    made_by = narrow(config, AttackConfig, constraint=config.source, method="hotflip")
    with np.load(require(ATTACK, made_by).artifact(MADE), allow_pickle=False) as found:
        made = torch.from_numpy(found["ids"])
    texts = attack_texts(open_corpus(config), config.attack)
    module = run(config, texts, "replay", made)
    log(module.records(), config.attack)
    track.describe(
        f"{len(texts)} texts that HotFlip made on {config.source.kind}, read by the model of "
        f"constraint {config.constraint.kind}."
    )


def attack_texts(corpus: Corpus, options: Attack) -> Int[Tensor, "N T"]:
    """The first `tokens` tokens of test documents that are long enough, spread evenly."""
    every = corpus.documents("test", corpus.card.splits["test"].documents)
    enough = [ids[: options.tokens] for ids in every if len(ids) >= options.tokens]
    if len(enough) < options.texts:
        raise BadInput(
            f"attack.texts: only {len(enough)} test documents hold attack.tokens={options.tokens} "
            f"tokens ({options.texts}); lower either, or raise data.megabytes"
        )
    chosen = np.arange(options.texts) * len(enough) // options.texts
    return torch.tensor(np.stack([enough[index] for index in chosen]))


def run(config: Any, texts: Tensor, method: Method, replayed: Tensor | None = None) -> AttackModule:
    """One attack on one model under Lightning's test loop; inference mode would bar gradients."""
    options = config.attack
    settings = AttackSettings(
        method=method,
        flips=options.flips,
        top_k=options.top_k,
        beam=options.beam,
        draws=options.random_draws,
        protocol=options.protocol,
        seed=options.seed,
    )
    model, tokenizer = trained(config)
    # The published attack may write any row of the embedding table, trained or not.
    banned = None if options.protocol == "paper_compat" else banned_ids(tokenizer, model)
    return tested(AttackModule(model, settings, banned, tokenizer), config, texts, replayed)


def tested(
    module: AttackModule, config: Any, texts: Tensor, replayed: Tensor | None = None
) -> AttackModule:
    """`module` after it went over all texts."""
    loader = text_loader(texts, attacked=replayed, batch_size=config.attack.batch)
    with progress.bar("attacking") as report:
        trainer = L.Trainer(
            **trainer_options(config.compute),
            logger=False,
            inference_mode=False,
            callbacks=[_Progress(report)],
        )
        trainer.test(module, loader, verbose=False)
    return module


class _Progress(L.Callback):
    """Tells a bar and the open run how far the texts are."""

    def __init__(self, report: progress.Report) -> None:
        self._report = report

    def on_test_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        done = (batch_idx + 1) / trainer.num_test_batches[0]
        self._report(done)
        track.progress(done)


def log(records: pd.DataFrame, options: Attack) -> None:
    """`log_budgets`, what the attack spent, and its budget of flips."""
    rows = log_budgets(records, options)
    track.metrics(robustness.cost(robustness.at_full_budget(rows), "attack"))
    track.metrics({"attack/flips": options.flips})


def log_budgets(records: pd.DataFrame, options: Attack) -> pd.DataFrame:
    """The judged rows, after they and the rates and rises of every budget went to the open run."""
    rows = robustness.judged(records, options)
    track.parquet("attacks", rows)
    for budget, some in rows.groupby("flips", sort=True):
        summary = robustness.summary(robustness.per_text(some), "attack")
        track.metrics(summary, step=int(str(budget)))
    track.metrics({"attack/texts": rows["text"].nunique()})
    return rows


def rules(
    texts: Int[Tensor, "N T"], made: Int[Tensor, "N n T"], options: Attack
) -> Iterator[gates.Gate]:
    """The attack kept to its budget and, unless it is the published one, left its targets alone."""
    objective = _objective(texts, options)
    clean, attacked = texts.numpy(), made[:, -1].numpy()
    yield gates.within_budget(clean, attacked, objective.attackable.numpy(), options.flips)
    if options.protocol == "fixed_targets":
        yield gates.fixed_targets(clean, attacked, objective.scored.numpy())


def _objective(texts: Tensor, options: Attack) -> Objective:
    return fixed_targets(texts) if options.protocol == "fixed_targets" else paper_compat(texts)
