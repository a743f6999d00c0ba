"""Stage 6: HotFlip and its controls on the baseline and the monotone model, on the same texts.

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
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from papertrail.attacks import gates
from papertrail.attacks.module import AttackModule, AttackSettings, text_loader
from papertrail.attacks.objectives import fixed_targets, paper_compat
from papertrail.attacks.tokens import banned_ids
from papertrail.core import progress, track
from papertrail.core.errors import BadInput
from papertrail.core.experiment import Question
from papertrail.core.fit import trainer_options
from papertrail.core.launch import require_all
from papertrail.data.windows import Corpus
from papertrail.monotone import robustness
from papertrail.monotone.config import (
    PERPLEXITY,
    TRAIN,
    Attack,
    HotFlipConfig,
    PerplexityConfig,
    TrainConfig,
    arms,
)
from papertrail.monotone.perplexity import trained
from papertrail.monotone.train import open_corpus
from papertrail.stats.intervals import paired_bootstrap
from papertrail.tables.figures import budget_curves, save

PREPARED = 0.6  # share of the time spent before the attacks begin, for the progress bar


def hotflip(config: HotFlipConfig) -> None:
    """Train and score both arms if need be, attack both, and log rates, rises, tests and gates."""
    options = config.attack
    texts = attack_texts(open_corpus(config), options)  # first: too little text is found early
    _prepare(config)
    found: dict[str, Tensor] = {}
    with progress.bar("attacking") as report:
        records = pd.concat(_attack_both(config, texts, found, report), ignore_index=True)
    rows = robustness.judged(records, options)
    track.parquet("attacks", rows)
    for flips, metrics in robustness.budget_curves(rows):
        track.metrics(metrics, step=flips)
    track.metrics(robustness.paired_tests(rows) | robustness.costs(rows))
    track.metrics({"attack/texts": len(texts), "attack/flips": options.flips})
    track.json_result("hotflip_results", robustness.results(rows, options))
    for arm, gate in [*robustness.controls(rows, options.protocol), *_rules(texts, found, options)]:
        track.gate(f"{arm}/{gate.name}", gate.passed, gate.sentence)
    with track.file("figures/budget_curves.png") as path:
        save(budget_curves(robustness.curve_frame(rows)), path)
    track.describe(
        f"HotFlip ({options.protocol}, up to {options.flips} flips, top {options.top_k}) with "
        f"random, query and transfer controls on {len(texts)} texts, baseline against monotone."
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


def _prepare(config: HotFlipConfig) -> None:
    """Both arms trained and scored, side by side where there are workers; headline numbers."""
    scored = arms(config, PerplexityConfig)
    require_all([Question(TRAIN, one) for one in arms(config, TrainConfig).values()])
    track.progress(PREPARED * 0.9)
    baseline, monotone = require_all([Question(PERPLEXITY, one) for one in scored.values()])
    track.progress(PREPARED)
    split = config.perplexity.split
    documents = [
        pd.read_parquet(one.artifact("samples/documents.parquet")) for one in (baseline, monotone)
    ]
    track.metrics(_gap(*documents))
    for arm, record in zip(scored, (baseline, monotone), strict=True):
        track.metrics({f"{arm}/perplexity": record.metrics[f"{split}/perplexity"]})
    if failed := baseline.failed_gates or monotone.failed_gates:
        track.gate("perplexity", False, failed)


def _gap(baseline: pd.DataFrame, monotone: pd.DataFrame) -> dict[str, float]:
    """Perplexity of the monotone arm over the baseline's - 1, with a BCa interval over documents.

    A document's share in the log ratio is its NLL difference per token of the mean document.
    """
    weight = len(baseline) / baseline["num_tokens"].sum()
    interval = paired_bootstrap(
        monotone["nll"].to_numpy() * weight, baseline["nll"].to_numpy() * weight
    )
    names = ("gap/perplexity", "gap/perplexity/low", "gap/perplexity/high")
    return {name: float(np.expm1(value)) for name, value in zip(names, interval, strict=True)}


def _attack_both(
    config: HotFlipConfig, texts: Tensor, found: dict[str, Tensor], report: progress.Report
) -> Iterator[pd.DataFrame]:
    """Records of every attack on both arms; what HotFlip found on one is replayed on the other.

    `found` receives the adversarial ids of each arm, (N, n, T).
    """
    options = config.attack
    models = {arm: trained(one) for arm, one in arms(config, TrainConfig).items()}
    steps = [(arm, name) for arm in models for name in ("hotflip", "random", "query")]
    for number, (arm, name) in enumerate(steps):
        module = _run(*models[arm], texts, options, name, config)
        if name == "hotflip":
            found[arm] = module.adversarial_ids()
        yield module.records().assign(arm=arm, attack=name)
        done = (number + 1) / (len(steps) + 1)
        report(done)
        track.progress(PREPARED + (1 - PREPARED) * done)
    for arm, other in (("baseline", "monotone"), ("monotone", "baseline")):
        module = _run(*models[arm], texts, options, "replay", config, found[other])
        yield module.records().assign(arm=arm, attack="transfer")


def _rules(
    texts: Tensor, found: dict[str, Tensor], options: Attack
) -> Iterator[tuple[str, gates.Gate]]:
    """(arm, gate): the attack kept to its budget and, unless published, left its targets alone."""
    objective = fixed_targets(texts) if options.protocol == "fixed_targets" else paper_compat(texts)
    clean = texts.numpy()
    for arm, versions in found.items():
        attacked = versions[:, -1].numpy()
        attackable, scored = objective.attackable.numpy(), objective.scored.numpy()
        yield arm, gates.within_budget(clean, attacked, attackable, options.flips)
        if options.protocol == "fixed_targets":
            yield arm, gates.fixed_targets(clean, attacked, scored)


def _run(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Tensor,
    options: Attack,
    method: Any,
    config: HotFlipConfig,
    replayed: Tensor | None = None,
) -> AttackModule:
    """One attack on one model under Lightning's test loop; inference mode would bar gradients."""
    compat = options.protocol == "paper_compat"
    settings = AttackSettings(
        method="one_shot" if compat and method == "hotflip" else method,
        flips=options.flips,
        top_k=options.top_k,
        beam=options.beam,
        draws=options.random_draws,
        protocol=options.protocol,
        seed=options.seed,
    )
    # The published attack may write any row of the embedding table, trained or not.
    banned = None if compat else banned_ids(tokenizer, model)
    module = AttackModule(model, settings, banned, tokenizer)
    trainer = L.Trainer(**trainer_options(config.compute), logger=False, inference_mode=False)
    loader = text_loader(texts, attacked=replayed, batch_size=options.batch)
    trainer.test(module, loader, verbose=False)
    return module
