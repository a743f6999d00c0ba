"""Which lines of which papers print the numbers of a run, as the fills of the papers kept it."""

from collections.abc import Iterable, Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, PositiveInt

from papertrail.core.errors import Missing
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store

PAPER, PATH = "paper", "papertrail.paper"
"""Experiment of a fill, and the tag that says of which file."""


class Quote(BaseModel):
    """One place of a paper that prints a number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    line: PositiveInt
    written: str
    """The macro or comment as it stands there."""
    runs: list[str]
    """Behind the number."""


class Quotes(BaseModel):
    """Everything that a paper quotes, when its numbers were written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    paper: str
    files: dict[str, str]
    """Path -> SHA-256 of the text that the lines are counted in."""
    quotes: list[Quote]


def lines(run_ids: Iterable[str], store: Store) -> list[str]:
    """FILE:LINE: MACRO of every place whose number was computed from these runs.

    Of each paper its newest fill counts: what it printed before is history.
    """
    wanted = set(run_ids)
    return [line for record in _newest(store) for line in _lines(record, wanted)]


def _newest(store: Store) -> Iterator[Record]:
    seen = set()
    for record in query.tagged(query.EXPERIMENT, PAPER, store):
        path = record.tags.get(PATH)
        if path is not None and record.status == "FINISHED" and path not in seen:
            seen.add(path)
            yield record


def _lines(record: Record, wanted: set[str]) -> Iterator[str]:
    try:
        found = Quotes.model_validate(record.json("paper"))
    except Missing as error:
        yield f"{record.tags[PATH]}: which lines is not known ({error})"
        return
    for quote in found.quotes:
        if wanted & set(quote.runs):
            yield f"{quote.file}:{quote.line}: {quote.written}"
