"""A number as somebody printed it in LaTeX, compared with a run's number at its own precision.

Read are 98.8\\,\\%, $-0.3$, 12{,}345, $1.2 \\times 10^{-3}$, $24.3 \\pm 0.2$, 63.5\\% [56.5, 70.5].
"""

import re
from dataclasses import dataclass
from decimal import Decimal

from papertrail.tables.sheet import Cell

REWRITTEN: tuple[tuple[str, str], ...] = (
    (r"\{,\}(?=\d{3}(?!\d))", ""),
    (r"\{,\}", "."),  # a decimal comma
    (r"\\(?:[,;:!/]|thinspace(?![A-Za-z]))", ""),
    (r"~|\\ ", " "),
    (r"\\(?:text)?pm(?![A-Za-z])", "±"),
    (r"\\%|\\(?:text)?percent(?![A-Za-z])", "%"),
    (r"\\textminus(?![A-Za-z])|\u2212", "-"),
    (r"\\(?:times|cdot)(?![A-Za-z])|×", "×"),
    (r"\\(?:mathrm|text)\{e\}", "e"),
    (r"\}\s*\{", " "),
    (r"\\[A-Za-z@]+\*?", " "),
    (r"[${}]", ""),
    (r"---?|(?<=\d)-(?=\d)", "\N{EN DASH}"),
    (r"(?<=[\d.])\s*×\s*10\s*\^\s*([+-]?\d+)", r"e\1"),
    (r"(?<![\w.])10\s*\^\s*([+-]?\d+)", r"1e\1"),
    (r"(?<=e)\N{EN DASH}", "-"),
)
WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?!\d|,\d{3}(?!\d))"  # (1,234) is no pair
NUMBER = rf"[+-]?(?:{WHOLE})?(?:(?<=\d)(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?"
BETWEEN = r"(?:\s*[,;\N{EN DASH}]\s*|\s+to\s+)"


def _pair(low: str, high: str) -> str:
    ends = (rf"(?P<{name}>{NUMBER})\s*%?" for name in (low, high))
    return rf"[\[(]\s*{BETWEEN.join(ends)}\s*[\])]"


QUANTITY = re.compile(
    rf"(?<![\w.\-])(?:(?P<value>{NUMBER})(?![\w])(?!\.\d)(?:\s*%)?"
    rf"(?:\s*±\s*(?P<spread>{NUMBER})(?![\w])(?:\s*%)?)?"
    rf"(?:\s*{_pair('low', 'high')})?|{_pair('from', 'upto')})"
)


@dataclass(frozen=True)
class Quantity:
    """A number with what is printed around it."""

    value: Decimal | None
    percent: bool = False
    spread: Decimal | None = None
    low: Decimal | None = None
    high: Decimal | None = None

    @property
    def is_interval(self) -> bool:
        """Whether it is two ends without a value between them."""
        return self.value is None


def quantities(latex: str) -> list[Quantity]:
    """Every number of a piece of LaTeX, in reading order."""
    return [_quantity(match) for match in QUANTITY.finditer(rewritten(latex))]


def printed(latex: str) -> list[str]:
    """The same numbers, each as text that reads back as itself."""
    return [match[0] for match in QUANTITY.finditer(rewritten(latex))]


def rewritten(latex: str) -> str:
    """LaTeX as plain text, as far as numbers go."""
    for pattern, put in REWRITTEN:
        latex = re.sub(pattern, put, latex)
    return latex


def _quantity(match: re.Match[str]) -> Quantity:
    def of(*names: str) -> Decimal | None:
        found = next((match[name] for name in names if match[name]), None)
        return None if found is None else Decimal(found.replace(",", ""))

    return Quantity(
        of("value"), "%" in match[0], of("spread"), of("low", "from"), of("high", "upto")
    )


def disagreement(quantity: Quantity, cell: Cell, part: str) -> str:
    """In what a printed number differs from the `part` of a cell, in one clause; empty if in none.

    A fraction that the table prints in percent is printed in percent, or tied to its `fraction`.
    """
    if quantity.percent and (not cell.format.percent or part in ("fraction", "n")):
        return "is printed in percent, and its run's number is not one"
    if (part == "interval") != quantity.is_interval:
        return f"is {'an interval' if quantity.is_interval else 'no interval'}"
    ends = part in ("", "bare", "abs", "fraction", "interval")
    pairs = [
        ("", quantity.value, None if part == "interval" else _number(cell, part)),
        ("± ", quantity.spread, cell.spread if part in ("", "bare", "abs", "fraction") else None),
        ("low end ", quantity.low, cell.low if ends else None),
        ("high end ", quantity.high, cell.high if ends else None),
    ]
    said = (_differs(name, printed, x, cell, part) for name, printed, x in pairs)
    return "; ".join(filter(None, said))


def _number(cell: Cell, part: str) -> float | int | None:
    value = cell.number
    if part == "abs":
        return None if value is None else abs(value)
    own = {"low": cell.low, "high": cell.high, "std": cell.spread, "n": cell.n}
    return own.get(part, value)


def _differs(
    name: str, printed: Decimal | None, x: float | int | None, cell: Cell, part: str
) -> str:
    if printed is None:
        return ""
    if x is None:
        return f"prints {name}{printed}, and its run has none"
    percent = cell.format.percent and part not in ("fraction", "n")
    if agrees(printed, x, percent):
        return ""
    return f"prints {name}{printed}, its run says {name}{nearest(printed, x, percent)}"


def agrees(printed: Decimal, x: float | int, percent: bool = False) -> bool:
    """Whether `printed` is `x` rounded to as many digits; of a half, either way counts.

    A half of the shortest decimal of `x` is one too: 2.675 is stored as 2.67499...
    """
    half = Decimal(5).scaleb(_exponent(printed) - 1)
    return any(abs(printed - exact) <= half for exact in _exactly(x, percent))


def nearest(printed: Decimal, x: float | int, percent: bool = False) -> Decimal:
    """`x` rounded to the digits of `printed`; never -0."""
    exact = _exactly(x, percent)[0]
    unit = Decimal(1).scaleb(_exponent(printed))
    if exact.adjusted() - _exponent(printed) > 20:  # more digits than a Decimal takes
        return exact.normalize()
    found = exact.quantize(unit)
    return found if found else abs(found)


def _exponent(printed: Decimal) -> int:
    exponent = printed.as_tuple().exponent
    assert isinstance(exponent, int), f"{printed} is not finite"
    return exponent


def _exactly(x: float | int, percent: bool) -> tuple[Decimal, ...]:
    return tuple(Decimal(text).scaleb(2 if percent else 0) for text in (x, repr(x)))
