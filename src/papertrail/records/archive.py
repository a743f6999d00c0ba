"""A study in a folder, for the paper's supplement and for another store; and back from there.

Everything in it is JSON, CSV or the file as the run logged it, so that a reader in twenty years
needs neither MLflow nor papertrail.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from papertrail.core import bag, progress
from papertrail.core.errors import BadInput, Missing
from papertrail.core.reading import ported, query, registry
from papertrail.core.reading.ported import RunFacts, RunId
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect, in_one_line
from papertrail.core.writing.run import parents_of
from papertrail.core.writing.track import commit, conclude
from papertrail.records.commands import Archive, Exporting

STUDY, CONTENTS, RUNS = "papertrail.study", "data/archive.json", "data/runs"
AT_ONCE = 8
"""Runs on their way to a server at the same time: each of its calls waits 15 ms or so."""
README = """\
Runs of machine-learning experiments, written by papertrail (https://mlflow.org runs).
This folder is a bag after RFC 8493 (BagIt): `sha256sum -c manifest-sha256.txt` checks it.

data/archive.json           which runs, oldest first, and what they were chosen by
data/runs/ID/run.json       a run: its options (params, cfg.*), tags, status, times in ms since 1970
                            (UTC), the datasets that it read, the names its model was registered by
data/runs/ID/metrics.csv    every point of every metric: key, step, time in ms, value (nan and inf
                            as such; MLflow keeps an infinity as 1.7976931348623157e+308)
data/runs/ID/artifacts/     the files of the run as it logged them; manifest.json has their SHA-256,
                            config.yaml its options, results/*.json its numbers

papertrail.parents* in the tags are the runs that a run was built on, mlflow.parentRunId is the run
that ordered it. papertrail.imported_from is the id that a run had before it was imported.
"""
A = TypeVar("A")
B = TypeVar("B")


class Contents(BaseModel):
    """What an archive is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    chosen_by: str
    code: str
    """Commit of papertrail that wrote it."""
    runs: list[RunId]
    """Oldest first."""


def export(command: Any, config: Exporting, execution: Any) -> None:
    """Write the runs that `config` names, and what they were built on, into a new folder."""
    with in_one_line():
        store = connect()
        folder = _new(config.folder)
        asked = _asked(config, store)
        records = _with_parents(asked, config.unusable, store)
        if config.plan:
            size = sum(size for one in records for _, size in ported.files(one))
            print(f"{_counted(records)} with {size / 1e6:.1f} MB of files would go to {folder}")
            return
        with store.lock("export"):
            _new(config.folder)  # whoever held the lock may have made it
            digest = _written(records, folder, _chosen_by(config))
    conclude(store, f"exported to {folder.name}", f"{len(records)} runs, archive {digest}")
    print(f"{_counted(records)} in {folder}\narchive {digest}")


def import_(command: Any, config: Archive, execution: Any) -> None:
    """Check an archive as a whole, then bring the runs that are not there yet into the store."""
    with in_one_line():
        folder = Path(config.folder)
        if not config.folder or not folder.is_dir():
            raise BadInput(f"folder: no such folder ({config.folder}); write -P folder=PATH")
        runs, payload, digest = _read(folder)
        store = connect()
        with store.lock("import"):
            new, ids = _sorted_out(runs, store)
            if config.plan:
                wanted = {one.run_id for one in new}
                size = bag.size(folder, [name for name in payload if _run_of(name) in wanted])
                where = f"{len(new)} of {len(runs)} runs, {size / 1e6:.1f} MB"
                print(f"{where}, are not in {store.shown} yet\narchive {digest}")
                return
            _brought(new, ids, folder, store, digest)
            _register(runs, ids, store)
    conclude(store, f"imported {folder.name}", f"{len(new)} runs of archive {digest}")
    print(f"imported {len(new)} runs, {len(runs) - len(new)} were there\narchive {digest}")


def _new(text: str) -> Path:
    folder = Path(text)
    if not text:
        raise BadInput("folder: not given; write -P folder=PATH")
    if folder.exists():
        raise BadInput(f"folder: it is there already ({text}); name a new one")
    return folder


def _asked(config: Exporting, store: Store) -> list[Record]:
    if bool(config.study) == bool(config.ids):
        raise BadInput("export: give study=NAME, or ids=[ID,...]")
    if config.study:
        found = query.tagged(STUDY, config.study, store)
        asked = [one for one in found if config.unusable or not one.unusable()]
        if not asked:
            raise Missing(f"study: {len(found)} runs of {config.study} are in the store, and none "
                          "of them is an answer")  # fmt: skip
        return asked
    known = query.by_ids(config.ids, store)
    if unknown := [run_id for run_id in config.ids if run_id not in known]:
        raise BadInput(f"ids: not in {store.shown} ({unknown[0]})")
    for one in known.values():
        if not config.unusable and (reason := one.unusable()):
            raise Missing(f"run {one.run_id}: {reason}; add unusable=true to keep it all the same")
    return list(known.values())


def _with_parents(asked: Sequence[Record], unusable: bool, store: Store) -> list[Record]:
    """The runs and all that they were built on, oldest first."""
    found = {one.run_id: one for one in asked}
    waiting = list(found.values())
    while waiting:
        wanted = {run_id for one in waiting for run_id in parents_of(one.tags)} - found.keys()
        above = query.by_ids(sorted(wanted), store)
        for gone in sorted(wanted - above.keys()):
            progress.say(f"run {gone}: something was built on it, and it is not in the store")
        waiting = []
        for one in above.values():
            reason = "" if unusable else one.unusable()
            if reason:
                progress.say(f"run {one.run_id}: left out although runs were built on it: {reason}")
            elif one.run_id not in found:
                found[one.run_id] = one
                waiting.append(one)
    return sorted(found.values(), key=lambda one: (one.run.info.start_time, one.run_id))


def _written(records: Sequence[Record], folder: Path, chosen_by: str) -> str:
    """The archive, under its name when it is whole; its digest."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    ids = [one.run_id for one in records]

    def write(one: Record) -> dict[str, str]:
        place = f"{RUNS}/{one.run_id}"
        digests = ported.write(one, part / place, usable=not one.unusable())
        return {f"{place}/{name}": digest for name, digest in digests.items()}

    try:
        written = _each(write, records, "writing", records[0].store)
        known = {name: digest for one in written for name, digest in one.items()}
        contents = Contents(chosen_by=chosen_by, code=commit(), runs=ids)
        (part / CONTENTS).write_text(contents.model_dump_json(indent=1), encoding="utf-8")
        (part / "README.txt").write_text(README, encoding="utf-8")
        digest = bag.seal(part, known, f"{len(ids)} MLflow runs ({chosen_by})")
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return digest


def _read(folder: Path) -> tuple[list[RunFacts], list[str], str]:
    """The runs of an archive that was found whole, its files, and its digest."""
    with progress.bar("checking") as report:
        payload = bag.verify(folder, report)
    try:
        contents = Contents.model_validate_json((folder / CONTENTS).read_bytes())
        runs = [ported.read(folder / RUNS / run_id) for run_id in contents.runs]
    except (OSError, ValidationError) as error:
        line = " ".join(str(error).split())[:200]
        raise BadInput(f"folder: {folder} is no archive of runs ({line})") from None
    listed = {_run_of(name) for name in payload} - {""}
    if sorted(listed) != sorted(contents.runs) or [one.run_id for one in runs] != contents.runs:
        raise BadInput(f"folder: {folder} has other runs than {CONTENTS} says")
    return runs, list(payload), bag.sha256(folder / bag.TAGS)


def _run_of(name: str) -> str:
    """The run that a file of an archive belongs to; empty for what is about all of them."""
    return name.split("/")[2] if name.startswith(f"{RUNS}/") else ""


def _sorted_out(runs: Sequence[RunFacts], store: Store) -> tuple[list[RunFacts], dict[str, str]]:
    """The runs that have yet to arrive; id in the archive -> id here, where there is one."""
    there = query.by_ids([one.origin for one in runs], store)
    active = {
        origin: one for origin, one in there.items() if one.run.info.lifecycle_stage == "active"
    }
    ids = {one.run_id: active[one.origin].run_id for one in runs if one.origin in active}
    new = [one for one in runs if one.origin not in active or _half(active[one.origin], one.origin)]
    return new, ids


def _half(record: Record, origin: str) -> bool:
    """Whether it is an import that was interrupted."""
    return record.run_id != origin and ported.IMPORTED not in record.tags


def _brought(
    new: Sequence[RunFacts], ids: dict[str, str], folder: Path, store: Store, mark: str
) -> None:
    """Open every run, so that all ids are known, then fill them and see that they are answers."""
    opened = [one for one in new if one.run_id not in ids]
    ids |= zip(
        (one.run_id for one in opened),
        _each(lambda one: ported.create(one, store), opened, "opening", store),
        strict=True,
    )

    def fill(one: RunFacts) -> None:
        ported.fill(one, folder / RUNS / one.run_id, store, ids, mark)

    _each(fill, new, "importing", store)
    arrived = query.by_ids([ids[one.run_id] for one in new], store)
    for one in new:
        record = arrived[ids[one.run_id]]
        reason = (record.unusable() or record.incomplete(thorough=True)) if one.usable else ""
        if reason:
            raise Missing(f"run {one.run_id}: it arrived as {ids[one.run_id]}, but {reason}")


def _each(work: Callable[[A], B], items: Sequence[A], label: str, store: Store) -> list[B]:
    """What `work` makes of each, in order; several at once where each waits for a server."""
    made = []
    with progress.bar(label) as report, ThreadPoolExecutor(AT_ONCE if store.remote else 1) as pool:
        for number, one in enumerate(pool.map(work, items), 1):
            made.append(one)
            report(number / len(items))
    return made


def _register(runs: Sequence[RunFacts], ids: Mapping[str, str], store: Store) -> None:
    """Registered versions as they were; an alias that is taken here stays where it points."""
    for one in runs:
        for model in one.models:
            record = query.by_id(ids[one.run_id], store)
            version = registry.register(record, model.name, model.tags, model.description)
            held = registry.aliases_of(store, model.name)
            for alias in model.aliases:
                if alias not in held:
                    registry.point(store, model.name, alias, version)
                elif held[alias] != version:
                    progress.say(f"{model.name}@{alias}: stays at version {held[alias]}, which was "
                                 f"here; the imported one is version {version}")  # fmt: skip


def _counted(records: Sequence[Record]) -> str:
    kinds = [one.tags.get(query.EXPERIMENT, "other") for one in records]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
    return f"{len(records)} runs ({counts})"


def _chosen_by(config: Exporting) -> str:
    return f"study {config.study}" if config.study else f"ids {', '.join(config.ids)}"
