"""The world study's paper tables: the grid of runs that each one needs. Imports no torch.

How a table is drawn is in `sheets`, `sheets_study` and `sheets_models`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from papertrail.core.question.experiment import Question, narrow
from papertrail.tables.catalog import Need, Table
from papertrail.world import sheets, sheets_models, sheets_study
from papertrail.world.config import (
    BASE,
    HOW_STUDIED,
    WORLD,
    WORLD_DATA,
    study_evaluations,
    study_representations,
)
from papertrail.world.options import ATLANTIS, TASKS
from papertrail.world.schemas import DataConfig, StudyConfig

NUM_TASKS = {"base": 0, "specialists": 1, "pairs": 2}


def evaluations_of(*models: str) -> Callable[[StudyConfig], list[Need]]:
    """The grid of a table over these kinds of models: their sets with Atlantis.

    The base model, which is what every improvement is measured against, answers both kinds.
    """
    wanted = {NUM_TASKS[kind] for kind in ("base", *models)}

    def needs(config: StudyConfig) -> list[Need]:
        return [
            Need(labels, question)
            for labels, question in study_evaluations(config)
            if len(question.config.mix.tasks) in wanted
            and _compared(str(labels["model"]), str(labels["set"]))
        ]

    return needs


def _compared(model: str, name: str) -> bool:
    return name.startswith(ATLANTIS) or (model == BASE and name in TASKS)


def base_and_guesses(config: StudyConfig) -> list[Need]:
    """The base model's sets, and the rows that they are, which know what guessing scores."""
    drawn = Question(WORLD_DATA, narrow(config, DataConfig))
    labels = {"model": sheets_models.DATA, "set": "train"}
    return [*evaluations_of()(config), Need({**labels, "seed": config.seeds[0]}, drawn)]


def representations(config: StudyConfig) -> list[Need]:
    """Every model's representation."""
    return [Need(labels, question) for labels, question in study_representations(config)]


def whole_study(config: StudyConfig) -> list[Need]:
    """The one run that puts all models together."""
    return [Need({"study": "all"}, Question(WORLD, narrow(config, StudyConfig)))]


def _table(name: str, needs: Any, draw: Any) -> Table:
    return Table(
        name=name, study="world", schema=StudyConfig, needs=needs, draw=draw,
        infrastructure=HOW_STUDIED,
    )  # fmt: skip


TABLES = (
    _table("world_generalisation", evaluations_of("specialists"), sheets.generalisation),
    _table("world_pairs", evaluations_of("pairs"), sheets.pairs),
    _table("world_deviation", evaluations_of("specialists", "pairs"), sheets.deviation),
    _table("world_summary", evaluations_of("specialists", "pairs"), sheets_study.summary),
    _table("world_scores", base_and_guesses, sheets_models.scores),
    _table("world_probe", representations, sheets_models.probe),
    _table("world_cka", whole_study, sheets_models.alignment),
)
