"""Rounding and rank: no false zero, bold only outside the noise, no sheet that prints nonsense."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sheets import FINITE, FORMATS, PERCENT, sheet_of

from papertrail.tables.sheet import (
    Cell,
    Column,
    Format,
    measured,
    missing,
    refused,
    rounded,
)


@given(x=FINITE, format=FORMATS)
def test_a_printed_number_is_within_half_a_unit_of_its_last_digit_and_never_a_false_zero(x, format):
    shown = Cell(value=x, format=format).shown().value
    factor = 100 if format.percent else 1
    assert bool(float(shown) or "e" in shown) == bool(x)
    assert not re.fullmatch(r"-0(\.0*)?", shown)
    if "e" not in shown and abs(x) < 1e6:
        slack = 1e-9 * (1 + abs(x) * factor)
        assert abs(float(shown) - x * factor) <= 0.5 * 10**-format.digits + slack
    assert shown.startswith("+") == (format.sign and x > 0)


@pytest.mark.parametrize(
    ("x", "format", "printed"),
    [
        (24.3125, Format(digits=2), "24.31"),
        (0.635, PERCENT, "63.5"),
        (-0.0131, Format(digits=3, sign=True), "-0.013"),
        (0.41, Format(digits=3, sign=True), "+0.410"),
        (0.0, Format(sign=True), "0.00"),
        (3e-5, Format(digits=2), "3.00e-5"),
        (8.5e12, Format(digits=1), "8.5e+12"),
        (300_000_000_000, Format(digits=0), "300000000000"),
        (1.7e308, PERCENT, "1.7e+310"),
    ],
)
def test_known_roundings(x, format, printed):
    assert Cell(value=x, format=format).shown().value == printed


def test_ends_of_an_interval_that_round_to_zero_keep_the_notation_of_the_value():
    assert Cell(value=0.25, low=1e-17, high=0.5).shown()[2:] == ("0.00", "0.50")
    assert rounded(-0.001, Format(digits=2)) == "0.00"


def best_of(*cells: Cell, better: str | None = "lower") -> int | None:
    sheet = sheet_of(*cells, better=better)
    return sheet.best(sheet.columns[1])


def test_higher_is_better_turns_the_choice_round():
    low, high = measured(1.0, spread=0.1, n=3), measured(2.0, spread=0.1, n=3)
    assert best_of(low, high, better="higher") == 1
    assert best_of(low, high, better="lower") == 0
    assert best_of(low, high, better=None) is None


def test_overlapping_or_touching_noise_has_no_best():
    assert best_of(measured(1.0, spread=0.6, n=3), measured(2.0, spread=0.5, n=3)) is None
    assert best_of(measured(1.0, spread=0.5, n=3), measured(2.0, spread=0.5, n=3)) is None
    assert best_of(measured(1.0, interval=(0, 2)), measured(3.0, interval=(2, 4))) is None
    assert best_of(measured(1.0, interval=(0, 2)), measured(3.0, interval=(2.5, 4))) == 0


def test_a_third_value_with_wide_noise_also_counts():
    clear = [measured(1.0, spread=0.1, n=3), measured(2.0, spread=0.1, n=3)]
    assert best_of(*clear, measured(3.0, spread=5.0, n=3)) is None


def test_without_noise_information_nobody_is_best():
    known = measured(1.0, spread=0.1, n=3)
    assert best_of(known, measured(9.0)) is None
    assert best_of(measured(1.0), measured(9.0)) is None
    assert best_of(known, measured(9.0, spread=0.0, n=1)) is None  # the std of one run is none


def test_values_printed_alike_have_no_best():
    assert best_of(measured(1.001, spread=1e-6, n=3), measured(1.002, spread=1e-6, n=3)) is None


def test_missing_and_refused_are_never_best_and_leave_one_value_alone_unbold():
    cell = measured(5.0, spread=0.1, n=3)
    assert best_of(missing(), cell, measured(9.0, spread=0.1, n=3), refused("gate")) == 1
    assert best_of(missing(), cell) is None


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 3)), min_size=2, max_size=5))
def test_the_best_is_clear_of_every_other_by_both_their_stds(pairs):
    cells = [measured(mean, spread=std, n=3) for mean, std in pairs]
    best = best_of(*cells)
    for i, (mean, std) in enumerate(pairs):
        assert best is None or i == best or pairs[best][0] + pairs[best][1] < mean - std


def test_what_is_not_finite_is_refused_by_name():
    cell = measured(math.nan, spread=math.inf, n=3, runs=("r",))
    assert (cell.state, cell.runs) == ("refused", ("r",))
    assert cell.footnote == "refused: value is nan; std is inf"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Cell(value=math.nan),
        lambda: Cell(value=None),
        lambda: Cell(value=" \n"),
        lambda: Cell(value=1.0, low=0.0),
        lambda: Cell(value=1.0, low=2.0, high=1.0),
        lambda: refused(" "),
        lambda: sheet_of(measured(1.0), rows=({"y": measured(1.0)},)),
        lambda: sheet_of(columns=(Column(key="x", title=""), Column(key="x.low", title=""))),
    ],
)
def test_a_sheet_that_would_print_nonsense_cannot_be_made(wrong):
    with pytest.raises(AssertionError):
        wrong()
