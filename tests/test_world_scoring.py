"""The published rules for what an answer is and how far it is from the truth."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from papertrail.world.options import EXACT, TASKS, World
from papertrail.world.scoring import failure, number, scored, summary, word

PAPER = World(unit=0.1, spelling="characters")
PUBLISHED = {
    "distance": r"=(\d+)", "trianglearea": r"=(\d+)", "angle": r"\)=(\d+)", "perimeter": r"\)=(\d+)"
}  # fmt: skip


def score(task, said, truth, world=PAPER):
    scores, parsed = scored(task, [f"q(c_1,c_2)={said}"], [f"q(c_1,c_2)={truth}"], world)
    return scores[0], parsed[0]


@pytest.mark.parametrize("task", PUBLISHED)
@settings(max_examples=200, deadline=None)
@given(said=st.text("0123456789=)(c,TRUE ", max_size=8))
def test_a_number_is_found_where_the_published_expressions_find_it(task, said):
    text = f"q(c_0001,c_0002)={said}"
    found = re.search(PUBLISHED[task], text)
    assert number(task, text) == (int(found[1]) if found else None)


@pytest.mark.parametrize("task", PUBLISHED)
@pytest.mark.parametrize(
    ("said", "found"), [("769", 769), ("12c_0001", 12), ("", None), ("TRUE", None), ("0", 0)]
)
def test_words_spell_a_question_without_brackets(task, said, found):
    assert number(task, f"{task} c_0865 c_4879={said}") == found


def test_a_second_equals_sign_counts_where_the_published_expression_wants_no_bracket():
    found = {task: number(task, f"{task} c_0865 c_4879==5") for task in PUBLISHED}
    assert found == {"distance": 5, "trianglearea": 5, "angle": None, "perimeter": None}


def test_failures_cost_what_was_published_at_the_published_unit():
    assert failure("distance", PAPER) == pytest.approx(4024.9, abs=0.05)
    assert [failure(task, PAPER) for task in ("trianglearea", "angle", "perimeter")] == (
        [3_240_000, 180, 20_000]
    )
    assert {failure(task, PAPER) for task in EXACT} == {0}


def test_failures_shrink_with_the_map_but_an_angle_does_not():
    coarse = World(unit=2.0)
    shrunk = {task: failure(task, PAPER) / failure(task, coarse) for task in PUBLISHED}
    assert shrunk == pytest.approx(
        {"distance": 20, "trianglearea": 400, "angle": 1, "perimeter": 20}
    )


def test_an_error_is_absolute_and_has_no_cap():
    assert score("distance", "700", "769") == (69, True)
    assert score("distance", "800", "769") == (31, True)
    assert score("angle", "9" * 30, "90") == (pytest.approx(1e30), True)


def test_what_is_no_number_scores_the_failure_value_and_is_counted():
    assert score("perimeter", "TRUE", "90") == (20_000, False)
    assert score("perimeter", "", "90") == (20_000, False)


def test_a_word_is_right_or_wrong_whatever_its_case():
    assert score("inside", "TRUE", "TRUE") == (1, True)
    assert score("inside", "true", "TRUE") == (1, True)
    assert score("inside", "x=TRUE", "TRUE") == (1, True)
    assert score("crossing", "FALSE", "TRUE") == (0, True)
    assert score("compass", "NW", "N") == (0, True)
    assert score("compass", "NW7", "NW") == (0, False)
    assert score("inside", "", "TRUE") == (0, False)
    assert word("inside(c_1)=T R u E") == "TRUE"


@pytest.mark.parametrize("task", TASKS)
def test_the_truth_is_exactly_right(task):
    answers = (
        ["NE", "S"] if task == "compass" else ["TRUE", "FALSE"] if task in EXACT else ["7", "0"]
    )
    rows = [f"{task} c_0001 c_0002={answer}" for answer in answers]
    scores, parsed = scored(task, rows, rows, PAPER)
    assert parsed.all()
    assert summary(task, scores)["exact"] == 1


def test_a_summary_names_mean_median_population_deviation_and_extremes():
    found = summary("distance", np.array([0.0, 0.0, 3.0, 5.0]))
    spread = np.sqrt((2**2 + 2**2 + 1**2 + 3**2) / 4)
    assert found == pytest.approx(
        {"mean": 2, "median": 1.5, "std": spread, "min": 0, "max": 5, "exact": 0.5}
    )
    assert summary("inside", np.array([1.0, 0.0, 1.0, 1.0]))["exact"] == 0.75
