"""A SQLite store that was moved or copied: MLflow keeps absolute addresses of artifacts.

What was computed before is found beside the database (`query.Record`); new runs would still write
to the old place. So the addresses are set right before the first of them begins.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from papertrail.core import progress
from papertrail.core.store import Store, folder_behind, sqlite_path


def settle(store: Store, experiment_id: str) -> None:
    """Have new runs of an MLflow experiment write beside their database, where it stands now."""
    if not store.uri.startswith("sqlite"):
        return
    noted = store.client.get_experiment(experiment_id).artifact_location
    old = folder_behind(noted)
    if old is None:
        return
    new = store.beside / "mlruns" / old.name
    if old.parent.name == "mlruns" and new.is_dir() and not _same(old, new):
        _rewrite(store, experiment_id, noted, new, whole=not old.exists())
        progress.say(f"{store.uri} has moved: artifacts go to {new} now, no longer to {old}")


def _same(old: Path, new: Path) -> bool:
    return old.exists() and old.samefile(new)


def _rewrite(store: Store, experiment_id: str, noted: str, new: Path, whole: bool) -> None:
    """MLflow has no call for this. Runs of before keep their addresses in a copy, where the old
    place is still there: not everything may have been copied."""
    address = new.as_uri()
    with closing(sqlite3.connect(sqlite_path(store.uri), timeout=60)) as connection, connection:
        connection.execute(
            "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?",
            (address, experiment_id),
        )
        if whole:
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?) "
                "WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                (address, len(noted) + 1, experiment_id, len(noted) + 1, f"{noted}/"),
            )
