"""The only way to a result: reuse the usable run, resume the interrupted one, or compute it.

One process computes an identity; others wait at its claim and read. The claim is a lock of the
kernel, so the death of its owner frees it, and nobody ever deletes a lock file by hand.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlflow.entities import RunTag

from papertrail.core import progress, query, track
from papertrail.core.cli import Mode
from papertrail.core.errors import Missing
from papertrail.core.experiment import Experiment, Question
from papertrail.core.identity import Identity, identify
from papertrail.core.owner import Owner
from papertrail.core.query import Record
from papertrail.core.store import Store, connect

PARENT = "PAPERTRAIL_PARENT_RUN"
"""Environment variable: the run for which a process of the pool computes."""
State = Literal["finished", "running", "failed", "blocked", "missing"]


@dataclass(frozen=True)
class Standing:
    """What the store knows of one identity."""

    identity: Identity
    usable: Record | None = None
    interrupted: Record | None = None
    """A run that died or was stopped and may be continued."""
    running: Record | None = None
    """A run whose owner lives, or cannot be shown to be dead."""
    why: str = ""
    """Why the newest run is no answer; empty if it is, or if there is none."""
    blocked: str = ""
    """Where nothing was computed yet: the run that it builds on which failed, and its cause."""
    doubled: str = ""
    """Another usable run of the same question, if its numbers differ from those of `usable`."""

    @property
    def state(self) -> State:
        if self.usable:
            return "finished"
        if self.running:
            return "running"
        if self.why:
            return "failed"
        return "blocked" if self.blocked else "missing"


def standing(experiment: Experiment, config: Any, store: Store | None = None) -> Standing:
    """Look `config` up without computing anything."""
    return standings([Question(experiment, config)], store or connect())[0]


def standings(questions: Sequence[Question], store: Store) -> list[Standing]:
    """What stands of all questions now, in order: one look at the store for all of them."""
    if not questions:
        return []
    identities = [identify(question.experiment, question.config) for question in questions]
    records = query.by_identities(list({one.digest for one in identities}), store)
    judged = {one.digest: _judge(one, records[one.digest]) for one in identities}
    missing = {
        one.digest: question
        for one, question in zip(identities, questions, strict=True)
        if judged[one.digest].state == "missing"
    }
    for digest, cause in zip(missing, _causes(list(missing.values()), store), strict=True):
        judged[digest] = replace(judged[digest], blocked=cause)
    return [judged[one.digest] for one in identities]


def _judge(identity: Identity, records: Sequence[Record]) -> Standing:
    """Which of the runs of one identity, newest first, answers it, and why the others do not."""
    usable: list[Record] = []
    why, interrupted, running = "", None, None
    for record in records:
        reason = record.unusable(identity)
        if not reason:
            usable.append(record)
            continue
        why = why or f"{record.run_id} was not reused: {reason}"
        if record.status == "RUNNING" and _owner_lives(record):
            running = running or record
        elif record.status in ("RUNNING", "KILLED", "FAILED") and _same(record, identity):
            interrupted = interrupted or record
    if usable:
        return Standing(identity, usable[0], doubled=_doubled(usable))
    return Standing(identity, None, interrupted, running, why)


def _doubled(usable: Sequence[Record]) -> str:
    """The first run whose numbers differ from the newest's: same question, another answer."""
    for other in usable[1:]:
        if difference := usable[0].other_numbers(other):
            return f"run {other.run_id} answers the same question otherwise: {difference}"
    return ""


def _causes(questions: Sequence[Question], store: Store) -> list[str]:
    """For each question, the failed run that it builds on and its cause; empty if none failed."""
    needs = [list(q.experiment.upstream(q.config).values()) for q in questions]
    below = iter(standings([need for some in needs for need in some], store))
    return [next(filter(None, [_cause(need, next(below)) for need in some]), "") for some in needs]


def _cause(need: Question, found: Standing) -> str:
    if found.state == "failed":
        return f"it builds on {need.experiment.name} {found.identity}: {found.why}"
    return found.blocked


def require(
    experiment: Experiment,
    config: Any,
    mode: Mode = "reuse",
    store: Store | None = None,
    joined: str | None = None,
) -> Record:
    """The usable run of `experiment` under `config`, computed here if there is none.

    Called inside another run, the result becomes its child and its upstream. `joined` is a run
    that somebody opened for us (`mlflow run`): it is used if something has to be computed, and
    otherwise points to the run that answered. Missing in mode read_only if nothing usable stands.
    """
    store = store or (current.store if (current := track.current()) else connect())
    found = standing(experiment, config, store)
    record = _reusable(experiment, found, mode)
    if record is None:
        with store.lock(found.identity.digest):
            # Whoever held the claim may have computed it while we waited.
            found = standing(experiment, config, store)
            record = _reusable(experiment, found, mode)
            if record is None:
                record = _compute(experiment, config, found, mode, store, joined)
    if joined and record.run_id != joined:
        _answer(store, joined, record, f"{experiment.title(config)} (reused)")
    if current := track.current():
        current.built_on(record.run_id)
    return record


def _reusable(experiment: Experiment, found: Standing, mode: Mode) -> Record | None:
    if mode == "force":
        return None
    if found.usable is None and mode == "read_only":
        where = f"{experiment.name} {found.identity}"
        raise Missing(f"{where}: {found.why or 'never computed'}; leave out run.mode=read_only")
    return found.usable


def _compute(
    experiment: Experiment,
    config: Any,
    found: Standing,
    mode: Mode,
    store: Store,
    joined: str | None,
) -> Record:
    resumed = None if mode == "force" else _resumable(found, store)
    if found.running and mode != "force":
        owner = found.running.tags.get("papertrail.owner")
        raise Missing(
            f"{experiment.name}: run {found.running.run_id} is being computed by {owner}; "
            "wait for it, or start another with run.mode=force"
        )
    if found.why and mode != "force":
        progress.say(f"{experiment.name}: {found.why}")
    if resumed is not None:
        progress.say(f"{experiment.name}: resuming run {resumed.run_id}")
    run_id = resumed.run_id if resumed else joined or _create(experiment, config, store)
    if not resumed:
        _clear(store, found.identity)
    if run_id == joined:
        store.show_as_models(store.client.get_run(joined).info.experiment_id)
    with track.opened(store, experiment, config, found.identity, run_id, fresh=resumed is None):
        experiment(config)
    return query.by_id(run_id, store)


def _resumable(found: Standing, store: Store) -> Record | None:
    """The interrupted run, if it left a checkpoint: without one there is nothing to continue."""
    checkpoints = store.folder(found.identity.digest) / "checkpoints"
    return found.interrupted if any(checkpoints.glob("*.ckpt")) else None


def _create(experiment: Experiment, config: Any, store: Store) -> str:
    """A new MLflow run: a child of the open run, beside it in the same MLflow experiment."""
    open_run = track.current()
    parent = open_run.run_id if open_run else os.environ.get(PARENT)
    tags = {"mlflow.source.name": f"entrypoints/{experiment.name}.py"}
    if parent is None:
        study = os.environ.get("MLFLOW_EXPERIMENT_NAME") or experiment.study
        group = os.environ.get("MLFLOW_EXPERIMENT_ID") or store.experiment_id(study)
    else:
        group = store.client.get_run(parent).info.experiment_id
        tags["mlflow.parentRunId"] = parent
    name = experiment.title(config)
    return str(store.client.create_run(group, tags=tags, run_name=name).info.run_id)


def _clear(store: Store, identity: Identity) -> None:
    """A run that starts afresh must not find the scratch of one before it."""
    for path in sorted(store.folder(identity.digest).rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def _same(record: Record, identity: Identity) -> bool:
    """Whether the interrupted run asked exactly this question."""
    try:
        return not record.changed(identity)
    except Missing:
        return False  # it died before its question was written: nothing to continue


def _owner_lives(record: Record) -> bool:
    """False only on evidence of death; a run of another host counts as alive."""
    text = record.tags.get("papertrail.owner")
    return Owner.parse(text).alive() is not False if text else False


def _answer(store: Store, joined: str, record: Record, name: str) -> None:
    """The run that `mlflow run` opened points to the one that holds the result."""
    note = f"Answered by [run {record.run_id}]({record.url}), which had computed this already."
    tags: Mapping[str, str] = {
        "mlflow.runName": name,
        "papertrail.answered_by": record.run_id,
        "mlflow.note.content": note,
    }
    store.client.log_batch(joined, tags=[RunTag(k, v) for k, v in tags.items()])
