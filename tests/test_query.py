"""Runs are read from MLflow's tables, and what is read equals what MLflow's own API says.

The stores are real: SQLite, PostgreSQL where a wheel brings it, and a server behind HTTP.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, nan
from pathlib import Path
from typing import Any

import many_runs
import mlflow
import pandas as pd
import postgres
import pytest
import requests
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.tracking import MlflowClient
from toy import TOY, ToyConfig

from papertrail.core import progress
from papertrail.core.answering.require import require
from papertrail.core.errors import Missing
from papertrail.core.reading import query
from papertrail.core.reading.query import runs_table
from papertrail.core.storage import selection, sql
from papertrail.core.storage.store import Store, connect

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
KEYS = st.text("aä-_ .:", max_size=3).map(lambda text: f"k/{text}x")
NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from((nan, inf, -inf, -0.0))


@dataclass(frozen=True)
class Made:
    """A run to be made."""

    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]
    experiment: int = 0
    """0 the default one, 1 another, 2 one that will be deleted."""
    status: str | None = "FINISHED"
    """None: it is still running."""
    deleted: bool = False
    restored: bool = False
    """On its own, after its experiment was deleted: an active run of a deleted experiment."""


MADE = st.builds(
    Made,
    params=st.dictionaries(KEYS, WORDS, max_size=3),
    metrics=st.dictionaries(KEYS, NUMBERS, max_size=3),
    tags=st.dictionaries(KEYS, WORDS, max_size=3),
    experiment=st.integers(0, 2),
    status=st.sampled_from(("FINISHED", "FAILED", "KILLED", None)),
    deleted=st.booleans(),
    restored=st.booleans(),
)
ASKED = {"papertrail.identity": "same", "papertrail.experiment": "awkward"}
AWKWARD = (
    Made({}, {}, {}),
    Made({}, {}, {"u": "same"}),
    Made({"a": "", "b": "None", "ü": "'\"`\\%_"}, {"m": nan, "n": inf, "o": -inf}, {"t": ""}),
    Made({"a": "日本\n\t🙂"}, {"m": 0.1 + 0.2, "n": 5e-324, "o": -0.0}, ASKED, 1),
    Made({"a": "x" * 6000}, {"m": 1e308}, ASKED | {"t": "y" * 5000}, 1, "FAILED"),
    Made({"a": "1"}, {"p": nan}, ASKED, deleted=True),
    Made({"only": "in a deleted experiment"}, {"m": 1.0}, ASKED, 2, restored=True),
    Made({"only": "in a deleted experiment"}, {"m": 1.0}, ASKED, 2),
    Made({"a": "2"}, {"m": 2.0}, ASKED, 0, None),
    Made({"a": "3"}, {"m": 3.0}, {"papertrail.identity": "it's another"}, 0, "KILLED"),
)


def make(client: MlflowClient, runs: Sequence[Made]) -> None:
    """Through MLflow's own API, metrics twice: the latest counts."""
    experiments = ["0", *(client.create_experiment(name) for name in ("zwei 'ö'", "gone"))]
    restored = []
    for made in runs:
        run_id = client.create_run(experiments[made.experiment]).info.run_id
        client.log_batch(
            run_id,
            [
                Metric(k, v if step else 7.0, 9, step)
                for k, v in made.metrics.items()
                for step in (0, 1)
            ],
            [Param(key, value) for key, value in made.params.items()],
            [RunTag(key, value) for key, value in made.tags.items()],
        )
        if made.status:
            client.set_terminated(run_id, made.status)
        if made.deleted:
            client.delete_run(run_id)
        if made.restored:
            restored.append(run_id)
    client.delete_experiment(experiments[2])
    for run_id in restored:
        client.restore_run(run_id)


def emptied(store: Store) -> None:
    """Removes what an example before this one made."""
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as connection:
        for table in ("tags", "params", "metrics", "latest_metrics", "runs"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM experiments WHERE experiment_id > 0")
    connection.close()


def same(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Equal to the bit, in the same order of rows; MLflow's order of columns is arbitrary."""
    assert set(ours) == set(theirs) and not ours.columns.duplicated().any()
    if not theirs["end_time"].notna().any():  # then MLflow does not know that this is a time
        theirs["end_time"] = pd.to_datetime(theirs["end_time"], utc=True).dt.as_unit("us")
    kinds = len(theirs) > 0  # nor of any column if there is no run
    pd.testing.assert_frame_equal(ours[list(theirs)], theirs, check_exact=True, check_dtype=kinds)


def searched(store: Store, deleted: bool = False) -> pd.DataFrame:
    """What MLflow itself says."""
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    ids = [e.experiment_id for e in store.client.search_experiments(view)]
    return mlflow.search_runs(ids, run_view_type=view)


def facts(run: Run) -> dict[str, Any]:
    """All that we use of a run, comparable: NaN is written out."""
    metrics = {m.key: (repr(m.value), m.timestamp, m.step) for m in run.data._metric_objs}
    values = {key: repr(value) for key, value in run.data.metrics.items()}
    return dict(run.info) | {
        "metrics": metrics, "values": values, "params": run.data.params, "tags": run.data.tags
    }  # fmt: skip


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(runs=st.lists(MADE, max_size=4))
def test_a_table_of_runs_is_what_mlflow_says_to_the_bit(store: Store, runs: list[Made]):
    emptied(store)
    make(store.client, runs)
    for deleted in (False, True):
        same(runs_table(store, deleted=deleted), searched(store, deleted))


def test_awkward_runs_read_like_mlflow_reads_them(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    make(store.client, AWKWARD)
    agree(store, monkeypatch)
    assert capsys.readouterr().err.count("\n") == 1  # of the comparison with the API


def agree(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables and records, read by us and by MLflow's API, are the same."""
    for deleted in (False, True):
        same(runs_table(store, deleted=deleted), searched(store, deleted))
    ids = [*searched(store, deleted=True)["run_id"], "0" * 32, "no'run"]
    identities = ["same", "it's another", "nobody"]
    ours = read_all(store, ids, identities)
    with monkeypatch.context() as patch:
        patch.setattr(sql, "TRIED", frozenset())
        patch.setattr(progress, "_SAID", set())
        theirs = read_all(store, ids, identities)
    assert ours == theirs
    assert [len(ours[name]) for name in ("same", "it's another", "nobody")] == [3, 1, 0]
    assert (len(ours["ids"]), len(ours["awkward"])) == (10, 3)
    assert {run["lifecycle_stage"] for run in ours["ids"]} == {"active", "deleted"}


def read_all(
    store: Store, ids: Sequence[str], identities: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    found = query.by_identities(identities, store)
    found |= {"ids": list(query.by_ids(ids, store).values())}
    found |= {"awkward": query.tagged("papertrail.experiment", "awkward", store)}
    return {name: [facts(record.run) for record in records] for name, records in found.items()}


def test_postgresql_reads_like_mlflow_reads_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    if postgres.absent():
        pytest.skip(postgres.absent())
    monkeypatch.setenv("PAPERTRAIL_WORK", str(tmp_path))
    with postgres.server() as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        store = connect()
        make(store.client, AWKWARD)
        agree(store, monkeypatch)
        assert capsys.readouterr().err.count("\n") == 1  # of the comparison with the API
        with pytest.raises(sql.Unreadable, match="read-only"), sql.opened(uri) as tables:
            tables.execute("DELETE FROM runs", {})


@pytest.fixture(scope="module")
def server(module_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a plain `mlflow server` on the store of this file."""
    port = postgres.free_port()
    address = f"http://127.0.0.1:{port}"
    program = Path(sys.executable).with_name("mlflow")
    options = ("--host", "127.0.0.1", "--port", str(port), "--workers", "1")
    process = subprocess.Popen(
        [
            str(program), "server", *options, "--backend-store-uri", module_store.uri,
            "--artifacts-destination", str(tmp_path_factory.mktemp("artifacts")),
        ],
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(600):
            try:
                requests.get(f"{address}/health", timeout=1)
                break
            except requests.ConnectionError:
                assert process.poll() is None, "the server has ended"
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def test_a_plain_server_gives_the_same_runs(
    module_store: Store,
    server: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    store = module_store
    make(store.client, AWKWARD)
    many_runs.fill(store.uri, 1005, params=2, metrics=2)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    remote = connect()
    for deleted in (False, True):
        ours = runs_table(remote, deleted=deleted)
        same(ours, runs_table(store, deleted=deleted))
        same(ours, searched(remote, deleted))
    ids, identities = list(ours["run_id"]), ["same", many_runs.identity(1)]
    assert read_all(remote, ids, identities) == read_all(store, ids, identities)
    assert capsys.readouterr().err == ""  # a server is read through its API: nothing to warn of


def test_a_run_that_went_through_a_server_is_reused_through_it_without_a_word(
    server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    first = require(TOY, ToyConfig(text="x"))
    assert require(TOY, ToyConfig(text="x")).run_id == first.run_id
    assert first.json("toy") == {"text": "x"}
    assert capsys.readouterr().err == ""


def test_more_runs_than_a_page_of_mlflow_are_all_there(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    many_runs.fill(store.uri, 1005, params=1, metrics=1)
    identities = [many_runs.identity(number) for number in range(1005)]
    assert len(runs_table(store)) == 1005
    assert [len(found) for found in query.by_identities(identities, store).values()] == [1] * 1005
    ids = list(runs_table(store, params=[], metrics=[], tags=[])["run_id"])
    assert list(query.by_ids(ids, store)) == ids
    monkeypatch.setattr(sql, "TRIED", frozenset())
    assert len(runs_table(store)) == 1005
    assert list(query.by_ids(ids, store)) == ids
    assert len(query.tagged("papertrail.experiment", "many", store)) == 1005


def test_a_filled_run_looks_like_one_that_mlflow_made(store: Store):
    many_runs.fill(store.uri, 1, params=1, metrics=1)
    (filled,) = store.client.search_runs(["0"])
    made = store.client.create_run("0", run_name="run-0").info.run_id
    store.client.log_metric(made, "val/metric0", 1.0)
    store.client.set_terminated(made)
    real = store.client.get_run(made)
    for name, value in dict(real.info).items():
        assert type(getattr(filled.info, name)) is type(value), name
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as connection:
        connection.row_factory = sqlite3.Row
        for table in ("runs", "metrics", "latest_metrics"):
            two = connection.execute(f"SELECT * FROM {table}").fetchall()
            kinds = [{key: type(row[key]) for key in row.keys()} for row in two]  # noqa: SIM118
            assert len(kinds) == 2 and kinds[0] == kinds[1]
    connection.close()
    assert len(store.client.get_metric_history(filled.info.run_id, "val/metric0")) == 1


def test_only_what_is_asked_for_becomes_a_column(store: Store):
    make(store.client, AWKWARD)
    everything = runs_table(store)
    table = runs_table(store, params=["b", "a", "nobody has"], metrics=["n"], tags=[])
    named = ["metrics.n", "params.b", "params.a", "params.nobody has"]
    assert list(table) == [*selection.ATTRIBUTES, *named]
    assert table["params.nobody has"].isna().all()
    pd.testing.assert_frame_equal(table[named[:-1]], everything[named[:-1]])


def test_a_table_of_one_experiment_or_status_has_no_others(store: Store):
    make(store.client, AWKWARD)
    everything = runs_table(store, deleted=True)
    awkward = everything[everything["tags.papertrail.experiment"] == "awkward"]
    found = runs_table(store, experiment="awkward", deleted=True)
    assert list(found["run_id"]) == list(awkward["run_id"])
    found = runs_table(store, experiment="awkward", status="FAILED", deleted=True)
    assert list(found["run_id"]) == list(awkward.loc[awkward["status"] == "FAILED", "run_id"])


def test_an_unknown_schema_is_left_to_mlflow_and_said_once(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    make(store.client, AWKWARD)
    known = runs_table(store)
    monkeypatch.setattr(sql, "TRIED", frozenset({"an older one"}))
    monkeypatch.setattr(progress, "_SAID", set())
    for _ in range(2):
        pd.testing.assert_frame_equal(runs_table(store), known)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "its schema (" in said and "MLflow's API" in said


def test_a_file_that_is_no_database_is_not_read(tmp_path: Path):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(sql.Unreadable, match="not a database"):
        sql.opened(f"sqlite:///{tmp_path / 'mlflow.db'}").__enter__()


def test_nothing_can_be_written_through_the_reading_connection(store: Store):
    with pytest.raises(sql.Unreadable, match="readonly"), sql.opened(store.uri) as tables:
        tables.execute("DELETE FROM runs", {})


def test_a_store_whose_folder_has_a_strange_name_is_read(migrated: Path, tmp_path: Path):
    folder = tmp_path / "50% a?b #ü"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    from urllib.parse import quote

    uri = f"sqlite:///{quote(str(folder / 'mlflow.db'), safe='/')}"
    with sql.opened(uri) as tables:
        assert tables.select(sql.Which()).infos == []


def test_usable_runs_are_those_that_stand(store: Store):
    kept, other, deleted, void = (require(TOY, ToyConfig(seed=seed)) for seed in range(4))
    store.client.delete_run(deleted.run_id)
    store.client.set_tag(void.run_id, "papertrail.invalidated", "wrong data")
    assert [r.run_id for r in query.usable("toy", store)] == [other.run_id, kept.run_id]
    table = query.runs("toy", ["seed"], ["size"], {"seed": 1}, store)
    assert table.to_dict("records") == [{"run_id": other.run_id, "seed": 1, "size": 3.0}]
    with pytest.raises(Missing, match="no usable run"):
        query.runs("toy", ["seed"], ["size"], {"seed": 2}, store)


def test_a_finished_run_is_found_without_waiting_for_sqlalchemy(store: Store):
    require(TOY, ToyConfig())
    code = (
        "import sys; from toy import TOY, ToyConfig;"
        "from papertrail.core.answering.require import require;"
        "require(TOY, ToyConfig()); print('sqlalchemy' in sys.modules)"
    )
    path = f"{ROOT / 'src'}:{ROOT / 'tests'}"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "False"
