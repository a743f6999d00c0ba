"""Artifacts in S3: fetched once, and never another thing than the run left."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import servers
from servers import BUCKET, KEYS
from toy import TOY, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.errors import Missing
from papertrail.core.reading.query import by_id
from papertrail.core.reading.record import Record
from papertrail.core.storage import remote
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing.run import MANIFEST

STORES = {"weed": servers.weed, "rclone": servers.rclone}


@pytest.fixture(scope="module", params=STORES)
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    if reason := servers.absent(request.param):
        pytest.skip(reason)
    with STORES[request.param]() as found:
        yield found


@pytest.fixture
def store(endpoint: str, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Runs in SQLite, their artifacts in S3."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    for name, text in {**KEYS, "MLFLOW_S3_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("PAPERTRAIL_PATIENCE_SECONDS", "0.2")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    found = connect()
    found.client.create_experiment("toys", f"s3://{BUCKET}/{tmp_path.name}")
    return found


def object_of(record: Record, name: str) -> dict[str, str]:
    """Where an artifact lies in the store."""
    prefix = str(record.run.info.artifact_uri).removeprefix(f"s3://{BUCKET}/")
    return {"Bucket": BUCKET, "Key": f"{prefix}/{name}"}


@pytest.fixture
def record(store: Store) -> Record:
    """A run that stands, none of which was read yet."""
    made = require(TOY, ToyConfig(text="kept"), store=store)
    shutil.rmtree(store.work / remote.FOLDER, ignore_errors=True)
    return by_id(made.run_id, store)


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is fetched from now on."""
    found: list[str] = []
    download = remote.Shelf._download

    def noted(self: remote.Shelf, name: str, to: Path) -> None:
        found.append(name)
        download(self, name, to)

    monkeypatch.setattr(remote.Shelf, "_download", noted)
    return found


def test_a_file_is_fetched_once_and_a_folder_with_all_that_is_in_it(
    record: Record, fetches: list[str]
):
    assert record.json("toy") == {"text": "kept"}
    folder = record.artifact("results")
    assert [path.name for path in folder.iterdir()] == ["toy.json"]
    assert by_id(record.run_id, record.store).artifact("results/toy.json").is_file()
    assert fetches.count("results/toy.json") == 1 and fetches.count(MANIFEST) == 1
    assert not list((record.store.work / remote.FOLDER).rglob("*.part"))


def test_a_spoiled_object_is_missing_and_named(endpoint: str, record: Record, fetches: list[str]):
    spoiled = b'{"text": "kepT"}'
    servers.client(endpoint).put_object(**object_of(record, "results/toy.json"), Body=spoiled)
    with pytest.raises(Missing, match=r"artifact results/toy\.json is not what the run left"):
        record.artifact("results/toy.json")
    assert fetches.count("results/toy.json") == 2
    left = record.store.work / remote.FOLDER / record.run_id
    assert [path.name for path in left.rglob("*") if path.is_file()] == [MANIFEST]


def test_a_transfer_that_was_torn_once_is_made_again(
    record: Record, monkeypatch: pytest.MonkeyPatch
):
    download, torn = remote.Shelf._download, []

    def tear(self: remote.Shelf, name: str, to: Path) -> None:
        download(self, name, to)
        if name != MANIFEST and not torn:
            torn.append(to.write_bytes(to.read_bytes()[:-1]))

    monkeypatch.setattr(remote.Shelf, "_download", tear)
    assert record.json("toy") == {"text": "kept"} and torn


def test_a_copy_that_somebody_changed_is_fetched_again(record: Record):
    path = record.artifact("results/toy.json")
    path.write_text('{"text": "mine"}')
    assert record.json("toy") == {"text": "kept"}


def test_a_run_whose_manifest_is_gone_is_no_answer_and_is_computed_again(
    endpoint: str, record: Record, store: Store, monkeypatch: pytest.MonkeyPatch
):
    assert not record.unusable()
    servers.client(endpoint).delete_object(**object_of(record, MANIFEST))
    monkeypatch.setattr(
        "papertrail.core.reading.record._SEEN", set()
    )  # as another process would begin
    found = by_id(record.run_id, store)
    assert f"no artifact {MANIFEST}" in found.unusable()
    assert require(TOY, ToyConfig(text="kept"), store=store).run_id != record.run_id


def test_what_is_gone_is_found_when_it_is_looked_for(endpoint: str, record: Record):
    assert record.incomplete(thorough=True) == ""
    servers.client(endpoint).delete_object(**object_of(record, "results/toy.json"))
    assert record.incomplete() == ""  # only the manifest is asked for
    assert record.incomplete(thorough=True) == "its artifact results/toy.json is gone or changed"
    with pytest.raises(Missing, match=r"no artifact results/toy\.json in s3://.*\(404\)"):
        record.artifact("results/toy.json")


def test_a_storage_that_is_away_makes_no_run_unusable(
    record: Record, monkeypatch: pytest.MonkeyPatch
):
    """Else an outage would have everything computed again."""
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("papertrail.core.reading.record._SEEN", set())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(ConnectionError, match=f"artifact {MANIFEST} of run {record.run_id}"):
        record.unusable()


def test_the_oldest_copies_go_when_they_take_too_much_room(
    record: Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    shelf = record.store.work / remote.FOLDER
    for name, age_days in (("old", 9), ("young", 0)):
        (shelf / name).mkdir(parents=True)
        (shelf / name / "large.bin").write_bytes(bytes(2_000))
        then = (shelf / name).stat().st_mtime - age_days * 86_400
        os.utime(shelf / name, (then, then))
    monkeypatch.setenv(remote.LIMIT, "1e-6")
    monkeypatch.setattr(remote, "_TIDY", set())
    record.artifact("results/toy.json")
    assert {one.name for one in shelf.iterdir()} == {"young", record.run_id}
    assert "copies were let go" in capsys.readouterr().err


def test_an_upload_that_did_not_arrive_whole_is_noticed(record: Record, store: Store):
    size = remote.LARGE_UPLOAD
    with pytest.raises(ConnectionError, match=f"of {size} bytes arrived"):
        remote.confirm(store.client, record.run_id, "results/toy.json", size)
    remote.confirm(store.client, record.run_id, "results/toy.json", size - 1)  # small: not asked
