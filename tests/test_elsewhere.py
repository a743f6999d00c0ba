"""run.tracking: a command keeps its runs in the store that it names."""

import shutil
from pathlib import Path

import pytest
import toy
from conftest import ROOT
from mlflow.tracking import MlflowClient
from toy import TOY, ToyConfig

from papertrail.core.answering import elsewhere
from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.storage.store import connect, tracking_uri
from papertrail.records.commands import WHY


@pytest.fixture
def other(migrated: Path, tmp_path: Path) -> str:
    """Address of a second store."""
    (tmp_path / "other").mkdir()
    shutil.copy(migrated, tmp_path / "other" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}"


def runs(uri: str) -> list[tuple[str, str, str]]:
    """Status, experiment and id of every run of a store."""
    client = MlflowClient(uri)
    groups = {one.experiment_id: one.name for one in client.search_experiments()}
    found = client.search_runs(list(groups))
    return [(r.info.status, groups[r.info.experiment_id], r.info.run_id) for r in found]


def test_a_run_is_kept_where_its_command_says(store_uri: str, other: str):
    cli.launch(TOY, [f"--run.tracking={other}"])
    assert [status for status, _, _ in runs(other)] == ["FINISHED"] and not runs(store_uri)
    assert tracking_uri() == store_uri


def test_the_run_that_mlflow_opened_elsewhere_ends_with_a_pointer(
    store_uri: str, other: str, monkeypatch: pytest.MonkeyPatch
):
    client = MlflowClient(store_uri)
    group = client.create_experiment("named by a person")
    joined = client.create_run(group).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", joined)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", group)
    cli.launch(TOY, [f"--run.tracking={other}"])
    [(status, name, run_id)] = runs(other)
    assert (status, name) == ("FINISHED", "named by a person")
    pointing = client.get_run(joined)
    assert pointing.info.status == "FINISHED"
    assert pointing.data.tags["papertrail.answered_by"] == run_id
    assert other in pointing.data.tags["mlflow.note.content"]
    assert len(runs(store_uri)) == 1


def test_a_run_that_mlflow_opened_where_nobody_looks_is_kept_among_those_of_its_study(
    store_uri: str, other: str, monkeypatch: pytest.MonkeyPatch
):
    joined = MlflowClient(store_uri).create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", joined)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "0")  # as `mlflow run` does
    cli.launch(TOY, [f"--run.tracking={other}"])
    assert [name for _, name, _ in runs(other)] == [TOY.study]
    assert MlflowClient(store_uri).get_run(joined).info.run_name.endswith(" (elsewhere)")


def test_the_run_that_mlflow_opened_does_not_outlive_a_failure(
    store_uri: str, other: str, monkeypatch: pytest.MonkeyPatch
):
    client = MlflowClient(store_uri)
    joined = client.create_run("0").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", joined)
    monkeypatch.setitem(toy.DOES, "raise", toy.break_)
    with pytest.raises(RuntimeError, match="the toy broke"):
        cli.launch(TOY, [f"--run.tracking={other}", "--do=raise"])
    assert [run[0] for run in runs(store_uri)] == ["FAILED"] == [run[0] for run in runs(other)]


def test_the_database_behind_a_server_is_no_way_to_its_artifacts(store_uri: str):
    connect().client.create_experiment(TOY.study, "mlflow-artifacts:/1")  # as a server makes them
    with pytest.raises(BadInput, match="artifacts of its runs are reached through its server"):
        require(TOY, ToyConfig())
    assert not runs(store_uri)


def test_nor_is_it_for_a_run_that_somebody_opened_there(store_uri: str):
    client = connect().client
    group = client.create_experiment("named by a person", "mlflow-artifacts:/1")
    joined = client.create_run(group).info.run_id
    with pytest.raises(BadInput, match="artifacts of its runs are reached through its server"):
        require(TOY, ToyConfig(), joined=joined)


def test_a_group_that_the_first_store_does_not_have_is_one_line_and_leaves_all_as_it_was(
    store_uri: str, other: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    joined = MlflowClient(store_uri).create_run("0").info.run_id
    for name, value in (("RUN", joined), ("EXPERIMENT", "4711")):
        monkeypatch.setenv(f"MLFLOW_{name}_ID", value)
    with pytest.raises(SystemExit, match="1"):
        cli.launch(TOY, [f"--run.tracking={other}"])
    assert capsys.readouterr().err.startswith("toy: ") and tracking_uri() == store_uri
    assert [status for status, _, _ in runs(store_uri)] == ["FAILED"]


def test_the_presets_are_addresses_and_hold_for_commands_too():
    assert cli.parse(TOY, ["--tracking=server"])[1].tracking == "http://127.0.0.1:5000"
    assert cli.parse(WHY, ["--tracking=server"])[1].tracking == "http://127.0.0.1:5000"
    assert cli.parse(WHY, ["--tracking=https://lab"])[1].tracking == "https://lab"
    assert cli.parse(TOY, [])[1].tracking == cli.parse(WHY, [])[1].tracking == ""
    assert elsewhere.address(cli.parse(TOY, ["--tracking=local"])[1].tracking).endswith(
        f"{ROOT}/mlflow.db"
    )
