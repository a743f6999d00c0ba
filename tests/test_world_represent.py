"""Vectors of cities, the map that a probe reads off them, and how alike representations are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from tiny import tiny

from papertrail.core.errors import BadInput
from papertrail.world.cities import cities
from papertrail.world.options import TASKS, Representation, World
from papertrail.world.probes import (
    cka,
    cka_matrix,
    linear_probe,
    map_axes,
    principal_axes,
    principal_components,
    r_squared,
)
from papertrail.world.represent import (
    ATLANTIS,
    HELDOUT,
    REST,
    TRAIN,
    city_vectors,
    read_map,
    refuse_layer,
    residual,
    shown,
    split,
)
from papertrail.world.spelling import spelling

WORDS = World(cities=60, atlantis=8)
CHARACTERS = World(cities=200, unit=0.1, atlantis=8, spelling="characters")
SMALL = Representation(train_cities=40, test_cities=15)


def model(vocabulary: int = 98, layers: int = 3):
    return tiny("qwen2", vocab_size=vocabulary, num_hidden_layers=layers, initializer_range=0.3)


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- vectors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_a_residual_stream_is_that_of_transformers_bit_by_bit(layer):
    tokens = torch.arange(60).reshape(5, 12)
    whole = model()(tokens, output_hidden_states=True)
    with torch.no_grad():
        assert torch.equal(residual(model(), tokens, layer), whole.hidden_states[layer])


def test_blocks_behind_the_one_that_is_read_do_not_run():
    read, ran = model(), []
    for place, block in enumerate(read.model.layers):
        block.register_forward_hook(lambda *_, place=place: ran.append(place))
    residual(read, torch.arange(12)[None], 2)
    assert ran == [0, 1]


def test_only_the_last_layer_is_normalised():
    tokens, deep = torch.arange(12)[None], model()
    before, after = residual(deep, tokens, 2), residual(deep, tokens, 3)
    sizes = after.square().mean(-1)
    assert torch.allclose(sizes, torch.ones_like(sizes), atol=1e-3)
    assert not torch.allclose(before.square().mean(-1), torch.ones_like(sizes), atol=0.1)


@pytest.mark.parametrize("world", [WORDS, CHARACTERS], ids=lambda one: one.spelling)
@pytest.mark.parametrize("task", ["distance", "inside"])
def test_a_city_s_vector_is_what_its_own_prompt_gives_where_it_is_named(world, task):
    spelt, chosen = spelling(world), np.array([3, 17, 40])
    read = model(spelt.size)
    vectors = city_vectors(read, world, task, chosen, 2)
    for city, vector in zip(chosen, vectors, strict=True):
        tokens = torch.from_numpy(spelt.prompt(task, np.array([city])).astype(np.int64))
        with torch.no_grad():
            stream = read(tokens, output_hidden_states=True).hidden_states[2][0]
        places = [stream[at] for at in spelt.positions(task)]
        assert np.allclose(vector, torch.cat(places), atol=1e-5)


def test_characters_are_read_at_the_last_digit_and_behind_it_words_at_the_city():
    published = {
        "distance": (11, 12), "trianglearea": (14, 15), "angle": (12, 13), "compass": (14, 15),
        "inside": (13, 14), "perimeter": (16, 17), "crossing": (12, 13),
    }  # fmt: skip
    assert {task: spelling(CHARACTERS).positions(task) for task in TASKS} == published
    assert {spelling(WORDS).positions(task) for task in TASKS} == {(2,)}


def test_a_layer_that_is_not_there_is_refused():
    refuse_layer(2, layers=2)
    with pytest.raises(BadInput, match=r"^represent.layer: the model has 2 blocks \(3\)"):
        refuse_layer(3, layers=2)


# -- cities ----------------------------------------------------------------------------------------


def test_numbers_with_a_leading_zero_are_left_out_of_characters_but_no_word_is():
    world = cities(CHARACTERS)
    chosen = shown(world, CHARACTERS)
    assert (world.number[chosen] >= 1000).all()
    assert (np.delete(world.number, chosen) < 1000).all() and len(chosen) < len(world)
    assert len(shown(cities(WORDS), WORDS)) == 68


def test_a_split_takes_real_cities_to_learn_and_test_and_all_of_atlantis():
    real = cities(WORDS).real
    groups = split(real, SMALL, WORDS)
    counts = {name: int((groups == name).sum()) for name in (TRAIN, HELDOUT, ATLANTIS, REST)}
    assert counts == {TRAIN: 40, HELDOUT: 15, ATLANTIS: 8, REST: 5}
    assert ((groups == ATLANTIS) == ~real).all()
    assert (groups == split(real, SMALL, WORDS)).all()


def test_a_split_that_wants_more_cities_than_there_are_is_refused():
    with pytest.raises(BadInput, match=r"^represent.train_cities: 60 real .* 61 are wanted \(46\)"):
        split(cities(WORDS).real, Representation(train_cities=46, test_cities=15), WORDS)
    with pytest.raises(BadInput, match=r"^represent.test_cities: one place .* \(1\)"):
        split(cities(WORDS).real, Representation(train_cities=40, test_cities=1), WORDS)
    with pytest.raises(BadInput, match=r"^world.atlantis"):
        split(np.ones(60, bool), SMALL, WORDS)


# -- the probe -------------------------------------------------------------------------------------


def test_a_probe_without_ridge_is_scikit_learn_s_least_squares():
    x, y, unseen = (random(seed).normal(size=(50, 2 + 5 * (seed != 1))) for seed in range(3))
    theirs = LinearRegression().fit(x, y).predict(unseen)
    assert np.allclose(linear_probe(x, y)(unseen), theirs, atol=1e-10)


def test_a_ridge_is_in_units_of_the_mean_variance_of_a_feature():
    x, y = 3 * random(0).normal(size=(50, 7)), random(1).normal(size=(50, 2))
    theirs = Ridge(alpha=0.5 * 50 * x.var(0).mean()).fit(x, y)
    assert np.allclose(linear_probe(x, y, 0.5)(x), theirs.predict(x), atol=1e-10)
    assert np.allclose(linear_probe(9 * x, y, 0.5)(9 * x), linear_probe(x, y, 0.5)(x))


def test_r_squared_is_one_at_the_truth_and_zero_at_the_mean():
    places = random().normal(size=(9, 2))
    assert (r_squared(places, places) == 1).all()
    assert np.allclose(r_squared(np.tile(places.mean(0), (9, 1)), places), 0)
    theirs = LinearRegression().fit(places, places[:, ::-1]).score(places, places[:, ::-1])
    assert theirs == pytest.approx(1)


def a_map(shift: float = 0.0):
    """68 cities whose vectors hold their place, those of Atlantis one `shift` to the east of it."""
    world = cities(WORDS)
    places = np.stack([world.x, world.y], axis=1).astype(float)
    held = places + shift * np.outer(~world.real, [1, 0])
    lift = random(1).normal(size=(2, 10))
    vectors = held @ lift + 1e-3 * random(2).normal(size=(68, 10))
    return vectors, places, split(world.real, SMALL, WORDS)


def test_a_probe_finds_the_map_and_how_far_off_it_atlantis_lies():
    frame, metrics = read_map(*a_map(shift=7.0), SMALL, WORDS)
    assert metrics["probe/r2_x_test"] > 0.999 and metrics["probe/r2_y_train"] > 0.999
    assert metrics["heldout/error_mean"] < 0.1
    assert metrics["atlantis/error_mean"] == pytest.approx(7, abs=0.1)
    assert metrics["atlantis/location_bias"] == pytest.approx(7, abs=0.1)
    assert metrics["atlantis/error_median_degrees"] == pytest.approx(14, abs=0.2)
    assert metrics["probe/features"] == 10
    assert dict(frame["group"].value_counts()) == {TRAIN: 40, HELDOUT: 15, ATLANTIS: 8}


def test_errors_of_opposite_directions_leave_the_middle_of_atlantis_where_it_is():
    vectors, places, groups = a_map()
    there = np.flatnonzero(groups == ATLANTIS)
    moved = vectors.copy()
    moved[there[:4]] += 3 * (vectors[there[0]] - vectors[there[1]])
    moved[there[4:]] -= 3 * (vectors[there[0]] - vectors[there[1]])
    _, metrics = read_map(moved, places, groups, SMALL, WORDS)
    assert metrics["atlantis/error_mean"] > 10 * metrics["atlantis/location_bias"]


def test_the_probe_of_shuffled_places_finds_no_map():
    _, metrics = read_map(*a_map(), SMALL, WORDS)
    assert metrics["control/heldout_error_mean"] > 100 * metrics["heldout/error_mean"]


def test_atlantis_and_held_out_cities_do_not_move_the_probe():
    vectors, places, groups = a_map()
    spoilt = np.where((groups == TRAIN)[:, None], vectors, 5 + vectors[::-1])
    wanted = {"probe/train_error_mean", "probe/r2_x_train", "probe/pc4/r2_y_train"}
    before, after = (read_map(one, places, groups, SMALL, WORDS)[1] for one in (vectors, spoilt))
    assert {key: before[key] for key in wanted} == {key: after[key] for key in wanted}


def test_principal_components_that_vectors_do_not_have_are_left_out():
    vectors, places, groups = a_map()
    _, metrics = read_map(vectors[:, :5], places, groups, SMALL, WORDS)
    assert {key for key in metrics if "x_test" in key} == {
        "probe/r2_x_test", "probe/pc2/r2_x_test", "probe/pc4/r2_x_test"
    }  # fmt: skip


# -- alignment -------------------------------------------------------------------------------------


def by_kernels(x, y):
    """As published: N x N kernels."""
    middle = np.eye(len(x)) - 1 / len(x)
    mine, theirs = (middle @ one @ one.T @ middle for one in (x, y))
    return (mine * theirs).sum() / (np.linalg.norm(mine) * np.linalg.norm(theirs))


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 30), st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_alignment_in_feature_space_is_that_of_the_kernels(n, f, g, seed):
    x, y = random(seed).normal(2, 1, (n, f)), random(seed + 1).normal(2, 1, (n, g))
    assert cka(x, y) == pytest.approx(by_kernels(x, y), rel=1e-9)
    assert cka(x, x) == pytest.approx(1)


def test_alignment_does_not_see_turns_shifts_and_scale_but_sees_stretches():
    x, y = random().normal(size=(30, 6)), random(1).normal(size=(30, 6)) + 1
    turn = np.linalg.qr(random(2).normal(size=(6, 6)))[0]
    assert cka(3 * x @ turn + 5, y) == pytest.approx(cka(x, y))
    assert cka(x * [9, 1, 1, 1, 1, 1], x) < 0.9


def test_an_alignment_matrix_holds_every_pair():
    found = [random(seed).normal(size=(20, 3 + seed)) for seed in range(4)]
    pairs = [[cka(x, y) for y in found] for x in found]
    assert np.allclose(cka_matrix(found), pairs)


def test_vectors_of_float32_are_compared_and_probed_in_float64():
    x, y = (random(seed).normal(9, 1, (99, 20)).astype(np.float32) for seed in range(2))
    wide = [one.astype(np.float64) for one in (x, y)]
    assert cka(x, y) == pytest.approx(cka(*wide), rel=1e-12)
    assert np.allclose(linear_probe(x, y)(x), linear_probe(*wide)(wide[0]), rtol=1e-12, atol=0)


# -- axes of plots ---------------------------------------------------------------------------------


def test_principal_axes_are_orthonormal_and_ordered_by_variance():
    vectors = random().normal(size=(80, 5)) * [1, 5, 2, 9, 0.1] + 3
    axes = principal_axes(vectors, 3)
    assert np.allclose(axes.T @ axes, np.eye(3))
    assert (np.diff((vectors @ axes).var(0)) < 0).all()
    assert np.abs(axes).argmax(0).tolist() == [3, 1, 2] and (axes.max(0) > 0.9).all()


def test_map_axes_read_x_and_y_and_the_third_is_beside_both():
    places = random().normal(size=(60, 2))
    noise = random(1).normal(size=(60, 1))
    vectors = np.hstack([places, 4 * noise, 0.01 * random(2).normal(size=(60, 3))])
    axes = map_axes(vectors, places)
    assert np.allclose(np.linalg.norm(axes, axis=0), 1)
    assert np.allclose(axes[:, 2] @ axes[:, :2], 0)
    assert np.allclose(np.abs(axes[:3]), np.eye(3), atol=0.01)


def test_atlantis_moves_the_mixed_axes_but_not_those_fitted_without_it():
    vectors, places, groups = a_map(shift=30.0)
    real = groups != ATLANTIS
    moved = np.where(real[:, None], vectors, vectors[::-1])

    def coordinates(one, mode):
        return principal_components(one, places, real, mode)[real]

    assert np.allclose(coordinates(vectors, "na"), coordinates(moved, "na"))
    assert not np.allclose(coordinates(vectors, "mixed"), coordinates(moved, "mixed"), atol=0.1)


def test_plain_components_are_fitted_on_six_tenths_of_the_cities():
    vectors, places, groups = a_map()
    fitted = np.random.default_rng(42).permutation(68) < 41
    spoilt = np.where(fitted[:, None], vectors, 9.0)
    plain = [principal_components(one, places, groups != "", "raw") for one in (vectors, spoilt)]
    assert np.allclose(plain[0][fitted], plain[1][fitted])
    assert plain[0].shape == (68, 3)
