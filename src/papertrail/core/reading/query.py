"""Which runs there are: as records one by one, or many as one tidy typed frame."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException

from papertrail.core.errors import Missing
from papertrail.core.patience import away
from papertrail.core.question.identity import spelled
from papertrail.core.reading.record import Record
from papertrail.core.storage.selection import Wanted, columns, read
from papertrail.core.storage.sql import Which
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing.pruning import SWEEP

if TYPE_CHECKING:
    import pandas as pd  # a finished run is looked up without waiting for pandas

RUN_ID = re.compile("[0-9a-f]{32}")
EXPERIMENT, IDENTITY = "papertrail.experiment", "papertrail.identity"
ORIGIN = "papertrail.imported_from"
"""Id that an imported run had in the store that computed it: papers and artifacts know it by that.
"""


def by_id(run_id: str, store: Store | None = None) -> Record:
    """The record of one run, deleted or not; Missing if the store has none."""
    store = store or connect()
    try:
        return by_ids([run_id], store)[run_id]
    except KeyError:
        raise Missing(f"run {run_id}: not in {store.shown}") from None
    except MlflowException as error:
        if away(error):
            raise
        raise Missing(f"run {run_id}: not in {store.shown} ({error.error_code})") from None


def by_ids(run_ids: Sequence[str], store: Store) -> dict[str, Record]:
    """Records of those runs that the store still has, deleted ones included.

    A run that was imported is also found by the id that it had before.
    """
    found = {r.run_id: r for r in _records(store, Which(ids=run_ids, deleted=True))}
    if gone := [one for one in run_ids if one not in found and RUN_ID.fullmatch(one)]:
        found |= {r.tags[ORIGIN]: r for r in _records(store, Which(tag=(ORIGIN, gone)))}
    return {run_id: found[run_id] for run_id in run_ids if run_id in found}


def names_of(record: Record) -> list[str]:
    """The id of a run, and the one that it had before it was imported."""
    return list(dict.fromkeys([record.run_id, record.tags.get(ORIGIN, record.run_id)]))


def by_identities(identities: Sequence[str], store: Store) -> dict[str, list[Record]]:
    """Every run that asked each of these questions, newest first; an empty list where none did."""
    found: dict[str, list[Record]] = {identity: [] for identity in identities}
    for record in _records(store, Which(tag=(IDENTITY, list(found)))):
        found[record.tags[IDENTITY]].append(record)
    return found


def tagged(key: str, value: str, store: Store) -> list[Record]:
    """Every run that carries this tag, newest first."""
    return _records(store, Which(tag=(key, [value])))


def usable(
    experiment: str,
    store: Store | None = None,
    where: Mapping[str, object] | None = None,
    *,
    trials: bool = False,
) -> list[Record]:
    """Every usable run of an experiment whose options equal `where`, newest first.

    Runs that were computed for a sweep alone count only with `trials`.
    """
    wanted = {key: spelled(value) for key, value in (where or {}).items()}
    which = Which(tag=(EXPERIMENT, [experiment]), status="FINISHED")
    return [
        record
        for record in _records(store or connect(), which)
        if (trials or SWEEP not in record.tags)
        and all(record.config.get(key) == value for key, value in wanted.items())
        and not record.unusable()
    ]


def runs_table(
    store: Store | None = None,
    *,
    experiment: str | None = None,
    params: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    status: str | None = None,
    deleted: bool = False,
) -> pd.DataFrame:
    """One row per run, newest first, with the columns and the contents of `mlflow.search_runs`.

    Of `params`, `metrics` and `tags` all keys are read, or those that are named, each a column
    even where no run has it. `deleted` adds deleted runs. Nothing is judged: see `usable`.
    """
    import pandas as pd

    tag = None if experiment is None else (EXPERIMENT, [experiment])
    which = Which(tag=tag, status=status, deleted=deleted)
    wanted: Wanted = {"metrics": metrics, "params": params, "tags": tags}
    found = read(store or connect(), which, lambda selection: columns(selection, wanted))
    table = pd.DataFrame(found)
    for name in ("start_time", "end_time"):
        table[name] = pd.to_datetime(table[name], unit="ms", utc=True).dt.as_unit("us")
    return table


def frame(
    records: Sequence[Record], by: Sequence[str], metrics: Sequence[str], allow_failed: bool = False
) -> pd.DataFrame:
    """One row per record: `run_id`, the options in `by` (typed), and `metrics` as floats.

    Missing, naming the runs, if a metric is absent (a hole), if two runs share all of `by` (a
    duplicate) or if a run failed one of its own gates.
    """
    import pandas as pd

    rows = [
        {"run_id": r.run_id}
        | {key: _typed(r.config.get(key)) for key in by}
        | {key: r.metrics.get(key) for key in metrics}
        for r in records
    ]
    table = pd.DataFrame(rows, columns=["run_id", *by, *metrics])
    _refuse_holes(table, [*by, *metrics])
    _refuse_twins(table, list(by))
    if not allow_failed:
        _refuse_failed(records)
    return table


def runs(
    experiment: str,
    by: Sequence[str],
    metrics: Sequence[str],
    where: Mapping[str, object] | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """`frame` of all usable runs of `experiment` whose options equal `where`."""
    found = usable(experiment, store, where)
    if not found:
        raise Missing(f"{experiment}: no usable run with {dict(where or {}) or 'any options'}")
    return frame(found, by, metrics)


def _records(store: Store, which: Which) -> list[Record]:
    return [Record(store, run) for run in read(store, which, lambda selection: selection.runs())]


def _typed(text: str | None) -> Any:
    """MLflow keeps every param as text; numbers and booleans come back as what they were."""
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float, bool)) else text


def _refuse_holes(table: pd.DataFrame, columns: list[str]) -> None:
    holes = table[columns].isna()
    if holes.any(axis=None):
        gaps = {c: table.loc[holes[c], "run_id"].tolist() for c in columns if holes[c].any()}
        raise Missing(f"holes: these runs lack a value: {gaps}; recompute or leave them out")


def _refuse_twins(table: pd.DataFrame, by: list[str]) -> None:
    if by and table.duplicated(by).any():
        twins = table[table.duplicated(by, keep=False)].groupby(by)["run_id"].agg(list).to_dict()
        raise Missing(f"duplicates: several runs share {by}: {twins}; name what tells them apart")


def _refuse_failed(records: Sequence[Record]) -> None:
    failed = {r.run_id: r.failed_gates for r in records if r.failed_gates}
    if failed:
        raise Missing(f"failed gates: {failed}; look at the runs before using their numbers")
