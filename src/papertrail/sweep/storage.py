"""Where a study is kept, so that processes of several machines can share it.

A study is only the order of points: results are runs. A study that is lost is begun anew, and its
points are answered by the runs that stand.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from papertrail.core.errors import Missing, in_a_line
from papertrail.core.storage.store import Store
from papertrail.core.writing import heartbeat
from papertrail.sweep import trials

SCHEMA = "papertrail_sweeps"
"""In PostgreSQL: MLflow and Optuna have a table alembic_version each."""
BUSY_SECONDS = 60  # SQLite has one writer at a time

optuna.logging.set_verbosity(optuna.logging.ERROR)  # what a trial came to, we say ourselves


def address(named: str, store: Store) -> str:
    """The database of a sweep: the one named, the tracking store's, or a file beside its work."""
    found = named or (store.uri if store.uri.startswith("postgresql") else "")
    if not found:
        return f"sqlite:///{store.work / 'sweeps.db'}"
    scheme, _, rest = found.partition("://")
    return f"postgresql+psycopg://{rest}" if scheme.startswith("postgresql") else found


@contextmanager
def connected(named: str, store: Store) -> Iterator[RDBStorage]:
    """That database, its tables made if need be; Missing where it cannot be reached."""
    url = address(named, store)
    try:
        with store.lock("sweeps"):
            kept = _connected(url)
    except SQLAlchemyError as error:
        where = "the option storage" if named else "the tracking store"
        raise Missing(f"storage: {in_a_line(error)} (address from {where})") from None
    try:
        yield kept
    finally:
        kept.remove_session()
        kept.engine.dispose()


def _connected(url: str) -> RDBStorage:
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}}
    if url.startswith("postgresql"):
        _make_schema(url)
        options = {"connect_args": {"options": f"-csearch_path={SCHEMA}"}}
    interval = max(1, round(heartbeat.interval()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # of the heartbeat
        return RDBStorage(
            url,
            options,
            heartbeat_interval=interval,
            grace_period=max(1, round(heartbeat.SILENCE * interval)),
            heartbeat_stale_trial_callback=trials.retry,
        )


def _make_schema(url: str) -> None:
    engine = create_engine(url)
    try:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
    finally:
        engine.dispose()
