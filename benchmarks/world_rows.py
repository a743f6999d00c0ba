"""Drawing and spelling the rows of the world study, against one row after another.

python benchmarks/world_rows.py [ROWS]

Every task at its published size: a million rows about 5,075 cities unless ROWS says less, drawn,
answered and spelt in characters. The same in plain Python, with shapely where it helps, is timed
on the first thousandth of the rows, whose answers and texts must agree. CPU seconds, one thread.
"""

import cmath
import math
import os
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
os.environ |= {"OMP_NUM_THREADS": "1"}

from shapely import LineString, MultiPoint, Point

from papertrail.world.cities import Cities, cities, stream
from papertrail.world.options import TASKS, Task, World
from papertrail.world.spelling import BOS, EOS, NAMES, Spelling, spelling
from papertrail.world.tasks import COMPASS, LOGICAL, draw

PAPER = World(cities=5_075, unit=0.1, atlantis=100, spelling="characters")
SAMPLE = 1_000  # one row in so many is also done in plain Python
Places = list[tuple[int, int]]
T = TypeVar("T")


def distance(p: Places) -> str:
    return str(round(math.dist(*p)))


def area(p: Places) -> str:
    (ax, ay), (bx, by), (cx, cy) = p
    return str(round(Fraction(abs(ax * (by - cy) + bx * (cy - ay) + cx * (ay - by)), 2)))


def angle(p: Places) -> str:
    a, b, c = (complex(*place) for place in p)
    return str(round(abs(math.degrees(cmath.phase((a - b) / (c - b))))))


def compass(p: Places) -> str:
    (ax, ay), (bx, by) = p
    return COMPASS[int((math.degrees(math.atan2(by - ay, bx - ax)) + 22.5) % 360 // 45)]


def inside(p: Places) -> str:
    hull = MultiPoint(p[1:]).convex_hull
    return LOGICAL[hull.geom_type == "Polygon" and hull.covers(Point(p[0]))]


def perimeter(p: Places) -> str:
    return str(round(LineString(p if len(p) == 2 else [*p, p[0]]).length))


def crossing(p: Places) -> str:
    return LOGICAL[LineString(p[:2]).crosses(LineString(p[2:]))]


PLAIN: dict[Task, Callable[[Places], str]] = {
    "distance": distance, "trianglearea": area, "angle": angle, "compass": compass,
    "inside": inside, "perimeter": perimeter, "crossing": crossing,
}  # fmt: skip


def one_by_one(
    task: Task, world: Cities, spelt: Spelling, rows: list[list[int]]
) -> list[list[int]]:
    """Answered and spelt, but not drawn: the balanced tasks would need several draws for a row."""
    known = {token: id_ for id_, token in enumerate(spelt.tokens)}
    second = {"inside": 1, "crossing": 2}.get(task)
    found = []
    for row in rows:
        chosen = [index for index in row if index >= 0]
        answer = PLAIN[task]([(int(world.x[index]), int(world.y[index])) for index in chosen])
        text = f"{NAMES[task]}("
        for slot, index in enumerate(chosen):
            text += (";" if slot == second else ",") * (slot > 0) + f"c_{world.number[index]:04d}"
        found.append([BOS, *(known[character] for character in f"{text})={answer}"), EOS])
    return found


def timed(work: Callable[[], T]) -> tuple[float, T]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def measure(task: Task, world: Cities, spelt: Spelling, num: int) -> tuple[float, float]:
    """Microseconds of a row: ours, and one after another."""
    drawing, examples = timed(lambda: draw(task, world, "real", num, stream(1, task)))
    writing, tokens = timed(lambda: spelt.encode(examples))
    few = max(1, num // SAMPLE)
    plain, expected = timed(lambda: one_by_one(task, world, spelt, examples.cities[:few].tolist()))
    assert [row[row > 0].tolist() for row in tokens[:few]] == expected, task
    slow, fast = 1e6 * plain / few, 1e6 * (drawing + writing) / num
    print(
        f"{task:<13}{drawing:>8.2f} s drawn{writing:>8.2f} s spelt"
        f"{fast:>8.2f} us a row, one by one {slow:>6.1f}: {slow / fast:>4.0f} x"
    )
    return fast, slow


if __name__ == "__main__":
    num_rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    the_world, its_spelling = cities(PAPER), spelling(PAPER)
    draw("inside", the_world, "real", 1_000, stream(0))
    found = [measure(task, the_world, its_spelling, num_rows) for task in TASKS]
    ours, theirs = (sum(column) for column in zip(*found, strict=True))
    print(f"{'all seven':<13}{ours / 7:>38.2f} us a row, one by one {theirs / 7:>6.1f}: "
          f"{theirs / ours:>4.0f} x")  # fmt: skip
