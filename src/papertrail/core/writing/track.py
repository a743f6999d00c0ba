"""What a run is given while it is computed.

A run is opened around a verb; what the verb logs goes to the innermost open run, and how the verb
ends decides what the run reads as.
"""

import json
import os
import subprocess
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from mlflow.entities import Param, RunTag

from papertrail.core import slurm
from papertrail.core.errors import BadInput, Interrupted
from papertrail.core.project import ROOT
from papertrail.core.question import cli
from papertrail.core.question.drift import code_of
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import Identity, by_option, canonical, dumps, spelled
from papertrail.core.stopping import refuse_swallowed, signals_raise, unheard
from papertrail.core.storage.store import Store
from papertrail.core.writing import pruning
from papertrail.core.writing.heartbeat import BEAT, beat, beating
from papertrail.core.writing.owner import Owner
from papertrail.core.writing.run import FAILURE, PARAM_LIMIT, Run, shortened
from papertrail.core.writing.sampling import sampled
from papertrail.core.writing.sending import log_input

if TYPE_CHECKING:
    import pandas as pd

QUESTION = "identity.json"
CODE, THREADS = "code.json", "papertrail.threads"
PARAM_BATCH = 100  # MLflow's own limit


_OPEN: ContextVar[Run | None] = ContextVar("open run", default=None)


def current() -> Run | None:
    """The innermost open run of this context; a forked child has none of its parent's."""
    found = _OPEN.get()
    return found if found is not None and found.pid == os.getpid() else None


def run() -> Run:
    """The open run; an error of ours if there is none."""
    found = current()
    assert found is not None, "no open run: a verb is called through require, in one process"
    return found


def metrics(values: Mapping[str, int | float], step: int = 0) -> None:
    """Log finite or NaN numbers to the open run."""
    run().metrics(values, step)


def progress(done: float) -> None:
    """The share of the open run's work that is done, 0..1; the ETA follows from it."""
    run().progress(done)


def tags(values: Mapping[str, str]) -> None:
    """Tag the open run."""
    run().tags(values)


def json_result(name: str, tree: Mapping[str, Any]) -> None:
    """Log `results/NAME.json`."""
    run().text(f"results/{name}.json", json.dumps(tree, indent=1, sort_keys=True, allow_nan=False))


def parquet(name: str, table: "pd.DataFrame") -> None:
    """Log `samples/NAME.parquet`: one row per example, the raw material of paired tests."""
    with file(f"samples/{name}.parquet") as path:
        table.to_parquet(path, index=False)


def file(name: str) -> AbstractContextManager[Path]:
    """A path to write to; what is there when the block ends becomes the artifact `name`."""
    return run().file(name)


def gate(name: str, passed: bool, sentence: str) -> None:
    """A control of the experiment on itself: a run that failed one is refused by tables."""
    run().gate(name, passed, sentence)


def artifact(path: Path, under: str = "") -> None:
    """Log one file of this machine under the artifact folder `under`."""
    run().artifact(path, under)


def artifacts(folder: Path, under: str) -> None:
    """Log every file of a local folder, keeping its tree, under the artifact folder `under`."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        inner = path.parent.relative_to(folder).as_posix()
        run().artifact(path, under if inner == "." else f"{under}/{inner}")


def dataset(name: str, digest: str, source: str, context: str) -> None:
    """Log that the open run read the dataset `name`, whose content has this digest."""
    # 36 and 500 characters are what the store's columns hold.
    named = (name[:500], digest[:36], json.dumps({"uri": source}), context)
    open_run = run()
    if open_run.store.remote:
        open_run.input(*named)
    else:
        log_input(open_run.store.client, open_run.run_id, named)


def describe(note: str) -> None:
    """The paragraph for people at the top of the run's page."""
    run().note = note
    tags({"mlflow.note.content": note})


def remark(store: Store, run_id: str, key: str, text: str) -> None:
    """Tag a finished run; `start_run` would reopen it, and MLflow would have it RUNNING."""
    store.client.set_tag(run_id, key, shortened(text))


def conclude(store: Store, name: str, note: str) -> None:
    """What was done without computing, on the run that `mlflow run` opened for it."""
    joined = os.environ.pop("MLFLOW_RUN_ID", None)
    if joined:
        tags = {"mlflow.runName": name, "mlflow.note.content": shortened(note)}
        store.client.log_batch(joined, tags=[RunTag(*tag) for tag in tags.items()])


@contextmanager
def opened(
    store: Store, experiment: Experiment, config: Any, identity: Identity, run_id: str, fresh: bool
) -> Iterator[Run]:
    """`run_id` as the open run while the block lasts; how the block ends decides its status."""
    client = store.client
    before = client.get_run(run_id).data
    seen = {m.key: m.step for m in before._metric_objs}
    if not fresh:
        client.update_run(run_id, status="RUNNING")
        if "papertrail.failure" in before.tags:  # the try before this one ended so
            client.delete_tag(run_id, "papertrail.failure")
    active = Run(store, run_id, identity, seen)
    token = _OPEN.set(active)
    try:
        with signals_raise(), _abandoned(active), sampled(active, seen), beating(store, run_id):
            _introduce(active, experiment, config, before.params)
            _check_data(experiment, config, identity)
            yield active
            assert current() is active, "a forked child came back from a verb: leave by os._exit"
            refuse_swallowed()
            _check_data(experiment, config, identity)
            active.complete()
    finally:
        active.close()
        _OPEN.reset(token)


@contextmanager
def _abandoned(active: Run) -> Iterator[None]:
    """Every way out that is not the end: the run must never read as usable."""
    try:
        yield
    except BaseException as error:
        if current() is active:
            with unheard():
                kept = active.abandon(*_ending(error))
            if kept:
                error.add_note(f"run {active.run_id} keeps the traceback in {FAILURE}")
        raise


def _introduce(active: Run, experiment: Experiment, config: Any, before: Mapping[str, str]) -> None:
    """What every run carries from its first second (design section 4).

    MLflow refuses to change a param, and a resumed run may be asked to compute elsewhere: it keeps
    what it was begun with as params, and what it goes on with as a tag.
    """
    tree = canonical(config)
    asked = options(config)
    params = [Param(key, value) for key, value in asked.items() if key not in before]
    for start in range(PARAM_BATCH, len(params), PARAM_BATCH):
        batch = params[start : start + PARAM_BATCH]
        active.store.client.log_batch(active.run_id, params=batch)
    if resumed_with := {k: v for k, v in asked.items() if before.get(k, v) != v}:
        active.tags({"papertrail.resumed_with": shortened(dumps(resumed_with))})
    carried = {
        "mlflow.runName": experiment.title(config),
        "papertrail.experiment": experiment.name,
        "papertrail.study": experiment.study,
        "papertrail.identity": active.identity.digest,
        "papertrail.revision": str(experiment.revision),
        "papertrail.seed": str(tree.get("seed", "")),
        "papertrail.git": commit(),
        "papertrail.data": shortened(dumps(active.identity.form["data"])),
        "papertrail.command": shortened(cli.command(experiment, config)),
        "papertrail.order": os.environ.get(cli.ORDER, ""),
        "papertrail.owner": str(Owner.current()),
        THREADS: os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count() or 1),
        BEAT: beat(0),
        **pruning.marks(active.identity.digest),
        **slurm.marks(),
    }
    also = [RunTag(key, value) for key, value in carried.items()]  # a short run is mostly calls
    active.store.client.log_batch(active.run_id, params=params[:PARAM_BATCH], tags=also)
    active.text("config.yaml", yaml.safe_dump(tree, allow_unicode=True, sort_keys=False))
    active.text(QUESTION, dumps(active.identity.form))
    active.text(
        CODE, json.dumps(code_of(experiment.verb, *experiment.code), indent=1, sort_keys=True)
    )


def options(config: Any) -> dict[str, str]:
    """Every option as the param that a run carries."""
    return {
        f"cfg.{key}": shortened(spelled(value), PARAM_LIMIT)
        for key, value in by_option(config).items()
    }


def _check_data(experiment: Experiment, config: Any, identity: Identity) -> None:
    """BadInput if the data are no longer those that the run was identified by."""
    then, now = identity.form["data"], experiment.data(config)
    for option, digest in now.items():
        if then.get(option) != digest:
            raise BadInput(
                f"{option}: its content changed while the run was computed "
                f"({then.get(option)} -> {digest}); nothing was kept, start again"
            )


def _ending(error: BaseException) -> tuple[str, str, str]:
    """Status, reason on one line, and the traceback of what was no request to stop."""
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return "KILLED", str(error) or "stopped by SIGINT", ""
    trace = "".join(traceback.format_exception(error))
    return "FAILED", " ".join(f"{type(error).__name__}: {error}".split()), trace


def commit() -> str:
    """Commit of the code, marked where the tree has uncommitted changes; empty outside git."""
    if slurm.COMMIT in os.environ:  # a snapshot of the code lies outside git
        return os.environ[slurm.COMMIT]
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()
