"""A run as plain facts, on its way from one store to another.

MLflow gives every run a new id. The one that it had first stays with it as a tag, by which it is
found again; ids of other runs in its tags are replaced by theirs in the new store. Artifacts are
carried unchanged, for their digests are what makes the run an answer.
"""

import csv
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as MlflowRun
from pydantic import BaseModel, ConfigDict, StringConstraints

from papertrail.core import bag
from papertrail.core.errors import Missing
from papertrail.core.paths import checked, inside
from papertrail.core.reading import query, registry
from papertrail.core.reading.query import ORIGIN
from papertrail.core.reading.record import Record
from papertrail.core.storage import sql
from papertrail.core.storage.store import Store
from papertrail.core.writing.run import COMPLETE

RUN, METRICS, ARTIFACTS = "run.json", "metrics.csv", "artifacts"
COLUMNS = ("key", "step", "timestamp", "value")
IMPORTED = "papertrail.imported"
"""Tag of a run that has arrived whole; its value is the digest of the archive."""
PARENT = "mlflow.parentRunId"
METRICS_PER_CALL, OTHERS_PER_CALL = 1000, 100  # MLflow's own limits
ID_IN_TEXT = re.compile(rf"(?<![0-9a-f]){query.RUN_ID.pattern}(?![0-9a-f])")


RunId = Annotated[str, StringConstraints(pattern=rf"^{query.RUN_ID.pattern}$")]


class Facts(BaseModel):
    """One closed form for what is in an archive and what may be read from one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Facts):
    """A dataset that a run read."""

    name: str
    digest: str
    source_type: str
    source: str
    form: str | None
    profile: str | None
    tags: dict[str, str]


class Version(Facts):
    """A version of a registered model."""

    name: str
    aliases: list[str]
    tags: dict[str, str]
    description: str


class RunFacts(Facts):
    """Everything that MLflow keeps of a run, without its metrics and its files."""

    version: Literal[1] = 1
    run_id: RunId
    experiment: str
    name: str
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
    start_time: int
    """Milliseconds since 1970, as `end_time`."""
    end_time: int | None
    usable: bool
    """Whether it was an answer where it came from."""
    params: dict[str, str]
    tags: dict[str, str]
    datasets: list[Data]
    models: list[Version]

    @property
    def origin(self) -> str:
        """The id that the run had in the store that computed it."""
        return self.tags.get(ORIGIN, self.run_id)


def files(record: Record, under: str = "") -> Iterator[tuple[str, int]]:
    """Name and bytes of every artifact of a run, with its folders walked through."""
    for one in record.store.client.list_artifacts(record.run_id, under or None):
        if one.is_dir:
            yield from files(record, checked(one.path))
        else:
            yield checked(one.path), one.file_size or 0


def write(record: Record, folder: Path, usable: bool) -> dict[str, str]:
    """Write a run to `folder`; the SHA-256 of each of its artifacts by name under it.

    Missing where a file is not what the run's own manifest says.
    """
    folder.mkdir(parents=True)
    digests = {}
    for name, _ in files(record):
        source = record.artifact(name)
        digests[name] = bag.copy(source, inside(folder / ARTIFACTS, name))
    if usable:
        _compare(record, digests)
    _write_metrics(record, folder / METRICS)
    (folder / RUN).write_text(_facts(record, usable).model_dump_json(indent=1), encoding="utf-8")
    return {f"{ARTIFACTS}/{name}": digest for name, digest in digests.items()}


def read(folder: Path) -> RunFacts:
    """The facts in `folder`; ValueError where they are none."""
    return RunFacts.model_validate_json((folder / RUN).read_bytes())


def create(facts: RunFacts, store: Store) -> str:
    """Open a run to be filled: until then it has no question and answers none."""
    tags = {key: facts.tags[key] for key in ("mlflow.user",) if key in facts.tags}
    group = store.experiment_id(facts.experiment)
    made = store.client.create_run(
        group, start_time=facts.start_time, tags=tags | {ORIGIN: facts.origin}, run_name=facts.name
    )
    return str(made.info.run_id)


def fill(facts: RunFacts, folder: Path, store: Store, ids: Mapping[str, str], mark: str) -> None:
    """Bring everything of a run into the one that was opened for it; done again, nothing changes.

    What makes it an answer comes last, in one call: interrupted, it stays a run without a question,
    which nobody waits for. `ids`: id in the archive -> id here.
    """
    client, run_id = store.client, ids[facts.run_id]
    for params in _batches([Param(*one) for one in facts.params.items()], OTHERS_PER_CALL):
        client.log_batch(run_id, params=params)
    for metrics in _batches(list(_metrics(folder / METRICS)), METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics)
    if facts.datasets:
        client.log_inputs(run_id, [_input(one) for one in facts.datasets])
    if (folder / ARTIFACTS).is_dir():
        client.log_artifacts(run_id, str(folder / ARTIFACTS))
    tags = _tags(facts, ids)
    last = {key: tags.pop(key) for key in (query.IDENTITY, COMPLETE) if key in tags}
    for batch in _batches([RunTag(*one) for one in tags.items()], OTHERS_PER_CALL):
        client.log_batch(run_id, tags=batch)
    running = facts.status in ("RUNNING", "SCHEDULED")  # elsewhere, and not any more
    client.set_terminated(run_id, "KILLED" if running else facts.status, facts.end_time)
    last[IMPORTED] = mark
    client.log_batch(run_id, tags=[RunTag(*one) for one in last.items()])  # all of it or nothing


def _facts(record: Record, usable: bool) -> RunFacts:
    client = record.store.client
    run = client.get_run(record.run_id)  # a record of the tables has no datasets
    info = run.info
    return RunFacts(
        run_id=info.run_id,
        experiment=client.get_experiment(info.experiment_id).name,
        name=info.run_name or "",
        status=info.status,
        start_time=info.start_time,
        end_time=info.end_time,
        usable=usable,
        params=dict(sorted(run.data.params.items())),
        tags=dict(sorted(run.data.tags.items())),
        datasets=_datasets(run),
        models=_versions(record),
    )


def _datasets(run: MlflowRun) -> list[Data]:
    """What it read, sorted as all else is: no database keeps an order, and equal runs are to have
    equal archives."""
    found = [_data(one) for one in (run.inputs.dataset_inputs if run.inputs else ())]
    return sorted(found, key=lambda one: (one.name, one.digest, sorted(one.tags.items())))


def _data(one: DatasetInput) -> Data:
    what = one.dataset
    return Data(
        name=what.name, digest=what.digest, source_type=what.source_type, source=what.source,
        form=what.schema, profile=what.profile,
        tags=dict(sorted((tag.key, tag.value) for tag in one.tags)),
    )  # fmt: skip


def _input(one: Data) -> DatasetInput:
    entity = Dataset(one.name, one.digest, one.source_type, one.source, one.form, one.profile)
    return DatasetInput(entity, [InputTag(key, text) for key, text in one.tags.items()])


def _versions(record: Record) -> list[Version]:
    found = []
    for one in registry.versions_behind(record):
        aliases = registry.aliases_of(record.store, one.name)
        mine = sorted(alias for alias, version in aliases.items() if version == int(one.version))
        tags = dict(sorted(one.tags.items()))
        found.append(Version(name=one.name, aliases=mine, tags=tags,
                             description=one.description or ""))  # fmt: skip
    return found


def _write_metrics(record: Record, path: Path) -> None:
    """Every point of every metric; Python reads `repr` of a float back to the same bits."""
    with path.open("x", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for key, step, time, value in _points(record):
            writer.writerow([key, step, time, repr(math.nan if value is None else float(value))])


def _points(record: Record) -> Iterator[tuple[str, int, int, float | None]]:
    """Key, step, time and value of every point: in one look where MLflow's tables can be read."""
    store = record.store
    if not store.uri.startswith("http"):
        with suppress(sql.Unreadable), sql.opened(store.uri) as tables:
            yield from list(tables.points(record.run_id))
            return
    for key in sorted(record.metrics):
        points = store.client.get_metric_history(record.run_id, key)
        for one in sorted(points, key=lambda one: (one.timestamp, one.step)):
            yield key, one.step, one.timestamp, one.value


def _metrics(path: Path) -> Iterator[Metric]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield Metric(row["key"], float(row["value"]), int(row["timestamp"]), int(row["step"]))


def _compare(record: Record, digests: Mapping[str, str]) -> None:
    for name, fact in record.manifest.items():
        if digests.get(name) != fact["sha256"]:
            raise Missing(f"run {record.run_id}: its artifact {name} is gone or changed")


def _tags(facts: RunFacts, ids: Mapping[str, str]) -> dict[str, str]:
    """Its tags with the new ids of other runs; a parent that stayed behind is no parent here."""
    kept = {key: text for key, text in facts.tags.items() if key not in (ORIGIN, IMPORTED)}
    if kept.get(PARENT, "") not in ids:
        kept.pop(PARENT, None)
    return {key: ID_IN_TEXT.sub(lambda m: ids.get(m[0], m[0]), text) for key, text in kept.items()}


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
