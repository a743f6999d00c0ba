"""`mlflow run . -e hotflip --backend papertrail-slurm`: a single run as a single job.

MLflow returns as soon as the job is queued. What runs on the node is what the launcher runs there.
The options of `run.slurm.*` are given by -P, or by --backend-config without that prefix.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlflow.entities import RunStatus
from mlflow.exceptions import ExecutionException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun
from mlflow.projects.utils import (
    PROJECT_BUILD_IMAGE,
    PROJECT_DOCKER_ARGS,
    PROJECT_DOCKER_AUTH,
    PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR,
    PROJECT_SYNCHRONOUS,
)

from papertrail.cluster.book import Book, Submission
from papertrail.cluster.launcher import environment
from papertrail.cluster.queue import LOCK, book_of, went_well
from papertrail.cluster.stages import Task
from papertrail.cluster.submit import Code, submit
from papertrail.core import slurm
from papertrail.core.answering import processes
from papertrail.core.answering.settling import end_dead
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question import cli
from papertrail.core.question.cli import Execution
from papertrail.core.question.experiment import Experiment, Question, experiments
from papertrail.core.question.identity import identify
from papertrail.core.slurm import Job
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing.owner import user

POLL_SECONDS = 2.0
ADDED = {
    PROJECT_BUILD_IMAGE, PROJECT_DOCKER_ARGS, PROJECT_DOCKER_AUTH, PROJECT_ENV_MANAGER,
    PROJECT_STORAGE_DIR, PROJECT_SYNCHRONOUS,
}  # fmt: skip
"""What MLflow adds to every --backend-config."""
STATUS = {"pending": RunStatus.SCHEDULED, "running": RunStatus.RUNNING}


class Handed(SubmittedRun):
    """A run whose job was handed over."""

    def __init__(self, store: Store, run_id: str, book: Book, submission: Submission) -> None:
        super().__init__()
        self._store, self._run_id = store, run_id
        self._book, self._submission = book, submission

    @property
    def run_id(self) -> str:
        return self._run_id

    @property
    def job_id(self) -> str:
        """SLURM's."""
        return self._submission.job

    def wait(self) -> bool:
        """Whether the job ended well."""
        while not (job := self._job()).ended:
            time.sleep(POLL_SECONDS)
        return went_well(job, self._book.end(self._submission, self.job_id), 0)

    def get_status(self) -> int:
        job = self._job()
        if job.ended:
            status = self._store.client.get_run(self._run_id).info.status
            return int(RunStatus.from_string(status))
        return int(STATUS[job.state])

    def cancel(self) -> None:
        """Stop the job; its run reads KILLED afterwards, also if it had not begun."""
        slurm.cancel([self.job_id])
        while not self._job().ended:
            time.sleep(POLL_SECONDS)
        if self._store.client.get_run(self._run_id).info.status == "RUNNING":
            end_dead(self._store, self._run_id, str(self._job()))

    def _job(self) -> Job:
        return slurm.look([self.job_id])[self.job_id]


class Backend(AbstractBackend):
    """What MLflow calls."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, str],
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> Handed:
        try:
            question, execution = _read(project_uri, entry_point, params, backend_config)
            return _hand_over(question, execution, connect(tracking_uri), experiment_id)
        except (BadInput, Missing) as error:
            raise ExecutionException(f"{entry_point}: {error}") from None


def backend() -> Backend:
    """The entry point of the plugin."""
    return Backend()


def _read(
    uri: str, name: str, params: Mapping[str, str], config: Mapping[str, Any]
) -> tuple[Question, Execution]:
    """What was typed, checked before anything is queued."""
    if Path(uri).resolve() != processes.project().resolve():
        raise BadInput(f"project: only the one that is installed, {processes.project()} ({uri})")
    experiment = experiments().get(name)
    if not isinstance(experiment, Experiment):
        raise BadInput(f"entry point: no experiment ({name}); other commands are typed without it")
    slurm.refuse_absent()
    ours = {key: value for key, value in config.items() if key not in ADDED}
    words = [f"--run.slurm.{key}={_text(value)}" for key, value in ours.items()]
    words = [*words, *(f"--{key}={value}" for key, value in params.items())]
    typed, execution = cli.parse(experiment, words)
    return Question(experiment, typed), execution


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _hand_over(
    question: Question, execution: Execution, store: Store, experiment_id: str
) -> Handed:
    experiment, config = question.experiment, question.config
    task = Task(
        processes.asked_for(question, execution.mode).words,
        identity=identify(experiment, config).digest,
        title=experiment.title(config),
    )
    tags = {"mlflow.source.name": f"entrypoints/{experiment.name}.py", "mlflow.user": user()}
    made = store.client.create_run(experiment_id, tags=tags, run_name=task.title)
    run_id, book = str(made.info.run_id), book_of(store)
    task = replace(task, opened=run_id)
    found = {**environment(store), "MLFLOW_RUN_ID": run_id}
    try:
        with store.lock(LOCK):
            one = submit([(task,)], "", Code.now(store), book, execution.slurm, found)
    except BaseException:  # nothing was queued, and nobody else would end it
        store.client.set_terminated(run_id, "FAILED")
        raise
    print(f"SLURM job {one.job}: run {run_id}, log {os.fspath(book.log(one, one.job, 0))}")
    return Handed(store, run_id, book, one)
