"""A SQLite store that was moved or copied: MLflow keeps absolute addresses of artifacts.

What was computed before is found beside the database (`record.Record`); new runs would still write
to the old place. So the addresses are set right before the first of them begins.
"""

from pathlib import Path

from papertrail.core import progress
from papertrail.core.storage import sql
from papertrail.core.storage.store import Store, folder_behind


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
        # In a copy, runs of before keep their addresses: not everything may have been copied.
        try:
            sql.readdress(store.uri, experiment_id, noted, new.as_uri(), whole=not old.exists())
        except sql.Unreadable as error:
            progress.say(f"{store.shown} has moved, but {error}: artifacts still go to {old}")
        else:
            progress.say(f"{store.shown} has moved: artifacts go to {new} now, no longer to {old}")


def _same(old: Path, new: Path) -> bool:
    return old.exists() and old.samefile(new)
