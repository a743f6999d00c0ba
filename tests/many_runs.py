"""Fills a store with runs faster than its API could: rows straight into MLflow's tables."""

from collections.abc import Iterator
from random import Random
from typing import Any

import sqlalchemy as sa
from mlflow.tracking import MlflowClient

AT_ONCE = 1000
BEGIN_MS = 1_700_000_000_000
TABLES = ("runs", "params", "metrics", "latest_metrics", "tags")


def fill(uri: str, num_runs: int, params: int = 40, metrics: int = 40) -> None:
    """`num_runs` finished runs of the default experiment, each with five tags."""
    MlflowClient(uri).search_experiments(max_results=1)  # MLflow makes its tables
    engine, schema, random = sa.create_engine(uri), sa.MetaData(), Random(0)
    schema.reflect(engine, only=TABLES)
    for first in range(0, num_runs, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, num_runs))
        ids = {number: f"{random.getrandbits(128):032x}" for number in numbers}
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        for number, run_id in ids.items():
            rows["runs"].append(_run(number, run_id))
            rows["params"] += _params(random, run_id, params)
            rows["metrics"] += _metrics(random, number, run_id, metrics)
            rows["tags"] += _tags(number, run_id)
        rows["latest_metrics"] = rows["metrics"]
        with engine.begin() as connection:
            for name, some in rows.items():
                if some:
                    connection.execute(schema.tables[name].insert(), some)
    engine.dispose()


def identity(number: int) -> str:
    """The identity that run `number` carries."""
    return f"{number:016x}"


def _run(number: int, run_id: str) -> dict[str, Any]:
    """As MLflow 3.17 leaves a run that has ended."""
    begin = BEGIN_MS + 1000 * number
    unused = dict.fromkeys(("source_name", "entry_point_name", "source_version"), "")
    return unused | {
        "run_uuid": run_id,
        "name": f"run-{number}",
        "source_type": "UNKNOWN",
        "user_id": "somebody",
        "status": "FINISHED",
        "start_time": begin,
        "end_time": begin + 900,
        "deleted_time": None,
        "lifecycle_stage": "active",
        "artifact_uri": f"file:///nowhere/0/{run_id}/artifacts",
        "experiment_id": 0,
    }


def _params(random: Random, run_id: str, count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        value = random.choice((str(random.random()), str(random.randrange(1000)), "two words"))
        key = f"cfg.section{number // 8}.option{number}"
        yield {"run_uuid": run_id, "key": key, "value": value}


def _metrics(random: Random, number: int, run_id: str, count: int) -> Iterator[dict[str, Any]]:
    """One in a hundred is NaN, one in a hundred infinite, as MLflow stores them."""
    when = {"timestamp": BEGIN_MS + 1000 * number, "step": 7, "run_uuid": run_id}
    for metric in range(count):
        draw = random.random()
        value = 0.0 if draw < 0.01 else 1.7976931348623157e308 if draw < 0.02 else random.gauss()
        yield when | {"key": f"val/metric{metric}", "value": value, "is_nan": draw < 0.01}


def _tags(number: int, run_id: str) -> Iterator[dict[str, Any]]:
    tags = {
        "mlflow.runName": f"run-{number}",
        "mlflow.user": "somebody",
        "papertrail.experiment": "many",
        "papertrail.identity": identity(number),
        "papertrail.complete": f"{number:064x}",
    }
    for key, value in tags.items():
        yield {"run_uuid": run_id, "key": key, "value": value}
