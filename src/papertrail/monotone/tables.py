"""The study's paper tables: the grid of runs that each one needs. Imports no torch.

How a table is drawn is in `sheets` and `sheets_attacks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from papertrail.core.question.compute import INFRASTRUCTURE
from papertrail.core.question.experiment import Experiment, Question, narrow
from papertrail.monotone import sheets, sheets_attacks, sheets_models, sheets_study
from papertrail.monotone.arms import arm
from papertrail.monotone.config import (
    ATTACK,
    BENCHMARKS,
    GCG,
    HOTFLIP,
    MONOTONE,
    NEUTRAL_LOADED,
    PERPLEXITY,
    PGD,
    STATISTICS,
    TRAIN,
    TRANSFER,
    UAT,
    data_digests,
    study_runs,
)
from papertrail.monotone.schemas import (
    AttackConfig,
    HotFlipConfig,
    StudyConfig,
    TrainConfig,
    TransferConfig,
)
from papertrail.tables.catalog import Need, Table

if TYPE_CHECKING:
    from papertrail.core.reading.record import Record


def runs_of(*experiments: Experiment) -> Callable[[StudyConfig], list[Need]]:
    """The grid of a table over arms and seeds: the runs of these experiments."""
    names = [experiment.name for experiment in experiments]
    return lambda config: [
        Need(labels, question)
        for labels, question in study_runs(config)
        if question.experiment.name in names
    ]


def summary_runs(config: StudyConfig) -> list[Need]:
    """Trainings besides: they count the parameters."""
    trained = [
        Need(need.labels, Question(TRAIN, narrow(need.question.config, TrainConfig)))
        for need in runs_of(PERPLEXITY)(config)
    ]
    return [*trained, *runs_of(PERPLEXITY, HOTFLIP)(config)]


def transfer_runs(config: StudyConfig) -> list[Need]:
    """Every arm's adversarial texts before every arm; its own are those of the attack itself."""
    return [
        Need(
            {"source": source, "arm": target, "seed": seed}, _crossed(config, source, target, seed)
        )
        for seed in config.seeds
        for source in config.arms
        for target in config.arms
    ]


def _crossed(config: StudyConfig, source: str, target: str, seed: int) -> Question:
    made_on, read_by = (arm(name, config.constraint) for name in (source, target))
    if source == target:
        own = narrow(config, AttackConfig, seed=seed, constraint=read_by, method="hotflip")
        return Question(ATTACK, own)
    crossed = narrow(config, TransferConfig, seed=seed, constraint=read_by, source=made_on)
    return Question(TRANSFER, crossed)


def whole_study(config: StudyConfig) -> list[Need]:
    """The one run that puts all seeds together."""
    return [Need({"study": "all"}, Question(MONOTONE, narrow(config, StudyConfig)))]


def show(record: Record, config: HotFlipConfig) -> None:
    """After `-e hotflip`: the paper's table, drawn by querying the runs behind it."""
    from papertrail.tables.order import ordered
    from papertrail.tables.order import show as show_table

    asked = narrow(config, StudyConfig, seeds=(config.seed,))
    show_table(ordered(ATTACK_SUCCESS, asked), config)


def _table(name: str, needs: Any, draw: Any) -> Table:
    return Table(
        name=name, study="monotone", schema=StudyConfig, needs=needs, draw=draw,
        infrastructure=INFRASTRUCTURE, neutral=NEUTRAL_LOADED, data=data_digests,
    )  # fmt: skip


PERPLEXITY_GAP = _table("perplexity_gap", runs_of(PERPLEXITY), sheets.perplexity_gap)
ATTACK_SUCCESS = _table("attack_success", runs_of(PERPLEXITY, HOTFLIP), sheets.attack_success)
SUMMARY = _table("summary", summary_runs, sheets.summary)
ALL_ATTACKS = _table(
    "all_attacks", runs_of(PERPLEXITY, HOTFLIP, GCG, PGD, UAT), sheets_attacks.all_attacks
)
TRANSFER_MATRIX = _table("transfer_matrix", transfer_runs, sheets_attacks.transfer_matrix)
BENCHMARK_SCORES = _table("benchmarks", runs_of(BENCHMARKS), sheets_models.benchmarks)
WEIGHTS = _table("weights", runs_of(STATISTICS), sheets_models.weights)
COMPARISONS = _table("comparisons", whole_study, sheets_study.comparisons)
TABLES = (
    PERPLEXITY_GAP, ATTACK_SUCCESS, SUMMARY, ALL_ATTACKS, TRANSFER_MATRIX, BENCHMARK_SCORES,
    WEIGHTS, COMPARISONS,
)  # fmt: skip
