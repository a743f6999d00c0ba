"""Spools that were left: what waits in this work folder, and sending it.

A store that was away while a run came to its end, a process that was killed: their spools hold what
the store lacks. Nothing of a process that still computes is touched.
"""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from papertrail.core import progress
from papertrail.core.errors import Missing
from papertrail.core.patience import away, patiently, why_away
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Command
from papertrail.core.reading import query
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing import heartbeat, parts, sending, spool, track
from papertrail.core.writing.sending import Delivered


@in_one_line()
def sync(command: Command, config: Any, execution: Execution) -> None:
    """Say what waits and send it, oldest first. Missing if some of it still waits afterwards."""
    store = connect()
    folders = [one for one in spool.left(store.work) if config.run in ("", spool.run_of(one))]
    print(f"{len(folders)} waiting in {store.work / spool.FOLDER}" if folders else "nothing waits")
    if config.plan:
        print("\n".join(map(described, folders)), end="\n" if folders else "")
        return
    found = [_sent(folder, store) for folder in folders]
    spool.tidy(store.work)
    track.conclude(store, "sync", f"Sent what {len(found)} runs had left on disk.")
    if waiting := [one for one in found if one.trouble]:
        raise Missing(f"{len(waiting)} of {len(found)} spools still wait; the reasons stand above")


def described(folder: Path) -> str:
    """One line about a spool, from what lies on disk alone."""
    head, status = spool.head_of(folder), spool.ending_of(folder) or "not at its end"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    age = progress.duration(time.time() - float(head.get("time", folder.stat().st_mtime)))
    name = f"{head.get('experiment', '')} {folder.name.partition('.')[0]}".strip()
    where = f"for {head['store']}" if head else "without a first record"
    return f"run {spool.run_of(folder)}: {name}, {status}, {size / 1e6:.2f} MB, {age} old, {where}"


def _sent(folder: Path, store: Store) -> Delivered:
    run_id = spool.run_of(folder)
    dead = partial(_dead, store, run_id)
    try:
        send = partial(sending.deliver, folder, store, dead)
        found = patiently(send, f"tracking store {store.shown}")
    except Exception as error:
        if not away(error):
            raise
        raise Missing(f"{store.shown} is away ({why_away(error)}); the rest still waits") from error
    if found.trouble:
        print(f"run {run_id}: waits: {found.trouble}", flush=True)
    else:
        ended = found.status or "its process died, the same command goes on with it"
        print(f"run {run_id}: sent ({ended})", flush=True)
        if found.status == "FINISHED":
            _tidy(folder.name.partition(".")[0], store)
    return found


def _tidy(identity: str, store: Store) -> None:
    """Let go of checkpoints that nothing will resume from, unless somebody computes there."""
    lock = store.lock(identity)
    try:
        lock.acquire(timeout=0)
    except TimeoutError:
        return
    try:
        parts.discard(store.folder(identity))
    finally:
        lock.release()


def _dead(store: Store, run_id: str, head: Mapping[str, Any]) -> bool:
    """Whether the process of another machine gives no signs of life any more."""
    try:
        status = query.by_id(run_id, store).status
    except Missing:
        return False
    return status != "RUNNING" or heartbeat.silent(store, run_id)
