"""The whole study: every model, its fifteen evaluations and its map, and what they say together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from papertrail.core.answering import launch
from papertrail.core.question.experiment import Question, narrow
from papertrail.core.reading import page
from papertrail.core.reading.record import Record
from papertrail.core.writing import track
from papertrail.tables import grid, render
from papertrail.tables.figures import save
from papertrail.world import figures, figures_study, results, tables, together
from papertrail.world.config import (
    BASE,
    WORLD_DATA,
    study_evaluations,
    study_representations,
    study_trainings,
)
from papertrail.world.figures_study import Reading
from papertrail.world.generalisation import improvements
from papertrail.world.likeness import Vectors, likeness
from papertrail.world.options import MULTI
from papertrail.world.schemas import DataConfig, StudyConfig

if TYPE_CHECKING:
    import matplotlib.figure

Asked = Sequence[tuple[dict[str, str | int], Question]]
Answered = list[tuple[dict[str, str | int], Record]]
Readings = Mapping[tuple[str, int], Reading]
DRAWN = ("world_summary", "world_deviation", "world_generalisation", "world_scores", "world_probe")
"""Tables of summary.txt, the headline first."""
WIDTH = 110  # characters of summary.txt


def study(config: StudyConfig) -> None:
    """Compute what is missing, stage by stage; then log matrices, figures and tables."""
    data, evaluated, represented = _stages(config)
    evaluations = _frame("evaluations", evaluated)
    placed = _frame("representations", represented)
    readings = {_name(labels): _reading(record) for labels, record in represented}
    cities = pd.read_parquet(data.artifact("cities.parquet"))
    graded, alike = improvements(evaluations), likeness(_vectors(readings, cities))
    track.json_result("world_results", results.tree(graded, alike))
    page.headline(results.headline(graded))
    track.metrics(results.alike_metrics(alike))
    for model, errors in results.compared(placed).items():
        page.headline(errors, of=model)
    for folder, part in _by_seed(evaluations):
        _draw(figures.of_evaluations(part), folder)
    unit = config.world.unit
    _draw(figures_study.of_representations(cities, unit, readings, alike, graded))
    track.run().text("results/summary.txt", _tables(config))
    track.describe(
        f"The world study: base, {len(config.specialists)} specialists and {len(config.pairs)} "
        f"pairs under seeds {', '.join(map(str, config.seeds))}."
    )


def show(record: Record, config: StudyConfig) -> None:
    """After `-e world`: the summary that the run keeps, and where its figures are."""
    print(record.artifact("results/summary.txt").read_text(encoding="utf-8"))
    print(f"figures: {record.artifact('figures')}")


# -- the runs --------------------------------------------------------------------------------------


def _stages(config: StudyConfig) -> tuple[Record, Answered, Answered]:
    """Data, evaluations, representations. What many build on comes first: nobody has to wait."""
    data = _require([({}, Question(WORLD_DATA, narrow(config, DataConfig)))], 0.01)
    trained = list(study_trainings(config))
    _require([one for one in trained if one[0]["model"] == BASE], 0.2)
    tuned = [one for one in trained if one[0]["model"] != BASE]
    if config.stack > 1:
        together.answer([question for _, question in tuned], config.stack, track.run().store)
    _require(tuned, 0.7)
    asked = list(study_evaluations(config))
    first = _require([one for one in asked if one[0]["set"] != MULTI], 0.9)
    drawn = _require([one for one in asked if one[0]["set"] == MULTI], 0.95)
    represented = _require(list(study_representations(config)), 0.98)
    return data[0][1], [*first, *drawn], represented


def _require(asked: Asked, share: float) -> Answered:
    """The runs of a stage, behind which `share` of the study is done."""
    records = launch.require_all([question for _, question in asked])
    track.progress(share)
    return [(labels, record) for (labels, _), record in zip(asked, records, strict=True)]


def _frame(name: str, answered: Answered) -> pd.DataFrame:
    """Labels, run and metrics of every run, kept as a table beside the results."""
    rows = [{**labels, "run_id": record.run_id, **record.metrics} for labels, record in answered]
    found = pd.DataFrame(rows)
    track.parquet(name, found)
    return found


def _name(labels: Mapping[str, str | int]) -> tuple[str, int]:
    return str(labels["model"]), int(labels["seed"])


def _reading(record: Record) -> Reading:
    with np.load(record.artifact("representations.npz")) as kept:
        city, vectors = kept["city"], kept["vectors"]
    return Reading(city, vectors, pd.read_parquet(record.artifact("samples/cities.parquet")))


def _vectors(readings: Readings, cities: pd.DataFrame) -> dict[tuple[str, int], Vectors]:
    """Vectors of the real cities, which are the same for all models."""
    real = cities["real"].to_numpy(bool)
    return {name: one.vectors[real[one.city]].astype(np.float64) for name, one in readings.items()}


# -- for people ------------------------------------------------------------------------------------


def _by_seed(evaluations: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """All evaluations, and where there are several seeds, those of each; with their folder."""
    yield "figures", evaluations
    if evaluations["seed"].nunique() > 1:
        for seed, part in evaluations.groupby("seed", sort=False):
            yield f"figures/seed_{seed}", part


def _draw(drawn: "Mapping[str, matplotlib.figure.Figure]", folder: str = "figures") -> None:
    """Every figure as PNG for the browser and PDF for the paper."""
    for name, figure in drawn.items():
        for suffix in ("png", "pdf"):
            with track.file(f"{folder}/{name}.{suffix}") as path:
                save(figure, path)


def _tables(config: StudyConfig) -> str:
    """The study's tables as text, from the runs that stand now."""
    store, known = track.run().store, {table.name: table for table in tables.TABLES}
    drawn = (known[name] for name in DRAWN)
    sheets = (table.draw(grid.tidy(grid.plan(table, config, store))) for table in drawn)
    return "\n".join(render.to_text(sheet, WIDTH) for sheet in sheets) + "\n"
