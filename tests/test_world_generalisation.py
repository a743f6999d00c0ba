"""Normalised improvement, expected and deviation are the published ones, to their rounding."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from world_frames import ENDS, GOLDEN, evaluations, graded, raw, row

from papertrail.core.errors import BadInput
from papertrail.world import generalisation
from papertrail.world.generalisation import (
    STATISTICS,
    deviations,
    distance_cost,
    expected,
    givers,
    improvements,
    matrix,
    normalised_improvement,
    summary,
    takers,
)
from papertrail.world.options import ERROR, EXACT, TASKS

READ_OFF = 0.0012  # numbers read off a figure to two decimals, against averages of three
ERRORS = st.floats(1e-3, 1e7)
SHARES = st.floats(0, 1)
TASK = st.sampled_from(TASKS)


def scores(task: str) -> st.SearchStrategy[float]:
    return SHARES if task in EXACT else ERRORS


# -- one improvement -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_the_untouched_base_has_0_and_the_base_on_real_cities_has_1(task: str):
    before, real = ENDS[task]
    assert normalised_improvement(before, before, real, task) == 0
    assert normalised_improvement(real, before, real, task) == pytest.approx(1)


def test_errors_are_compared_by_their_ratio_and_accuracies_by_their_difference():
    assert normalised_improvement(10.0, 100.0, 1.0, "distance") == pytest.approx(0.5)
    assert normalised_improvement(0.5, 0.2, 0.8, "inside") == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("task", "value", "before", "real", "cut"),
    [
        ("distance", 1000.0, 100.0, 1.0, 0.0),
        ("distance", 1e-4, 100.0, 1.0, 1.5),
        ("compass", 0.1, 0.3, 0.5, 0.0),
        ("compass", 1.0, 0.3, 0.5, 1.5),
    ],
)
def test_an_improvement_lies_between_0_and_one_and_a_half(task, value, before, real, cut):
    assert normalised_improvement(value, before, real, task) == cut


@pytest.mark.parametrize(
    ("task", "value", "before", "real", "known"),
    [
        ("inside", 0.9, 0.6, 0.6, 0.0),  # an accuracy that Atlantis does not lower
        ("inside", 0.9, 0.6, 0.5, 0.0),
        ("inside", 0.4, 0.6, 0.5, 0.0),
        ("angle", 5.0, 4.0, 4.0, 0.0),  # an error that Atlantis does not raise
        ("angle", 4.0, 4.0, 4.0, 0.0),
        ("angle", 3.0, 4.0, 4.0, 1.0),
        ("angle", 3.0, 4.0, 6.0, 1.0),
        ("angle", 0.0, 4.0, 2.0, 1.0),  # no logarithm of the model's error
        ("angle", 0.0, 0.0, 0.0, 0.0),
        ("angle", 1.0, 4.0, 0.0, 0.75),  # nor of the base's
    ],
)
def test_what_the_formula_does_not_cover_follows_the_published_rule(
    task, value, before, real, known
):
    assert normalised_improvement(value, before, real, task) == known


@pytest.mark.parametrize("task", ["distance", "inside"])
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_score_that_is_no_number_is_refused(task: str, odd: float, place: int):
    given_ = [0.5, 0.4, 0.3]
    given_[place] = odd
    with pytest.raises(BadInput, match=f"{task}: a score is not finite"):
        normalised_improvement(*given_, task)


@settings(max_examples=60)
@given(task=TASK, data=st.data())
def test_the_better_raw_score_never_has_the_lower_improvement(task: str, data: st.DataObject):
    one, other, before, real = (data.draw(scores(task)) for _ in range(4))
    better = max(one, other) if task in EXACT else min(one, other)
    found = [float(normalised_improvement(x, before, real, task)) for x in (one, other)]
    assert normalised_improvement(better, before, real, task) == pytest.approx(max(found))


@settings(max_examples=30)
@given(task=TASK, data=st.data())
def test_arrays_are_graded_entry_by_entry(task: str, data: st.DataObject):
    values = np.array(data.draw(st.lists(scores(task), min_size=1, max_size=4)))
    before, real = data.draw(scores(task)), data.draw(scores(task))
    found = normalised_improvement(values, before, real, task)
    each = [float(normalised_improvement(float(v), before, real, task)) for v in values]
    assert found.tolist() == each


# -- frames ----------------------------------------------------------------------------------------


def test_scores_become_the_improvements_that_they_were_made_from():
    found = improvements(evaluations()).set_index(["model", "seed", "task"])["improvement"]
    known = graded().set_index(["model", "seed", "task"])["improvement"]
    assert len(found) == 2 * 28 * 7
    pd.testing.assert_series_equal(found.sort_index(), known.sort_index())


def test_the_baselines_are_those_of_the_same_seed():
    rows = [
        row("base", 1, "atlantis_distance", 100.0), row("base", 1, "distance", 1.0),
        row("base", 2, "atlantis_distance", 1000.0), row("base", 2, "distance", 10.0),
        row("angle", 1, "atlantis_distance", 10.0), row("angle", 2, "atlantis_distance", 10.0),
    ]  # fmt: skip
    found = improvements(pd.DataFrame(rows))
    assert dict(zip(found["seed"], found["improvement"], strict=True)) == pytest.approx(
        {1: 0.5, 2: 1.0}
    )


@pytest.mark.parametrize("name", ["atlantis_angle", "angle"])
def test_without_a_baseline_there_is_no_row_rather_than_a_zero(name: str):
    frame = evaluations(1)
    lacking = frame[(frame["model"] != "base") | (frame["set"] != name)]
    assert set(improvements(lacking)["task"]) == {*TASKS} - {"angle"}


def test_a_model_without_its_own_run_has_no_row_and_its_pairs_no_expectation():
    frame = evaluations(1)
    gone = (frame["model"] == "compass") & (frame["set"] == "atlantis_angle")
    found = improvements(frame[~gone])
    assert len(found[(found["model"] == "compass") & (found["task"] == "angle")]) == 0
    lost = found[expected(found).isna() & found["model"].str.contains("compass")]
    assert set(lost["task"][lost["model"].str.contains("+", regex=False)]) == {"angle"}
    left = deviations(found)
    assert len(left) == 21 * 7 - 6 and left["deviation"].notna().all()


def test_a_run_that_stands_twice_or_has_no_number_is_refused():
    frame = evaluations(1)
    with pytest.raises(BadInput, match="2 rows for"):
        improvements(pd.concat([frame, frame.iloc[:1]]))
    with pytest.raises(BadInput, match="missing values"):
        improvements(frame.assign(**{"score/mean": math.nan}))
    with pytest.raises(BadInput, match="not finite"):
        improvements(frame.assign(**{"score/mean": math.inf}))


def test_other_sets_and_the_base_itself_are_not_graded():
    more = pd.DataFrame([row("angle", 1, "angle", 3.0), row("angle", 1, "multi_task", math.nan)])
    frame = pd.concat([evaluations(1), more], ignore_index=True)
    found = improvements(frame)
    assert len(found) == 28 * 7 and "base" not in set(found["model"])


@settings(max_examples=25)
@given(task=TASK, data=st.data())
def test_expected_is_the_improvement_of_the_better_raw_score_of_the_same_seed(
    task: str, data: st.DataObject
):
    before, real, one, other, third = (data.draw(scores(task)) for _ in range(5))
    told = {"angle": one, "compass": other, "inside": third, "angle+compass": before}
    rows = [row("base", 1, f"atlantis_{task}", before), row("base", 1, task, real)]
    rows += [row(name, 1, f"atlantis_{task}", value) for name, value in told.items()]
    rows += [row(name, 2, f"atlantis_{task}", third) for name in told]  # another seed
    found = improvements(pd.DataFrame(rows))
    reached = float(expected(found)[found["model"] == "angle+compass"].iloc[0])
    better = max(one, other) if task in EXACT else min(one, other)
    assert reached == float(normalised_improvement(better, before, real, task))
    mine = found[found["model"].isin(["angle", "compass"])]
    assert reached == pytest.approx(mine["improvement"].max())  # so matrices will do


def test_an_error_of_exactly_0_is_the_better_one_although_its_improvement_is_1():
    rows = [row("base", 1, "atlantis_angle", 100.0), row("base", 1, "angle", 50.0)]
    told = {"angle": 0.0, "compass": 1.0, "angle+compass": 1.0}
    rows += [row(name, 1, "atlantis_angle", value) for name, value in told.items()]
    found = deviations(improvements(pd.DataFrame(rows)))
    assert found[["expected", "improvement", "deviation"]].to_numpy().tolist() == [[1.0, 1.5, 0.5]]


def test_seeds_are_averaged_after_the_difference():
    frame = graded()
    each = [matrix(deviations(frame[frame["seed"] == seed]), "deviation") for seed in (42, 1)]
    found, means = matrix(deviations(frame), "deviation"), matrix(frame)
    assert np.allclose(found, (each[0] + each[1]) / 2)
    naive = means.loc["angle+distance"] - means.loc[["angle", "distance"]].max()
    assert not np.allclose(found.loc["angle+distance"], naive)


# -- the published numbers -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [42, 1])
def test_the_published_statistics_come_out_of_the_published_matrices(seed: int):
    found = summary(graded(seed))
    assert list(zip(found["what"], found["group"], strict=True)) == list(STATISTICS)
    known = GOLDEN["summary"][str(seed)]
    assert np.allclose(found[["mean", "std"]].iloc[: len(known)], known, atol=READ_OFF, rtol=0)
    assert found["cells"].tolist() == [7, 42, 42, 105, 42, 105, 42, 105]


def test_pairs_with_distance_fall_short_and_the_interval_over_pairs_says_so():
    cells = deviations(graded())
    found = distance_cost(cells)
    means = cells.groupby("with_distance")["deviation"].mean()
    assert found.estimate == pytest.approx(means[True] - means[False])
    assert found.low < found.estimate < found.high < -0.2
    assert distance_cost(cells) == found  # the same draw every time


def test_the_interval_counts_pairs_and_not_cells():
    cells = deviations(graded(1))
    twice = pd.concat([cells, cells.assign(seed=2)])
    assert distance_cost(twice) == distance_cost(cells)
    level = cells.groupby("model")["deviation"].transform("mean")
    assert distance_cost(cells.assign(deviation=level)).low == pytest.approx(
        distance_cost(cells).low
    )
    with pytest.raises(BadInput, match="1 pairs with distance, 15 without"):
        few = cells[~cells["with_distance"] | (cells["model"] == "angle+distance")]
        distance_cost(few)


def test_angle_gives_most_and_distance_least_as_published():
    frame = generalisation.from_matrix(np.array(GOLDEN["mean_of_four_seeds"]), list(TASKS), 0)
    assert list(givers(frame).index) == list(takers(frame).index) == list(TASKS)
    assert np.allclose(givers(frame), GOLDEN["givers"], atol=0.01, rtol=0)
    assert np.allclose(takers(frame), GOLDEN["takers"], atol=0.01, rtol=0)


def test_raw_and_its_inverse_agree_on_both_kinds_of_task():
    for task in (ERROR[0], EXACT[0]):
        assert normalised_improvement(raw(task, 0.3), *ENDS[task], task) == pytest.approx(0.3)
