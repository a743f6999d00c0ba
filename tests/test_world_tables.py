"""The tables of the world study show published numbers from published scores, and name holes."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from world_frames import GOLDEN, SEEDS, evaluations, graded, row, without

from papertrail.tables.catalog import Table, rendering, tables
from papertrail.tables.sheet import Sheet
from papertrail.world import sheets, sheets_models, sheets_study
from papertrail.world.config import model_name
from papertrail.world.generalisation import deviations, distance_cost, matrix
from papertrail.world.options import GUESS, TASKS
from papertrail.world.schemas import StudyConfig
from papertrail.world.tables import TABLES

BY_NAME = {table.name: table for table in TABLES}
SMALL = StudyConfig(
    seeds=(1, 2), specialists=("distance", "angle"), pairs=(("angle", "distance"),)
)  # fmt: skip


def few(*seeds: int) -> pd.DataFrame:
    """Of the published models three specialists and their pairs: enough to see what is refused."""
    frame = evaluations(*seeds)
    tasks = frame["model"].str.split("+").map(set)
    return frame[tasks.map({"base", "distance", "angle", "compass"}.issuperset)]


FEW_PAIRS = ["angle+compass", "angle+distance", "compass+distance"]


def numbers(sheet: Sheet, keys: tuple[str, ...] = TASKS) -> np.ndarray:
    return np.array([[sheet.cell(r, key).number for key in keys] for r in range(len(sheet.rows))])


def place(sheet: Sheet, model: str) -> int:
    return [sheet.cell(r, sheet.columns[0].key).value for r in range(len(sheet.rows))].index(model)


# -- what a table needs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "models", "sets"),
    [
        ("world_generalisation", {"base", "distance", "angle"}, {14, 7}),
        ("world_pairs", {"base", "angle+distance"}, {14, 7}),
        ("world_deviation", {"base", "distance", "angle", "angle+distance"}, {14, 7}),
        ("world_summary", {"base", "distance", "angle", "angle+distance"}, {14, 7}),
        ("world_scores", {"base", "data"}, {14, 1, 0}),
    ],
)
def test_a_table_needs_only_the_sets_that_it_compares(name: str, models: set[str], sets: set[int]):
    needs = pd.DataFrame([dict(need.labels) for need in BY_NAME[name].needs(SMALL)])
    assert set(needs["model"]) == models
    assert set(needs.groupby(["model", "seed"]).size()) <= sets
    assert "multi_task" not in set(needs["set"])
    tuned = needs[~needs["model"].isin(["base", "data"])]
    assert tuned["set"].str.startswith("atlantis_").all()


def test_every_need_asks_what_its_labels_say():
    for need in BY_NAME["world_deviation"].needs(SMALL):
        asked = need.question.config
        told = (model_name(asked.mix.tasks), asked.seed, asked.evaluate.on)
        assert told == tuple(need.labels.values())
    models = [need.labels["model"] for need in BY_NAME["world_probe"].needs(SMALL)]
    assert models == ["base", "distance", "angle", "angle+distance"] * 2
    (whole,) = BY_NAME["world_cka"].needs(SMALL)
    assert whole.question.experiment.name == "world" and whole.question.config == SMALL


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_in_the_catalogue_and_can_be_ordered(table: Table):
    assert tables()[table.name] is table
    assert rendering(table).schema(name=table.name).seeds == (1,)


# -- improvements and deviations -------------------------------------------------------------------


def test_the_tables_of_improvements_are_the_means_of_the_published_matrices():
    frame, known = evaluations(), matrix(graded())
    assert np.allclose(numbers(sheets.generalisation(frame)), known.iloc[:7])
    two = sheets.pairs(frame)
    assert np.allclose(numbers(two), known.iloc[7:])
    assert [cell.value for cell in two.column("model")] == list(known.index[7:])


def test_the_headline_table_is_the_mean_deviation_with_its_spread_over_seeds():
    sheet, cells = sheets.deviation(evaluations()), deviations(graded())
    assert np.allclose(numbers(sheet), matrix(cells, "deviation"), atol=1e-12)
    shown = sheet.cell(place(sheet, "distance+trianglearea"), "perimeter")
    both = cells[(cells["model"] == "distance+trianglearea") & (cells["task"] == "perimeter")]
    assert shown.spread == pytest.approx(both["deviation"].std(ddof=1)) and shown.n == 2
    assert np.allclose(numbers(sheet, ("mean",))[:, 0], numbers(sheet).mean(axis=1))


def test_what_a_specialist_gives_is_its_mean_over_the_six_others():
    sheet = sheets.generalisation(evaluations())
    found = numbers(sheet)
    others = (found.sum(axis=1) - found.diagonal()) / 6
    assert np.allclose(numbers(sheet, ("mean",))[:, 0], others)


def test_the_cells_of_trained_tasks_and_no_others_say_so():
    for draw, count in ((sheets.generalisation, 7), (sheets.deviation, 42)):
        sheet = draw(evaluations(1))
        marked = {
            (row["model"].value, task)
            for row in sheet.rows for task in TASKS if sheets.TRAINED in row[task].note
        }  # fmt: skip
        assert len(marked) == count and all(task in model for model, task in marked)


def test_a_number_names_every_run_that_it_was_computed_from():
    sheet = sheets.deviation(few(1))
    runs = sheet.cell(place(sheet, "angle+distance"), "inside").runs
    asked = [f"{who}/1/atlantis_inside" for who in ("angle+distance", "base", "angle", "distance")]
    assert set(runs) == {*asked, "base/1/inside"}
    alone = sheets.pairs(few(1))
    runs = alone.cell(place(alone, "angle+distance"), "inside").runs
    assert set(runs) == {*asked[:2], "base/1/inside"}


def test_a_missing_base_leaves_the_cells_of_its_task_missing_with_the_reason():
    frame = without(few(1), "base", 1, "inside", why="failed: out of memory")
    for draw in (sheets.generalisation, sheets.pairs, sheets.deviation):
        sheet = draw(frame)
        assert {(c.state, c.note) for c in sheet.column("inside")} == {
            ("missing", "failed: out of memory")
        }
        assert all(cell.state == "ok" for cell in sheet.column("angle"))
        assert all(cell.state == "missing" for cell in sheet.column("mean")[1:3])


def test_a_missing_specialist_is_missing_in_its_row_and_its_pairs_alone():
    frame = without(few(1), "compass", 1, "atlantis_angle", why="never computed")
    one, two, far = (
        draw(frame) for draw in (sheets.generalisation, sheets.pairs, sheets.deviation)
    )
    assert [r for r, c in enumerate(one.column("angle")) if c.state == "missing"] == [2]
    assert all(cell.state == "ok" for cell in two.column("angle"))
    lost = [r["model"].value for r in far.rows if r["angle"].state == "missing"]
    assert lost == ["angle+compass", "compass+distance"]


def test_a_seed_without_its_run_is_counted_and_not_averaged_as_zero():
    frame = without(few(), "angle", 1, "atlantis_inside", why="never computed")
    shown = sheets.generalisation(frame).cell(1, "inside")
    assert shown.number == pytest.approx(GOLDEN["specialists"]["42"][2][4])
    assert "n = 1 of 2 seeds" in shown.note


@pytest.mark.parametrize(
    "changed",
    [
        {"failed_gates": "parses: 3 rows do not"},
        {"score/mean": np.inf, "not_finite": {"score/mean": "inf"}},
    ],
    ids=["gate", "infinite"],
)
def test_a_specialist_that_failed_refuses_the_deviations_built_on_it(changed: dict[str, Any]):
    frame = few(1)
    bad = (frame["model"] == "compass") & (frame["set"] == "atlantis_angle")
    frame = pd.DataFrame(
        [
            one | (changed if hit else {})
            for one, hit in zip(frame.to_dict("records"), bad, strict=True)
        ]
    )
    far = sheets.deviation(frame)
    refused = {r["model"].value for r in far.rows if r["angle"].state == "refused"}
    assert refused == {"angle+compass", "compass+distance"}
    assert all(cell.state == "ok" for cell in sheets.pairs(frame).column("angle"))
    summary = sheets_study.summary(frame)
    assert summary.cell(0, "deviation/transfer").state == "refused"
    assert summary.cell(0, "pairs/transfer").state == "ok"


def test_a_specialist_that_is_not_studied_is_named_where_it_is_missed():
    frame = few(1)
    found = sheets.deviation(frame[frame["model"] != "angle"])
    shown = found.cell(place(found, "angle+compass"), "inside")
    assert shown.state == "missing" and "no angle on atlantis_inside" in shown.note


def test_without_any_run_every_cell_is_missing_and_nothing_breaks():
    frame = few(1).drop(columns=["score/mean", "score/exact"])
    frame = frame.assign(run_id="", why="never computed")
    for draw in (
        sheets.generalisation, sheets.pairs, sheets.deviation, sheets_study.summary,
        sheets_models.scores,
    ):  # fmt: skip
        sheet = draw(frame)
        cells = [r[c.key] for r in sheet.rows for c in sheet.columns[1:] if c.key != "unit"]
        assert cells and all(cell.state == "missing" for cell in cells)


# -- the summary -----------------------------------------------------------------------------------


def test_the_summary_has_the_published_rows():
    sheet = sheets_study.summary(evaluations())
    for r, seed in enumerate(SEEDS):
        assert sheet.cell(r, "seed").value == f"seed {seed}"
        for key, known in zip(
            list(sheets_study.TITLES)[:6], GOLDEN["summary"][str(seed)], strict=True
        ):
            shown = sheet.cell(r, "/".join(key))
            assert [shown.number, shown.spread] == pytest.approx(known, abs=0.0012)
    assert [sheet.cell(0, key).n for key in ("pairs/trained", "deviation/with_distance")] == [
        42
    ] * 2
    over = sheet.cell(2, "deviation/with_distance")
    assert over.number == pytest.approx(np.mean([-0.1145, -0.2679]), abs=1e-3) and over.n == 2


def test_what_distance_costs_comes_with_its_interval_over_pairs():
    sheet = sheets_study.summary(evaluations())
    shown, known = sheet.cell(2, "cost"), distance_cost(deviations(graded()))
    assert (shown.number, shown.low, shown.high) == pytest.approx(tuple(known))
    assert shown.number < sheet.cell(0, "cost").number  # seed 1 is hit harder


def test_one_seed_has_no_row_of_means_and_few_pairs_no_interval():
    sheet = sheets_study.summary(few(1))
    assert len(sheet.rows) == 1
    assert sheet.cell(0, "cost").state == "missing" and "two pairs" in sheet.cell(0, "cost").note
    frame = few(1)
    alone = sheets_study.summary(frame[~frame["model"].isin(FEW_PAIRS)])
    assert alone.cell(0, "specialists/trained").state == "ok"
    assert alone.cell(0, "deviation/trained").state == "missing"


# -- raw scores, probes, CKA -----------------------------------------------------------------------


def test_raw_scores_stand_beside_what_guessing_scores():
    kinds = ("real", "atlantis")
    chance = {GUESS.format(task=task, kind=kind): 0.25 for task in TASKS for kind in kinds}
    data = row("data", 1, "train", np.nan, experiment="world_data", **chance)
    sheet = sheets_models.scores(pd.concat([evaluations(1), pd.DataFrame([data])]))
    assert numbers(sheet, ("real", "atlantis"))[[0, 4]].tolist() == [[4.0, 400.0], [0.97, 0.6]]
    assert set(numbers(sheet, ("real_guess", "atlantis_guess")).flat) == {0.25}


def probes(**changed: Any) -> pd.DataFrame:
    rows = []
    for seed in (1, 2):
        for n, model in enumerate(("base", "angle", "compass", "angle+inside", "angle+distance")):
            found = dict.fromkeys(sheets_models.PROBED, float(n + 10 * seed))
            one = row(model, seed, "", 0.0, experiment="world_represent", **found)
            rows.append(one | changed if model == "compass" and seed == 2 else one)
    return pd.DataFrame(rows)


def test_probes_are_averaged_over_the_models_of_a_kind_before_seeds():
    sheet = sheets_models.probe(probes())
    assert [row["models"].value for row in sheet.rows] == list(sheets_models.KINDS)
    assert [row["count"].number for row in sheet.rows] == [1, 2, 1, 1]
    shown = sheet.column("atlantis/error_mean_degrees")
    assert [cell.number for cell in shown] == [15.0, 16.5, 18.0, 19.0]
    assert {cell.n for cell in shown} == {2} and len(shown[1].runs) == 4


def test_a_model_whose_probe_failed_its_control_refuses_its_kind_alone():
    column = sheets_models.probe(probes(failed_gates="overdetermined")).column("probe/r2_x_test")
    assert [cell.state for cell in column] == ["ok", "refused", "ok", "ok"]


def test_likeness_is_read_whichever_model_is_named_first():
    known = {"cka/base/distance": 0.4, "cka/distance/angle": 0.6, "cka/angle/angle": 0.9}
    frame = pd.DataFrame([row("", 1, "", 0.0, experiment="world", **known)]).drop(
        columns=["model", "seed", "set"]
    )
    sheet = sheets_models.alignment(frame)
    assert [column.key for column in sheet.columns] == ["model", "base", "distance", "angle"]
    assert sheet.cell(1, "angle").number == sheet.cell(2, "distance").number == 0.6
    assert sheet.cell(2, "angle").number == 0.9
    assert sheet.cell(0, "base").note.startswith("with one seed")
    nothing = sheets_models.alignment(
        frame.drop(columns=list(known)).assign(run_id="", why="it failed")
    )
    assert "it failed" in nothing.cell(0, "base").note
