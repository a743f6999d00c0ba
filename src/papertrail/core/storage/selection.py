"""Many runs at once: from MLflow's tables where they can be read, else page by page by its API."""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from mlflow.entities import Run, RunInfo, ViewType
from mlflow.store.entities import PagedList

from papertrail.core import progress
from papertrail.core.storage import sql
from papertrail.core.storage.sql import Cell, Kind, Which
from papertrail.core.storage.store import Store

PAGE = 1000
IDS = 100
"""Run ids in one question to a server: a filter has to stay short enough for it."""
ATTRIBUTES = ("run_id", "experiment_id", "status", "artifact_uri", "start_time", "end_time")
BLANK: Mapping[Kind, float | None] = {"metrics": math.nan, "params": None, "tags": None}
"""Where a run has no value; in a metric that is NaN as well. As `mlflow.search_runs` has it."""
Wanted = Mapping[Kind, Sequence[str] | None]
"""The keys to read of each kind; all of them where None."""
T = TypeVar("T")


@dataclass(frozen=True)
class ApiSelection:
    """Runs as MLflow's API gives them."""

    store: Store
    which: Which

    @property
    def infos(self) -> list[RunInfo]:
        return [run.info for run in self._runs]

    def cells(self, kind: Kind, keys: Sequence[str] | None = None) -> Iterator[Cell]:
        wanted = None if keys is None else frozenset(keys)
        for run in self._runs:
            for key, value in getattr(run.data, kind).items():
                if wanted is None or key in wanted:
                    yield run.info.run_id, key, None if _is_nan(value) else value

    def runs(self) -> list[Run]:
        return self._runs

    @cached_property
    def _runs(self) -> list[Run]:
        view = ViewType.ALL if self.which.deleted else ViewType.ACTIVE_ONLY
        experiments = [e.experiment_id for e in _experiments(self.store, view)]
        if not experiments:
            return []
        search = self.store.client.search_runs
        found = [
            run
            for clause in _clauses(self.which)
            for run in _pages(lambda token: search(experiments, clause, view, PAGE, None, token))  # noqa: B023
        ]
        return sorted(found, key=lambda run: (-run.info.start_time, run.info.run_id))


Selection = sql.Selection | ApiSelection
"""Runs that were asked for, newest first."""


def read(store: Store, which: Which, work: Callable[[Selection], T]) -> T:
    """What `work` makes of those runs.

    Where MLflow's tables cannot be read, the reason is said once and `work` is done through the
    API, which is right and slow. A store behind a server is always read that way.
    """
    if not store.uri.startswith("http"):
        try:
            with sql.opened(store.uri) as tables:
                return work(tables.select(which))
        except sql.Unreadable as error:
            line = f"store: {error}; runs are read through MLflow's API, which takes longer"
            progress.say_once(line, line)
    return work(ApiSelection(store, which))


def columns(selection: Selection, wanted: Wanted) -> dict[str, list[Any]]:
    """Column name -> one value per run; a key that is named is a column even if no run has it."""
    infos = selection.infos
    table = {name: [getattr(info, name) for info in infos] for name in ATTRIBUTES}
    row_of = {run_id: row for row, run_id in enumerate(table["run_id"])}
    for kind, keys in wanted.items():
        if keys is None:
            found = sorted(_pivot(selection.cells(kind), row_of, BLANK[kind], {}).items())
        else:
            blank = {key: [BLANK[kind]] * len(infos) for key in keys}
            cells = selection.cells(kind, keys) if keys else ()
            found = list(_pivot(cells, row_of, BLANK[kind], blank).items())
        table |= {f"{kind}.{key}": column for key, column in found}
    return table


def _pivot(
    cells: Iterable[Cell],
    row_of: Mapping[str, int],
    blank: float | None,
    found: dict[str, list[Any]],
) -> dict[str, list[Any]]:
    """Key -> a value per run, from cells in any order."""
    for run_id, key, value in cells:
        row = row_of.get(run_id)
        if row is None:
            continue  # not one of ours, or it began a moment ago
        column = found.get(key)
        if column is None:
            column = found[key] = [blank] * len(row_of)
        if value is not None:
            column[row] = value
    return found


def _clauses(which: Which) -> Iterator[str]:
    """Filters that together find the runs: MLflow knows no `or`, and `in` for run ids only."""
    common = [] if which.status is None else [f"attributes.status = '{which.status}'"]
    if which.ids is not None:
        # No other text is a run id, and quotes would end the filter.
        ids = [run_id for run_id in which.ids if re.fullmatch(r"[\w-]+", run_id)]
        for start in range(0, len(ids), IDS):
            some = ", ".join(f"'{run_id}'" for run_id in ids[start : start + IDS])
            yield " and ".join([*common, f"attributes.run_id IN ({some})"])
    elif which.tag is not None:
        key, values = which.tag
        for value in values:
            quote = '"' if "'" in value else "'"
            yield " and ".join([*common, f"tags.`{key}` = {quote}{value}{quote}"])
    else:
        yield " and ".join(common)


def _experiments(store: Store, view: Any) -> Iterator[Any]:
    return _pages(
        lambda token: store.client.search_experiments(view, max_results=PAGE, page_token=token)
    )


def _pages(ask: Callable[[str | None], PagedList[T]]) -> Iterator[T]:
    """All of it, page after page: one page stops at 1,000 without a word."""
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
