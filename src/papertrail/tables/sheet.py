"""What a paper table is before anybody prints it: columns, rows of cells, the runs behind each.

How a number is rounded and which one is best is decided here, so every format agrees.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count, product
from string import ascii_lowercase
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, SupportsFloat

SUFFIXES = ("low", "high", "std", "n", "runs", "state", "note")  # CSV columns beside a value


@dataclass(frozen=True, kw_only=True)
class Format:
    """How the numbers of a cell are rounded and what follows them."""

    digits: int = 2
    """Digits after the decimal point."""
    percent: bool = False
    """The number is a fraction, printed times 100 with a percent sign."""
    sign: bool = False
    """A plus before positive numbers (differences)."""
    unit: str = ""
    """Printed after the number; better kept in the column's title."""

    def __post_init__(self) -> None:
        assert self.digits >= 0, f"digits ({self.digits}) must not be negative"
        assert not (self.percent and self.unit), (
            f"percent and unit ({self.unit}) exclude each other"
        )

    @property
    def suffix(self) -> str:
        """What follows the number."""
        return "%" if self.percent else f" {one_line(self.unit)}" if self.unit else ""


class Shown(NamedTuple):
    """The numbers of one cell as every format prints them, without suffix."""

    value: str
    spread: str | None
    low: str | None
    high: str | None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value, its uncertainty and the runs it was computed from."""

    value: float | int | str | None = None
    """A number, a label, or None where there is none."""
    spread: float | int | None = None
    """Sample standard deviation over `n` runs."""
    low: float | int | None = None
    """Lower end of the confidence interval."""
    high: float | int | None = None
    """Upper end of the confidence interval."""
    n: int | None = None
    """What the uncertainty counts: training seeds beside a std, examples beside an interval."""
    format: Format = Format()
    """Rounding and unit of all its numbers."""
    runs: tuple[str, ...] = ()
    """Ids of the MLflow runs behind the value."""
    note: str = ""
    """Why it is missing, which gate refused it, or a remark such as "n = 3 of 5"."""
    state: Literal["ok", "missing", "refused"] = "ok"
    """`refused`: there is a run, but it failed one of its own controls."""

    def __post_init__(self) -> None:
        assert (self.value is None) == (self.state != "ok"), f"{self.state} with {self.value!r}"
        assert not isinstance(self.value, str) or one_line(self.value), "a label must not be blank"
        assert self.state != "refused" or self.note.strip(), "a refused cell says why"
        assert (self.low is None) == (self.high is None), "an interval has two ends"
        assert self.low is None or self.high is None or self.low <= self.high, "low above high"
        numbers = (self.value, self.spread, self.low, self.high)
        found = [x for x in numbers if x is not None and not isinstance(x, str)]
        assert all(map(math.isfinite, found)), f"{found} not finite; `measured` refuses such a cell"

    @property
    def number(self) -> float | int | None:
        """The value where it is a number."""
        return None if isinstance(self.value, str) else self.value

    @property
    def footnote(self) -> str:
        """The sentence under the table that this cell asks for; empty if none."""
        if self.state == "missing":
            return f"missing: {one_line(self.note) or 'no usable run'}"
        return f"refused: {one_line(self.note)}" if self.state == "refused" else one_line(self.note)

    @property
    def noise(self) -> tuple[float, float] | None:
        """Its confidence interval, else mean ± std; None where nothing says how sure it is."""
        if self.number is None:
            return None
        if self.low is not None and self.high is not None:
            return float(self.low), float(self.high)
        if self.spread is None or self.n == 1:  # the std of one run says nothing
            return None
        return float(self.number - self.spread), float(self.number + self.spread)

    def shown(self) -> Shown | None:
        """Its numbers, all in the notation that its value and largest number ask for."""
        if self.number is None:
            return None
        numbers = (self.number, self.spread, self.low, self.high)
        scientific = needs_exponent(numbers, self.format)
        value, spread, low, high = (
            None if x is None else rounded(x, self.format, scientific, signed=x is numbers[0])
            for x in numbers
        )
        assert value is not None
        return Shown(value, spread, low, high)


def missing(note: str = "") -> Cell:
    """A cell whose run does not exist (yet)."""
    return Cell(state="missing", note=note)


def refused(note: str, runs: Sequence[str] = ()) -> Cell:
    """A cell whose runs exist and failed a gate; `note` names it."""
    return Cell(state="refused", note=note, runs=tuple(runs))


def measured(
    value: SupportsFloat,
    *,
    spread: SupportsFloat | None = None,
    interval: tuple[SupportsFloat, SupportsFloat] | None = None,
    n: int | None = None,
    format: Format | None = None,
    runs: Sequence[str] = (),
    note: str = "",
) -> Cell:
    """A number from a data frame (NumPy scalars too); refused where NaN or infinite."""
    low, high = (None, None) if interval is None else (float(interval[0]), float(interval[1]))
    std = None if spread is None else float(spread)
    numbers = {"value": float(value), "std": std, "low": low, "high": high}
    odd = [
        f"{name} is {x}" for name, x in numbers.items() if x is not None and not math.isfinite(x)
    ]
    if odd:
        return refused("; ".join([*odd, *([note] if note else [])]), runs)
    whole = value if isinstance(value, int) else float(value)  # large counts stay exact
    return Cell(
        value=whole, spread=std, low=low, high=high, n=n, format=format or Format(),
        runs=tuple(runs), note=note,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column: its key in the rows and its heading."""

    key: str
    title: str
    latex: str | None = None
    """Title as LaTeX source, where the escaped `title` will not do."""
    better: Literal["lower", "higher"] | None = None
    """Which direction is good; None for labels and counts: never bold."""
    help: str = ""
    """One sentence: what the number is, and its unit."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A finished table; the first column heads the rows."""

    name: str
    title: str
    caption: str = ""
    columns: tuple[Column, ...]
    rows: tuple[Mapping[str, Cell], ...]
    footnotes: tuple[str, ...] = ()
    """Remarks on the whole table; remarks on one cell are its note."""
    links: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Run id -> its page in the MLflow UI."""
    provenance: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """What made this table: when, git commit, digests."""

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        assert keys and len(set(keys)) == len(keys), f"column keys {keys} must be distinct"
        taken = {f"{key}.{suffix}" for key in keys for suffix in SUFFIXES} & set(keys)
        assert not taken, f"column keys {sorted(taken)} collide with CSV columns of another"
        for i, row in enumerate(self.rows):
            unknown = sorted(row.keys() - set(keys))
            assert not unknown, f"row {i} has no column for {unknown}; the columns are {keys}"

    def cell(self, row: int, key: str) -> Cell:
        """The cell there; a row that does not mention a column is missing there, never blank."""
        return self.rows[row].get(key) or missing()

    def column(self, key: str) -> list[Cell]:
        """All cells of a column, top to bottom."""
        return [self.cell(row, key) for row in range(len(self.rows))]

    def is_label(self, column: Column) -> bool:
        """Whether it is set as text, flush left: the row headings and columns with a word in it."""
        words = any(isinstance(cell.value, str) for cell in self.column(column.key))
        return column == self.columns[0] or words

    def runs(self, row: int | None = None) -> tuple[str, ...]:
        """Ids of the runs behind one row, or behind the whole table, each once, in order."""
        rows = range(len(self.rows)) if row is None else [row]
        cells = [self.cell(r, column.key) for r in rows for column in self.columns]
        return tuple(dict.fromkeys(run for cell in cells for run in cell.runs))

    def link(self, run: str) -> str | None:
        """The page of a run; None where there is none or it is no web address (javascript:)."""
        url = self.links.get(run, "")
        return url if url.startswith(("https://", "http://", "/", "#")) else None

    def marks(self) -> dict[str, str]:
        """Footnote -> its letter, in reading order; the same sentence has one letter."""
        cells = [self.cell(r, c.key) for r in range(len(self.rows)) for c in self.columns]
        notes = dict.fromkeys(cell.footnote for cell in cells if cell.footnote)
        return dict(zip(notes, letters(), strict=False))

    def best(self, column: Column) -> int | None:
        """The row that beats every other value of `column` by more than noise, or None.

        Beats: the noise intervals do not even touch and the printed numbers differ. One value
        without CI or std in the column, and nobody is best.
        """
        cells = self.column(column.key)
        present = [r for r, cell in enumerate(cells) if cell.number is not None]
        if column.better is None or len(present) < 2:
            return None
        sign = 1 if column.better == "higher" else -1
        best = max(present, key=lambda r: sign * (cells[r].number or 0))
        others = [cells[r] for r in present if r != best]
        return best if all(_beats(cells[best], other, sign) for other in others) else None


def _beats(best: Cell, other: Cell, sign: int) -> bool:
    ours, theirs = best.noise, other.noise
    if ours is None or theirs is None or printed_alike(best, other):
        return False
    return ours[0] > theirs[1] if sign > 0 else ours[1] < theirs[0]


def printed_alike(one: Cell, other: Cell) -> bool:
    """Whether a reader sees the same number in both; neither can then be the better one."""
    ours, theirs = one.shown(), other.shown()
    return ours is not None and theirs is not None and ours.value == theirs.value


def letters() -> Iterator[str]:
    """a, b, ..., z, aa, ab, ..."""
    return ("".join(word) for size in count(1) for word in product(ascii_lowercase, repeat=size))


def needs_exponent(numbers: Sequence[float | int | None], format: Format) -> bool:
    """Whether plain digits would show a value as 0 that is not, or run out of a column."""
    value, *rest = (abs(_scaled(x, format)) for x in numbers if x is not None)
    largest = max(value, *rest, Decimal(0))
    vanishes = 0 < value <= Decimal(5).scaleb(-1 - format.digits)
    return vanishes or largest >= (10**7 if format.digits else 10**12)


def rounded(x: float | int, format: Format, scientific: bool = False, signed: bool = True) -> str:
    """The one place where a number becomes text: rounded half to even, never "-0.00"."""
    number = _scaled(x, format)
    text = f"{number:.{format.digits}{'e' if scientific else 'f'}}"
    if text.startswith("-") and not Decimal(text):
        text = text[1:]
    return f"+{text}" if format.sign and signed and Decimal(text) > 0 else text


def _scaled(x: float | int, format: Format) -> Decimal:
    # Decimal, because 1e307 times 100 overflows a float.
    return Decimal(x).scaleb(2) if format.percent else Decimal(x)


def one_line(text: str) -> str:
    """`text` on one line, without control characters (a note must not move the cursor)."""
    clean = "".join(c if c.isprintable() or c.isspace() else "\ufffd" for c in text)
    return " ".join(clean.split())
