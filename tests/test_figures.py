"""Figures: what is drawn is what the frame says, every line is named, nothing global changes."""

from itertools import pairwise
from pathlib import Path

import matplotlib
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from papertrail.core.errors import BadInput
from papertrail.tables.figures import (
    LABEL_GAP,
    budget_curves,
    heatmap,
    save,
    spread_out,
    training_curves,
)

FLIPS = [1, 2, 3]


def budgets(models: tuple[str, ...] = ("baseline", "monotone")) -> pd.DataFrame:
    rows = [
        {"model": model, "attack": attack, "num_flips": flips, "success": rate * flips,
         "low": rate * flips / 2, "high": rate * flips * 1.5}
        for model in models
        for attack, rate in (("HotFlip", 0.2), ("random flips", 0.01))
        for flips in FLIPS
    ]  # fmt: skip
    return pd.DataFrame(rows)


def losses() -> pd.DataFrame:
    rows = [
        {
            "model": "baseline",
            "split": "train",
            "seed": seed,
            "step": step,
            "value": 4.0 - step + seed,
        }
        for seed in (0, 1, 2)
        for step in (0, 1, 2)
    ]
    return pd.DataFrame(rows)


def test_every_model_and_attack_has_its_line_its_band_and_its_name():
    (axes,) = budget_curves(budgets().sample(frac=1, random_state=0)).axes
    drawn = {tuple(line.get_ydata().round(9)) for line in axes.lines}
    assert drawn == {(0.2, 0.4, 0.6), (0.01, 0.02, 0.03)}
    assert all(line.get_xdata().tolist() == FLIPS for line in axes.lines)
    assert (len(axes.lines), len(axes.collections)) == (4, 4)
    names = {text.get_text() for text in axes.texts}
    assert names == {
        f"{m}, {a}" for m in ("baseline", "monotone") for a in ("HotFlip", "random flips")
    }


def test_no_two_lines_look_alike_without_colour():
    (axes,) = budget_curves(budgets()).axes
    looks = {
        (line.get_linestyle(), line.get_marker(), line.get_markerfacecolor() == "white")
        for line in axes.lines
    }
    assert len(looks) == len(axes.lines)


def test_rates_start_at_zero_and_no_band_is_cut_off():
    (axes,) = budget_curves(budgets()).axes
    low, high = axes.get_ylim()
    assert low == 0 and budgets()["high"].max() <= high <= 1


def test_seeds_become_their_mean_and_range():
    (axes,) = training_curves(losses()).axes
    assert axes.lines[0].get_ydata().tolist() == [5, 4, 3]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (2, 6)


def test_a_dollar_in_a_name_is_a_dollar(tmp_path: Path):
    save(budget_curves(budgets(models=(r"$\frac$", "b"))), tmp_path / "dollar.png")


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_the_same_frame_gives_the_same_bytes(tmp_path: Path, suffix: str):
    one, two = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
    for path in (one, two):
        save(budget_curves(budgets(), title="Success"), path)
    assert one.read_bytes() == two.read_bytes()


def test_the_callers_matplotlib_is_left_as_it_was(tmp_path: Path):
    before = dict(matplotlib.rcParams)
    save(training_curves(losses()), tmp_path / "x.png")
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (budgets().drop(columns="low"), "no column .'low'."),
        (budgets().iloc[:0], "no rows to draw"),
        (budgets().assign(high=float("nan")), "missing values in .'high'."),
        (pd.concat([budgets(), budgets()]), "rows for {'model': 'baseline'"),
    ],
)
def test_a_frame_that_cannot_be_drawn_is_refused_by_name(frame: pd.DataFrame, message: str):
    with pytest.raises(BadInput, match=message):
        budget_curves(frame)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_labels_keep_their_order_and_distance_and_move_only_if_they_must(heights):
    places = spread_out(heights, LABEL_GAP)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    assert all(places[b] - places[a] > LABEL_GAP - 1e-9 for a, b in pairwise(order))
    apart = all(heights[b] - heights[a] >= LABEL_GAP for a, b in pairwise(order))
    if apart:
        assert places == pytest.approx(heights)
    assert sum(places) == pytest.approx(sum(heights))  # pushed both ways alike


def matrix() -> pd.DataFrame:
    names = ["baseline", "monotone", "sign_frozen"]
    rows = [(a, b, (n + 2 * m) / 6) for n, a in enumerate(names) for m, b in enumerate(names)]
    return pd.DataFrame(rows[:-1], columns=["row", "column", "value"])


def test_every_field_of_a_heatmap_carries_its_number_and_a_hole_carries_none():
    (axes,) = heatmap(matrix(), xlabel="Read by", ylabel="Made on").axes
    written = {text.get_position(): text.get_text() for text in axes.texts}
    assert written[2, 0] == "67%" and written[0, 2] == "33%"  # (column, row)
    assert (2, 2) not in written and len(written) == 8
    assert [label.get_text() for label in axes.get_yticklabels()][1] == "monotone"


def test_numbers_on_dark_fields_are_white():
    (axes,) = heatmap(matrix()).axes
    colours = {text.get_text(): text.get_color() for text in axes.texts}
    assert colours["0%"] == "white" and colours["83%"] == "black"
