"""The cities of a world: real ones off the shipped extract, and Atlantis, shuffled together.

Axes: C cities.
"""

import csv
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int16, Int32, Int64

from papertrail.core.errors import BadInput
from papertrail.world.geometry import half_to_even
from papertrail.world.options import World
from papertrail.world.regions import REGION

EXTRACT = Path(__file__).with_name("cities.csv")
EXTRACT_SHA256 = "4a00986b7e4f164ffcadf097e31e29701f38c92ce44e76a848cca3525f18f119"
COLUMNS = ("geonameid", "name", "country", "lon", "lat", "population")
"""Of the extract; lon and lat are whole 1/100,000 degrees."""
PER_DEGREE = 100_000
NUMBERS = 10_000
"""A city is shown as one of 0000..9999."""
FEWEST = 6
"""Cities in the largest question."""
ATLANTIS, ATLANTIS_CODE = "Atlantis", "XX0"
ATLANTIS_LON, ATLANTIS_LAT = -35, 35  # degrees; arXiv 2602.00533, section 2
DRAWS = 100  # places drawn for each city of Atlantis, of which one has to be free


@dataclass(frozen=True, kw_only=True)
class Cities:
    """All cities of a world, in an order without meaning."""

    x: Int32[np.ndarray, " C"]
    """East, in units of `world.unit` degrees."""
    y: Int32[np.ndarray, " C"]
    """North."""
    real: Bool[np.ndarray, " C"]
    """False in Atlantis."""
    number: Int16[np.ndarray, " C"]
    """What the city is called in a question: c_0865."""
    name: tuple[str, ...]
    country: tuple[str, ...]
    """ISO 3166; XX0 in Atlantis."""
    region: tuple[str, ...]

    def __post_init__(self) -> None:
        for shared in (self.x, self.y, self.real, self.number):
            shared.setflags(write=False)

    def __len__(self) -> int:
        return len(self.x)


def stream(seed: int, *names: str) -> np.random.Generator:
    """Random numbers of their own for what is named: adding a consumer moves no other's."""
    return np.random.default_rng([seed, *"/".join(names).encode()])


@lru_cache(maxsize=4)
def cities(options: World) -> Cities:
    """The most populous real cities with a cell to themselves, and Atlantis.

    BadInput where there are not as many.
    """
    if options.cities < FEWEST:
        raise BadInput(
            f"world.cities: a question names up to {FEWEST} ({options.cities}); give as many"
        )
    rows = _extract()
    lon, lat = (np.array([int(row[key]) for row in rows]) for key in ("lon", "lat"))
    x, y = cells(lon, options.unit), cells(lat, options.unit)
    kept = first_in_cell(x, y)[: options.cities]
    if len(kept) < options.cities:
        raise BadInput(
            f"world.cities: {len(kept)} have a cell of {options.unit:g} degrees to themselves "
            f"({options.cities}); give fewer, or a smaller world.unit"
        )
    far_x, far_y = _atlantis(options, x[kept], y[kept])
    chosen = [rows[index] for index in kept]
    names = [row["name"] for row in chosen]
    countries = [row["country"] for row in chosen]
    return _shuffled(
        options.seed, np.concatenate([x[kept], far_x]), np.concatenate([y[kept], far_y]),
        names, countries,
    )  # fmt: skip


def cells(degrees: Int64[np.ndarray, " C"], unit: float) -> Int64[np.ndarray, " C"]:
    """Coordinates in units of `unit` degrees, from whole 1/100,000 degrees; ties to even."""
    numerator, denominator = Decimal(repr(unit)).as_integer_ratio()  # 0.1 is one tenth here
    return half_to_even(degrees * denominator, PER_DEGREE * numerator)


def first_in_cell(
    x: Int64[np.ndarray, " C"], y: Int64[np.ndarray, " C"]
) -> Int64[np.ndarray, " K"]:
    """Index of the first city of every cell that has one, in order."""
    _, first = np.unique(np.stack([x, y]), axis=1, return_index=True)
    return np.sort(first)


def _extract() -> list[dict[str, str]]:
    """The shipped cities, most populous first."""
    content = EXTRACT.read_bytes()
    found = sha256(content).hexdigest()
    assert found == EXTRACT_SHA256, f"{EXTRACT} is not the extract of this version ({found})"
    return list(csv.DictReader(content.decode().splitlines()))


def _atlantis(
    options: World, x: Int64[np.ndarray, " R"], y: Int64[np.ndarray, " R"]
) -> tuple[Int64[np.ndarray, " A"], Int64[np.ndarray, " A"]]:
    """Places around 35 N, 35 W, each in a cell where nobody is yet.

    The published generator lets them share cells, and seeds with a salted hash: its places cannot
    be drawn again. Two cities of one place would be one to every question.
    """
    random = stream(options.seed, "atlantis")
    num = DRAWS * options.atlantis
    places = [
        (random.normal(middle, options.spread, num).clip(-limit, limit) * PER_DEGREE).round()
        for middle, limit in ((ATLANTIS_LON, 180), (ATLANTIS_LAT, 90))
    ]
    all_x, all_y = (
        np.concatenate([taken, cells(one.astype(np.int64), options.unit)])
        for taken, one in zip((x, y), places, strict=True)
    )
    first = first_in_cell(all_x, all_y)[len(x) :]  # those that are taken come first
    if len(first) < options.atlantis:
        raise BadInput(
            f"world.atlantis: {options.spread:g} degrees hold {len(first)} cells of "
            f"{options.unit:g} ({options.atlantis}); give fewer, or a larger world.spread"
        )
    free = first[: options.atlantis]
    return all_x[free], all_y[free]


def _shuffled(
    seed: int,
    x: Int64[np.ndarray, " C"],
    y: Int64[np.ndarray, " C"],
    names: list[str],
    countries: list[str],
) -> Cities:
    num = len(x)
    names = names + [f"{ATLANTIS}_{place + 1:03d}" for place in range(num - len(names))]
    countries = countries + [ATLANTIS_CODE] * (num - len(countries))
    if num > NUMBERS:
        raise BadInput(f"world.cities: {NUMBERS} have a number, Atlantis among them ({num})")
    order = stream(seed, "order").permutation(num)
    number = stream(seed, "numbers").choice(NUMBERS, num, replace=False)
    country = tuple(countries[index] for index in order)
    return Cities(
        x=x[order].astype(np.int32),
        y=y[order].astype(np.int32),
        real=np.array([code != ATLANTIS_CODE for code in country]),
        number=number.astype(np.int16),
        name=tuple(names[index] for index in order),
        country=country,
        region=tuple(ATLANTIS if code == ATLANTIS_CODE else REGION[code] for code in country),
    )
