"""Figures of the world study: what is drawn is what the frame says, and titles tell its numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from scipy import stats
from world_frames import evaluations, graded

from papertrail.core.errors import BadInput
from papertrail.tables.figures import save
from papertrail.world.figures import (
    BINS,
    DARK,
    DEVIATION,
    IMPROVEMENT,
    WITH,
    deviation_histogram,
    deviation_map,
    luminance,
    matrix_figure,
    of_evaluations,
    pairs_map,
    shortfall,
    specialists_map,
)
from papertrail.world.figures_maps import (
    COLOURS,
    PANELS,
    component_panels,
    likeness_map,
    likeness_scatter,
    misplaced,
    probe_errors,
    world_map,
)
from papertrail.world.figures_study import MODES, Reading, examples, of_representations
from papertrail.world.generalisation import deviations, matrix
from papertrail.world.likeness import against_improvement, explained, likeness
from papertrail.world.options import TASKS
from papertrail.world.probes import cka
from papertrail.world.regions import REGIONS

RNG = np.random.default_rng(0)
PLACES = RNG.uniform(-80, 80, (30, 2)).round()
REAL = np.arange(30) < 24
CITIES = pd.DataFrame(
    {"x": PLACES[:, 0], "y": PLACES[:, 1], "real": REAL,
     "region": np.where(REAL, np.where(PLACES[:, 0] > 0, "China", "Africa"), "Atlantis")}
)  # fmt: skip


def fields(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def title(figure: Any) -> str:
    return figure._suptitle.get_text()


def probed(off: float, model: str = "angle+distance") -> pd.DataFrame:
    """Every city is read `off` units east of its place."""
    groups = np.where(REAL, np.where(np.arange(30) % 2, "heldout", "train"), "atlantis")
    return CITIES.assign(
        predicted_x=CITIES["x"] + off, predicted_y=CITIES["y"], error=off, group=groups, model=model
    )


# -- matrices --------------------------------------------------------------------------------------


def test_every_field_says_its_number_in_the_order_of_the_models():
    for draw, rows in ((specialists_map, slice(0, 7)), (pairs_map, slice(7, 28))):
        known = matrix(graded()).iloc[rows]
        assert fields(draw(graded())) == [f"{value:.2f}" for value in known.to_numpy().flat]


def test_the_title_tells_the_means_of_the_summary():
    assert (
        title(specialists_map(graded(42)))
        == "Specialists gain 0.80 on their own task, 0.45 on others"
    )
    assert title(pairs_map(graded(42))) == "Pairs gain 0.90 on their own tasks, 0.59 on others"
    assert title(deviation_map(graded(42))) == (
        "Pairs with distance fall short by 0.11, those without gain 0.09"
    )


def test_a_finding_of_the_other_sign_or_of_one_side_alone_is_told_as_such():
    cells = deviations(graded(42))
    upside_down = cells.assign(deviation=-cells["deviation"])
    assert shortfall(upside_down) == (
        "Pairs with distance gain 0.11, those without fall short by 0.09"
    )
    sizes = np.where(cells["with_distance"], 0.2, 0.1)
    worse, better = (shortfall(cells.assign(deviation=sign * sizes)) for sign in (-1, 1))
    assert worse == "Pairs with distance fall short by 0.20, those without by 0.10"
    assert better == "Pairs with distance gain 0.20, those without 0.10"
    assert shortfall(cells[cells["with_distance"]]) == "Pairs with distance fall short by 0.11"


def test_pairs_with_distance_come_first_and_a_line_parts_them():
    axes = deviation_map(graded()).axes[0]
    rows = [label.get_text() for label in axes.get_yticklabels()]
    assert [("distance" in row) for row in rows] == [True] * 6 + [False] * 15
    (line,) = axes.lines
    assert set(line.get_ydata()) == {5.5}
    first = matrix(deviations(graded()), "deviation").loc["distance+trianglearea", "perimeter"]
    assert fields(deviation_map(graded()))[5] == f"{first:+.2f}".replace("-", "\N{MINUS SIGN}")


def test_exactly_the_trained_fields_are_framed():
    def framed(figure: Any) -> set[tuple[int, int]]:
        boxes = figure.axes[0].patches
        return {(round(b.get_y() + 0.45), round(b.get_x() + 0.47)) for b in boxes}

    assert framed(specialists_map(graded())) == {(n, n) for n in range(7)}
    models = list(dict.fromkeys(graded()["model"]))[7:]
    halves = [model.split("+") for model in models]
    trained = {(y, x) for y in range(21) for x, task in enumerate(TASKS) if task in halves[y]}
    assert framed(pairs_map(graded())) == trained and len(trained) == 42


def test_what_was_not_computed_is_a_dash_and_no_zero():
    values = pd.DataFrame([[0.0, np.nan], [-0.001, 1.2]], index=["a", "b"], columns=["x", "y"])
    assert fields(matrix_figure(values, DEVIATION, "")) == ["0.00", "–", "0.00", "+1.20"]


@settings(max_examples=10, deadline=None)
@given(value=st.floats(-0.6, 1.6), scale=st.sampled_from([IMPROVEMENT, DEVIATION]))
def test_numbers_are_white_on_dark_fields_and_black_on_light_ones(value: float, scale: Any):
    figure = matrix_figure(pd.DataFrame([[value]], index=["a"], columns=["x"]), scale, "")
    (text,) = figure.axes[0].texts
    image = figure.axes[0].images[0]
    shade = image.cmap(image.norm(value))
    assert image.get_clim() == (scale.low, scale.high)
    assert text.get_color() == ("white" if luminance(shade) < DARK else "black")


def test_luminance_runs_from_black_to_white_and_green_is_the_brightest_channel():
    assert luminance((0.0, 0.0, 0.0, 1.0)) == 0
    assert luminance((1.0, 1.0, 1.0, 1.0)) == pytest.approx(1)
    assert (
        max("rgb", key=lambda c: luminance(to_rgba({"r": "red", "g": "lime", "b": "blue"}[c])))
        == "g"
    )


def test_with_many_columns_there_are_no_numbers_on_top_of_each_other():
    names = [f"m{n}" for n in range(29)]
    crowded = pd.DataFrame(np.eye(29), index=names, columns=names)
    assert fields(likeness_map(crowded)) == []
    assert len(fields(likeness_map(crowded.iloc[:8, :8]))) == 64


# -- the histogram of deviations -------------------------------------------------------------------


def test_the_histogram_holds_every_cell_also_those_beyond_its_ends():
    cells = graded()
    worse = cells.assign(improvement=cells["improvement"].where(~cells["with_distance"], 0.0))
    figure = deviation_histogram(worse)
    axes = figure.axes[0]
    ends = {(patch.get_path().vertices[:, 0].min(), patch.get_path().vertices[:, 0].max())
            for patch in axes.patches}  # fmt: skip
    assert all(BINS[0] <= low and high <= BINS[-1] for low, high in ends)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["Pairs without distance (210 cells)", "Pairs with distance (84 cells)"]
    for patch in axes.patches:  # a step polygon: its upper edge holds each bin's share twice
        edge = patch.get_path().vertices[1 : 2 * (len(BINS) - 1) + 1 : 2, 1]
        assert edge.sum() == pytest.approx(1)


def test_dashed_lines_stand_at_the_two_means():
    cells = deviations(graded())
    means = cells.groupby("with_distance")["deviation"].mean()
    dashed = [
        line for line in deviation_histogram(graded()).axes[0].lines if line.get_linestyle() == "--"
    ]
    found = {line.get_color() == WITH: line.get_xdata()[0] for line in dashed}
    assert found == pytest.approx(means.to_dict())


def test_nothing_to_draw_is_refused_and_missing_kinds_are_left_out():
    alone = evaluations(1)
    alone = alone[~alone["model"].str.contains("+", regex=False)]
    assert set(of_evaluations(alone)) == {"generalisation"}
    assert set(of_evaluations(evaluations(1))) == {
        "generalisation", "pairs", "deviation", "deviation_histogram"
    }  # fmt: skip
    singles = graded()[~graded()["model"].str.contains("+", regex=False)]
    for draw in (deviation_map, deviation_histogram, pairs_map):
        with pytest.raises(BadInput, match="no rows"):
            draw(singles)


# -- maps and probes -------------------------------------------------------------------------------


def test_the_map_shows_every_real_city_and_atlantis_where_it_is_and_where_it_is_read():
    figure = world_map(CITIES, probed(5.0), 2.0, "angle + distance")
    real, read, true = (points.get_offsets() for points in figure.axes[0].collections)
    assert np.array_equal(real, PLACES[REAL] * 2)
    assert np.array_equal(true, PLACES[~REAL] * 2)
    assert np.array_equal(read, PLACES[~REAL] * 2 + [10, 0])
    assert title(figure) == "angle + distance: Atlantis is read 10.0° off (median)"


def test_a_probe_that_points_off_the_world_does_not_shrink_it():
    axes = world_map(CITIES, probed(1e4), 1.0, "m").axes[0]
    assert axes.get_xlim() == (-180, 270) and axes.get_ylim() == (-90, 90)
    assert world_map(CITIES, probed(-1e4), 1.0, "m").axes[0].get_xlim() == (-270, 180)


def test_every_region_has_a_colour_of_its_own():
    assert set(COLOURS) == {*REGIONS, "Atlantis"}
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_errors_of_pairs_are_told_apart_by_distance_and_by_kind_of_city():
    frame = pd.concat(
        [probed(20.0), probed(2.0, "angle+inside"), probed(900.0, "angle"), probed(900.0, "base")]
    )
    figure = probe_errors(frame, 0.5)
    assert title(figure) == "Atlantis is misread by 10.0° with distance, 1.0° without"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        "Real, held out (24)", "Atlantis, pairs without distance (6)",
        "Atlantis, pairs with distance (6)",
    ]  # fmt: skip
    dashed = {line.get_xdata()[0] for line in figure.axes[0].lines}
    assert dashed == {10.0, 1.0, 5.5}  # held-out cities of both pairs together
    assert figure.axes[0].get_xscale() == "log"
    frame = frame.reset_index(drop=True)
    frame.loc[frame.index[frame["group"] == "atlantis"][0], "error"] = 1e5  # one lost city
    assert title(probe_errors(frame, 0.5)) == title(figure)


def test_a_city_that_is_found_exactly_is_counted_although_0_has_no_logarithm():
    frame = probed(4.0).reset_index(drop=True)
    frame.loc[frame.index[-1], "error"] = 0.0
    axes = probe_errors(frame, 1.0).axes[0]
    for patch in axes.patches:
        assert patch.get_path().vertices[1:-1:2, 1].sum() >= 1 - 1e-9


def test_frames_that_cannot_be_drawn_are_refused_by_name():
    with pytest.raises(BadInput, match=r"no column .'region'."):
        world_map(CITIES.drop(columns="region"), probed(1.0), 1.0, "m")
    with pytest.raises(BadInput, match="no city of Atlantis"):
        world_map(CITIES, probed(1.0)[REAL], 1.0, "m")
    with pytest.raises(BadInput, match="no model is a pair"):
        probe_errors(probed(1.0, "angle"), 1.0)
    with pytest.raises(BadInput, match="no city of Atlantis"):
        misplaced(PLACES, PLACES, np.ones(30, bool))


@settings(max_examples=15, deadline=None)
@given(turn=st.floats(0, 6), grow=st.floats(0.1, 10), off=st.floats(0, 3))
def test_atlantis_is_off_by_what_it_is_moved_however_the_map_is_turned(turn, grow, off):
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    real = PLACES[REAL]
    radius = np.sqrt(np.square(real - real.mean(0)).sum(1).mean())
    moved = PLACES + np.where(REAL[:, None], 0, [off * radius, 0])
    found = np.hstack([moved @ rotation * grow + 7, RNG.normal(size=(30, 1))])
    assert misplaced(found, PLACES, REAL) == pytest.approx(off, abs=1e-6)


def test_each_panel_shows_every_city_in_the_colour_of_its_region():
    panels = {mode: np.hstack([PLACES, PLACES[:, :1]]) for mode in MODES}
    figure = component_panels(panels, PLACES, list(CITIES["region"]), "angle")
    assert [axes.get_title("left") for axes in figure.axes] == [PANELS[mode][0] for mode in MODES]
    assert title(figure) == "angle: Atlantis is 0.00 map radii off"
    for axes in figure.axes:
        shown = {points.get_label(): points for points in axes.collections}
        assert set(shown) == {"Africa", "China", "Atlantis"}
        for region, part in CITIES.groupby("region"):
            assert np.array_equal(shown[region].get_offsets(), part[["x", "y"]])
            assert to_rgba(COLOURS[region]) == tuple(shown[region].get_facecolor()[0])


# -- likeness --------------------------------------------------------------------------------------


def vectors(*labels: tuple[str, int]) -> dict[tuple[str, int], np.ndarray]:
    return {label: RNG.normal(size=(24, 3 + n)) for n, label in enumerate(labels)}


def test_models_are_compared_across_seeds_and_never_with_themselves():
    found = vectors(("base", 1), ("angle", 1), ("base", 2), ("angle", 2), ("base", 3))
    alike = likeness(found)
    assert list(alike.index) == list(alike.columns) == ["base", "angle"]
    same = [cka(found["base", s], found["base", t]) for s, t in ((1, 2), (1, 3), (2, 3))]
    assert alike.loc["base", "base"] == pytest.approx(np.mean(same))
    across = [(1, 2), (2, 1), (3, 1), (3, 2)]
    other = np.mean([cka(found["base", s], found["angle", t]) for s, t in across])
    assert alike.loc["base", "angle"] == alike.loc["angle", "base"] == pytest.approx(other)


def test_with_one_seed_models_are_compared_within_it_and_the_diagonal_has_no_value():
    found = vectors(("base", 1), ("angle", 1))
    alike = likeness(found)
    assert alike.loc["base", "angle"] == pytest.approx(cka(found["base", 1], found["angle", 1]))
    assert np.isnan(np.diag(alike)).all()
    assert fields(likeness_map(alike))[0] == "–"


def test_points_pair_what_a_specialist_gives_with_its_likeness_to_the_receiver():
    tasks = ["angle", "compass", "inside"]
    alike = pd.DataFrame(np.arange(16.0).reshape(4, 4) / 16, ["base", *tasks], ["base", *tasks])
    points = against_improvement(alike, graded())
    assert len(points) == 6 and set(points["trained"]) == set(tasks)
    known = matrix(graded())
    for row in points.to_dict("records"):
        assert row["trained"] != row["evaluated"]
        assert row["cka"] == alike.loc[row["trained"], row["evaluated"]]
        assert row["improvement"] == known.loc[row["trained"], row["evaluated"]]


def test_the_scatter_tells_r_squared_and_p_of_the_line_it_draws():
    alike = pd.DataFrame(RNG.uniform(size=(7, 7)), list(TASKS), list(TASKS))
    points = against_improvement(alike, graded())
    known = stats.pearsonr(points["cka"], points["improvement"])
    r2, p, slope, intercept = explained(points)
    assert (r2, p) == pytest.approx((known.statistic**2, known.pvalue))
    figure = likeness_scatter(points)
    assert f"{r2:.0%}" in title(figure) and f"p = {p:.2g}" in title(figure)
    line, *tasks = figure.axes[0].lines
    assert np.allclose(line.get_ydata(), slope * line.get_xdata() + intercept)
    assert [len(one.get_xdata()) for one in tasks] == [6] * 7
    mine = points[points["trained"] == TASKS[0]]
    assert np.array_equal(tasks[0].get_xydata(), mine[["cka", "improvement"]])
    with pytest.raises(BadInput, match="2 points"):
        explained(points.iloc[:2])


# -- all of it -------------------------------------------------------------------------------------


def test_the_study_has_its_maps_its_errors_and_its_likeness(tmp_path: Path):
    models = ["base", "angle", "distance", "angle+inside", "angle+distance"]
    labels = [(model, seed) for seed in (1, 2) for model in models]
    shown = RNG.permutation(30)[:27]
    found = {
        label: Reading(
            shown, np.hstack([PLACES, RNG.normal(size=(30, 4))])[shown].astype(np.float32),
            probed(3.0).drop(columns="model"),
        )
        for label in labels
    }  # fmt: skip
    kept = REAL[shown]
    alike = likeness({label: one.vectors[kept].astype(float) for label, one in found.items()})
    drawn = of_representations(CITIES, 2.0, found, alike, graded())
    named = ("base", "angle", "angle_inside", "angle_distance")
    assert set(drawn) == {
        *(f"{kind}_{model}" for kind in ("map", "components") for model in named),
        "probe_errors", "cka", "cka_all",
    }  # fmt: skip
    assert len(fields(drawn["cka"])) == 9 and len(fields(drawn["cka_all"])) == 25
    assert title(drawn["components_base"]) == "base: Atlantis is 0.00 map radii off"
    save(drawn["components_base"], tmp_path / "x.pdf")
    few = {label: one for label, one in found.items() if "+" not in label[0]}
    assert "probe_errors" not in of_representations(CITIES, 2.0, few, alike.iloc[:1, :1], graded())


def test_the_examples_are_the_first_of_each_kind():
    labels = [(m, s) for s in (7, 8) for m in ("base", "compass", "angle", "compass+distance")]
    assert examples(labels) == [("base", 7), ("compass", 7), ("compass+distance", 7)]
