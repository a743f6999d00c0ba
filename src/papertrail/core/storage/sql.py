"""MLflow's own tables, read in bulk: the one module that knows their names.

MLflow's API builds an object for every param and metric; four plain SELECTs bring the same facts
thirty times sooner. Only a schema that was compared with the API is touched: see TRIED. Nothing is
ever written but the new address of a store that was moved, for which MLflow has no call.
"""

import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag
from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from papertrail.core.storage.store import sqlite_path

if TYPE_CHECKING:
    from sqlalchemy import Engine

TRIED = frozenset({"dc11669786a5"})
"""Schema versions (table alembic_version) under which the tests found us equal to the API."""
INFO = {
    "run_id": "run_uuid",
    "experiment_id": "experiment_id",
    "user_id": "user_id",
    "status": "status",
    "start_time": "start_time",
    "end_time": "end_time",
    "lifecycle_stage": "lifecycle_stage",
    "artifact_uri": "artifact_uri",
    "run_name": "name",
}
"""Field of RunInfo -> column of the table runs."""
Kind = Literal["metrics", "params", "tags"]
TABLES: Mapping[Kind, str] = {"metrics": "latest_metrics", "params": "params", "tags": "tags"}
VALUES: Mapping[Kind, str] = {
    "metrics": "CASE WHEN t.is_nan THEN NULL ELSE t.value END",
    "params": "t.value",
    "tags": "t.value",
}
Cell = tuple[str, str, Any]
"""Run id, key and value; a metric that is NaN has the value None."""


class Unreadable(Exception):
    """The tables cannot be read here, for the reason in the message: ask MLflow's API."""


@dataclass(frozen=True, kw_only=True)
class Which:
    """Which runs: every condition that is given holds."""

    ids: Sequence[str] | None = None
    """Only these runs."""
    tag: tuple[str, Sequence[str]] | None = None
    """Only runs whose tag of this key has one of these values."""
    status: str | None = None
    """Only runs of this status, FINISHED for example."""
    deleted: bool = False
    """Deleted runs and those of deleted experiments as well."""


@dataclass(frozen=True)
class Dialect:
    """Where databases want other words."""

    member: str
    """Whether {column} is in the list {name}: bound as one variable, because those are limited."""
    whole: str
    """Hint that all of a table is wanted: through an index each row is looked up on its own."""
    bound: Callable[[Sequence[str]], Any]
    """A list as the driver takes it."""


SQLITE = Dialect("{column} IN (SELECT value FROM json_each(:{name}))", "NOT INDEXED", json.dumps)
POSTGRESQL = Dialect("{column} = ANY(:{name})", "", list)


@dataclass(frozen=True)
class Tables:
    """An open database."""

    dialect: Dialect
    execute: Callable[[str, Mapping[str, Any]], Iterable[Any]]

    def select(self, which: Which) -> "Selection":
        """The runs that `which` describes, in the order of MLflow: newest first."""
        conditions, bound = ["1 = 1"], dict[str, Any]()
        if not which.deleted:
            conditions += ["r.lifecycle_stage = 'active'", "e.lifecycle_stage = 'active'"]
        if which.ids is not None:
            conditions.append(self._member("r.run_uuid", "ids"))
            bound["ids"] = self.dialect.bound(which.ids)
        if which.tag is not None:
            tagged = f"SELECT run_uuid FROM tags WHERE key = :tag AND {self._member('value', 'of')}"
            conditions.append(f"r.run_uuid IN ({tagged})")
            bound |= {"tag": which.tag[0], "of": self.dialect.bound(which.tag[1])}
        if which.status is not None:
            conditions.append("r.status = :status")
            bound["status"] = which.status
        rows = self.execute(
            f"SELECT {', '.join(f'r.{column}' for column in INFO.values())} "
            "FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id "
            f"WHERE {' AND '.join(conditions)} ORDER BY r.start_time DESC, r.run_uuid",
            bound,
        )
        infos = [_info(row) for row in rows]
        return Selection(self, infos, everything=which.ids is None and which.tag is None)

    def cells(
        self, kind: Kind, ids: Sequence[str] | None, keys: Sequence[str] | None, more: str = ""
    ) -> Iterable[Any]:
        """Run id, key, value and the columns `more`; None stands for all runs, all keys."""
        conditions, bound = ["1 = 1"], dict[str, Any]()
        if ids is not None:
            conditions.append(self._member("t.run_uuid", "ids"))
            bound["ids"] = self.dialect.bound(ids)
        if keys is not None:
            conditions.append(self._member("t.key", "keys"))
            bound["keys"] = self.dialect.bound(keys)
        return self.execute(
            f"SELECT t.run_uuid, t.key, {VALUES[kind]} {more} "
            f"FROM {TABLES[kind]} t {self.dialect.whole if ids is None else ''} "
            f"WHERE {' AND '.join(conditions)}",
            bound,
        )

    def points(self, run_id: str) -> Iterable[Any]:
        """Key, step, time and value of every point of a run's metrics; the value None is NaN."""
        return self.execute(
            f"SELECT t.key, t.step, t.timestamp, {VALUES['metrics']} FROM metrics t "
            "WHERE t.run_uuid = :id ORDER BY t.key, t.timestamp, t.step",
            {"id": run_id},
        )

    def _member(self, column: str, name: str) -> str:
        return self.dialect.member.format(column=column, name=name)


@dataclass(frozen=True)
class Selection:
    """Runs of an open database."""

    tables: Tables
    infos: list[RunInfo]
    everything: bool
    """Most of the store was asked for, so that its tables are read from end to end."""

    def cells(self, kind: Kind, keys: Sequence[str] | None = None) -> Iterable[Cell]:
        """Values of these keys, of all keys where None; those of other runs may lie in between."""
        return self.tables.cells(kind, self._ids(), keys)

    def runs(self) -> list[Run]:
        """MLflow's entities, without the datasets and models that went in or came out."""
        metrics, params, tags = (defaultdict[str, list[Any]](list) for _ in range(3))
        when = ", t.timestamp, t.step"
        for run_id, key, value, *rest in self.tables.cells("metrics", self._ids(), None, when):
            metrics[run_id].append(Metric(key, math.nan if value is None else value, *rest))
        for run_id, key, value in self.cells("params"):
            params[run_id].append(Param(key, value))
        for run_id, key, value in self.cells("tags"):
            tags[run_id].append(RunTag(key, value))
        return [
            _run(info, RunData(metrics[info.run_id], params[info.run_id], tags[info.run_id]))
            for info in self.infos
        ]

    def _ids(self) -> list[str] | None:
        return None if self.everything else [info.run_id for info in self.infos]


@contextmanager
def opened(uri: str) -> Iterator[Tables]:
    """The tables behind a tracking address; Unreadable if they are not there or not known."""
    if MLFLOW_ENABLE_WORKSPACES.get():
        raise Unreadable("MLflow's workspaces are switched on")
    with _sqlite(uri) if uri.startswith("sqlite:") else _server(uri) as tables:
        found = [version for (version,) in tables.execute("SELECT * FROM alembic_version", {})]
        if not TRIED.issuperset(found) or not found:
            raise Unreadable(f"its schema ({', '.join(found) or 'none'}) is not a known one")
        yield tables


@contextmanager
def _sqlite(uri: str) -> Iterator[Tables]:
    """sqlite3 itself: SQLAlchemy is not imported, which a finished run's page would wait for."""
    try:
        address = f"{sqlite_path(uri).as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            yield Tables(SQLITE, connection.execute)
    except sqlite3.Error as error:
        raise Unreadable(f"SQLite says: {error}") from error


@contextmanager
def _server(uri: str) -> Iterator[Tables]:
    """A read-only snapshot that ends with the block."""
    if not uri.startswith("postgresql"):
        raise Unreadable(f"{uri.partition(':')[0]} is read through MLflow's API only")
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with _engine(uri).connect() as connection:
            yield Tables(POSTGRESQL, lambda query, bound: connection.execute(text(query), bound))
    except (SQLAlchemyError, ImportError) as error:  # the driver is a package of its own
        raise Unreadable(str(error).partition("\n")[0]) from error


def readdress(uri: str, experiment_id: str, old: str, new: str, whole: bool) -> None:
    """Set where an experiment of a SQLite store keeps artifacts, and with `whole` its runs too.

    Unreadable, with nothing written, if the schema is not a known one.
    """
    with opened(uri):
        pass
    with closing(sqlite3.connect(sqlite_path(uri), timeout=60)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (new, experiment_id),
        )
        if whole:
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (new, len(old) + 1, experiment_id, len(old) + 1, f"{old}/"),
            )


@cache
def _engine(uri: str) -> "Engine":
    from sqlalchemy import create_engine
    from sqlalchemy.pool import NullPool

    engine = create_engine(uri, poolclass=NullPool, isolation_level="REPEATABLE READ")
    return engine.execution_options(postgresql_readonly=True)


def _info(row: Sequence[Any]) -> RunInfo:
    fields = dict(zip(INFO, row, strict=True))
    return RunInfo(**fields | {"experiment_id": str(fields["experiment_id"])})


def _run(info: RunInfo, data: RunData) -> Run:
    """As MLflow does it: a run that was made before runs had names is named by its tag."""
    if not info.run_name and data.tags.get(MLFLOW_RUN_NAME):
        info._set_run_name(data.tags[MLFLOW_RUN_NAME])
    return Run(info, data)
