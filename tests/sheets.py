"""Sheets that several tests print, and a strict reader of pages."""

from html.parser import HTMLParser

from hypothesis import strategies as st

from papertrail.tables.sheet import Cell, Column, Format, Sheet, measured, missing, refused

PERCENT = Format(digits=1, percent=True)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
FORMATS = st.builds(Format, digits=st.integers(0, 6), percent=st.booleans(), sign=st.booleans())
ARBITRARY = st.text(max_size=40)
VOID = {"meta", "br", "link", "img", "hr"}


def sheet_of(*cells: Cell, better: str | None = "lower", **more: object) -> Sheet:
    """One row per cell, labelled r0, r1, ..."""
    columns = (Column(key="model", title="Model"), Column(key="x", title="PPL", better=better))
    rows = tuple({"model": Cell(value=f"r{i}"), "x": cell} for i, cell in enumerate(cells))
    return Sheet(**({"name": "t", "title": "T", "columns": columns, "rows": rows} | more))


def attacks() -> Sheet:
    """Shaped like the real table: interval, std, a missing and a refused cell."""
    columns = (
        Column(key="model", title="Model"),
        Column(key="ppl", title="Clean PPL", better="lower", help="Perplexity, test split."),
        Column(key="gap", title="PPL gap"),
        Column(key="hotflip", title="HotFlip success", better="lower"),
        Column(key="query", title="Query search"),
        Column(key="transfer", title="Transfer"),
        Column(key="dnll", title="ΔNLL", better="lower", latex=r"$\Delta$NLL"),
    )

    def row(name: str, i: int, query: Cell, gap: Cell) -> dict[str, Cell]:
        rate = 0.635 - 0.43 * i
        return {
            "model": Cell(value=name),
            "ppl": measured(24.3 + i, spread=0.21, n=3, runs=(f"{i}a", f"{i}b", f"{i}c")),
            "gap": gap,
            "hotflip": measured(rate, interval=(rate - 0.07, rate + 0.07), n=200, format=PERCENT,
                                runs=(f"{i}d",)),
            "query": query,
            "transfer": measured(0.285, interval=(0.227, 0.351), n=200, format=PERCENT),
            "dnll": measured(0.4 - i, spread=0.1, n=3, format=Format(digits=3, sign=True)),
        }  # fmt: skip

    gate = refused("success falls between 5 and 6 flips", runs=("1e",))
    rows = (
        row("baseline", 0, measured(0.31, format=PERCENT), missing("no gap to itself")),
        row("monotone", 1, gate, measured(0.105, format=PERCENT, note="n = 3 of 5 seeds")),
    )
    links = {f"{i}{k}": f"http://host:5000/#/runs/{i}{k}" for i in range(2) for k in "abcde"}
    return Sheet(name="attack_success", title="Attack success", caption="Eight flips.",
                 columns=columns, rows=rows, footnotes=("One note on all of it.",), links=links,
                 provenance={"git": "3f9c2ab", "created": "2026-11-21"})  # fmt: skip


class Page(HTMLParser):
    """Reads a page strictly: every end tag must close the element that is open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    def text(self) -> str:
        return "".join(self.words).replace("\N{MINUS SIGN}", "-").replace("\xa0", " ")
