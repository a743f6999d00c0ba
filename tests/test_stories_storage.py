"""Stores that are full, locked away, moved, cleaned or edited by hand: failure stories of others,
on real stores. docs/failure_stories.md lists them all.
"""

import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from crowd import Crowd, Member
from mlflow.tracking import MlflowClient
from nobody import CODE, become_nobody, shut_out
from test_runs import only
from toy import DOUBLE, LARGE, READER, TOY, ToyConfig

from papertrail.core import progress
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import Missing
from papertrail.core.reading import query
from papertrail.core.storage.store import Store, connect, sqlite_path
from papertrail.core.writing.run import PARENTS_PER_TAG, TAG_LIMIT, Run, parents_of

# -- what MLflow cuts ------------------------------------------------------------------------------


def test_a_long_failure_is_shortened_visibly_and_kept_whole_in_an_artifact(store: Store):
    with pytest.raises(RuntimeError):
        require(TOY, ToyConfig(do="raise loudly", text="x" * 10_000))
    failed = standing(TOY, ToyConfig(do="raise loudly", text="x" * 10_000)).last
    assert failed is not None
    said = failed.tags["papertrail.failure"]
    assert len(said) <= TAG_LIMIT and "characters, sha256" in said
    assert failed.artifact("failure.txt").read_text().count("very") >= 4_000
    assert "(10000 characters, sha256" in failed.config["text"]


def test_thousands_of_parents_come_back_in_order(store: Store):
    ids = [f"{number:032x}" for number in range(11 * PARENTS_PER_TAG + 1)]
    record = require(TOY, ToyConfig())
    run = Run(store, record.run_id, standing(TOY, ToyConfig()).identity, {})
    for start in range(0, len(ids), 77):  # as they come, some at a time
        run.built_on(*ids[start : start + 77])
    tags = query.by_id(record.run_id).tags
    assert parents_of(tags) == ids
    assert max(map(len, tags.values())) < TAG_LIMIT


def test_a_resumed_run_keeps_the_params_it_began_with_and_notes_the_others(
    store: Store, people: Crowd
):
    stopped = people.starts("--do=checkpoint and wait", "--device=this")
    run_id = stopped.started()
    stopped.until("left ")
    stopped.kill(signal.SIGTERM)
    again = people.starts("--do=checkpoint and wait", "--device=that")
    again.until("left ")
    assert "papertrail.failure" not in query.by_id(run_id).tags  # it goes on: nothing failed
    again.kill(signal.SIGTERM)
    record = query.by_id(run_id)
    assert f"resuming run {run_id}" in again.stderr
    assert record.config["device"] == "this"
    assert record.tags["papertrail.resumed_with"] == '{"cfg.device":"that"}'


# -- a store that cannot be used -------------------------------------------------------------------


def limit_files(num_bytes: int) -> None:
    """Have the system refuse to let files grow beyond that, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))


def complains_in_one_line(member: Member, *words: str) -> None:
    assert member.ended() in (1, 2), member.stdout
    lines = [line for line in member.stderr.splitlines() if "another process" not in line]
    assert len(lines) == 1 and "Traceback" not in member.stderr, member.stderr
    assert lines[0].startswith("toy: ") and all(word in lines[0] for word in words), lines[0]


def nothing_stands(store: Store) -> None:
    runs = [query.by_id(run_id, store) for run_id in only(store.client)]
    assert not [run.run_id for run in runs if run.status == "FINISHED" or not run.unusable()]


def test_a_disk_too_full_for_an_artifact_fails_in_one_line_and_the_same_command_mends_it(
    store: Store, people: Crowd
):
    word = "--do=log a large file"
    member = people.starts(word, before=partial(limit_files, LARGE // 2))
    complains_in_one_line(member, "File too large", "keeps the traceback in failure.txt")
    nothing_stands(store)
    [run_id] = only(store.client)
    assert run_id in member.stderr
    assert "write_bytes" in query.by_id(run_id).artifact("failure.txt").read_text()
    again = people.starts(word)
    assert again.ended() == 0 and again.answer != run_id


@pytest.mark.parametrize("room", [0.5, 1.0])
def test_a_disk_too_full_for_the_database_fails_in_words_and_the_same_command_mends_it(
    store: Store, people: Crowd, room: float
):
    size = sqlite_path(store.uri).stat().st_size
    member = people.starts("--do=log much", before=partial(limit_files, int(room * size)))
    assert member.ended() == 1
    print(member.stderr)
    *before, last = member.stderr.splitlines()
    assert last.startswith("toy: disk I/O error") and store.uri in last
    assert all(line.startswith("run ") for line in before) and len(before) <= 2
    nothing_stands(store)
    again = people.starts("--do=log much")
    assert again.ended() == 0, again.stderr
    assert not query.by_id(again.answer).unusable()


@pytest.fixture
def shared(migrated: Path, store_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a store that everybody may read; only we may write."""
    if reason := shut_out(*CODE):
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(migrated, folder / "mlflow.db")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
        yield folder
        allow(folder, 0o700, 0o600)


def allow(folder: Path, on_folders: int, on_files: int) -> None:
    folder.chmod(on_folders)
    for path in folder.rglob("*"):
        path.chmod(on_folders if path.is_dir() else on_files)


def test_what_stands_in_a_store_of_somebody_else_is_read_and_new_work_refused_in_one_line(
    shared: Path, people: Crowd
):
    first = people.starts()
    assert first.ended() == 0
    allow(shared, 0o555, 0o444)
    reader = people.starts(before=become_nobody)
    assert reader.ended() == 0, reader.stderr
    assert reader.answer == first.answer and reader.stderr == ""
    refused = people.starts("--seed=1", before=become_nobody)
    assert refused.ended() == 1
    assert "Permission denied" in refused.stderr and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].startswith("toy: ")
    assert only(connect().client) == [first.answer]
    allow(shared, 0o755, 0o644)
    assert people.starts("--seed=1").ended() == 0


def test_a_database_that_may_not_be_written_is_one_line(shared: Path, people: Crowd):
    first = people.starts()
    first.ended()
    allow(shared, 0o777, 0o666)
    (shared / "mlflow.db").chmod(0o444)
    refused = people.starts("--seed=1", before=become_nobody)
    assert refused.ended() == 1
    print(refused.stderr)
    assert "readonly database" in refused.stderr and "Traceback" not in refused.stderr
    assert only(connect().client) == [first.answer]


@pytest.mark.parametrize("where", ["no rights to the file", "no rights to the folder", "a folder"])
def test_a_store_that_cannot_be_opened_or_made_is_one_line_at_once(
    shared: Path, people: Crowd, where: str
):
    environment = {}
    if where == "no rights to the file":
        allow(shared, 0o755, 0o600)
    elif where == "no rights to the folder":
        allow(shared, 0o555, 0o444)
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{shared / 'new.db'}"
        environment["PAPERTRAIL_WORK"] = "/tmp"
    else:
        shared.chmod(0o755)
        environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{shared}"
    member = people.starts(before=become_nobody, environment=environment)
    complains_in_one_line(member, str(shared))


# -- more than one store, and one that moved -------------------------------------------------------


def test_two_stores_are_two_memories_in_one_process_and_in_two(
    store: Store, migrated: Path, tmp_path: Path, people: Crowd
):
    (tmp_path / "other").mkdir()
    shutil.copy(migrated, tmp_path / "other" / "mlflow.db")
    other = connect(f"sqlite:///{tmp_path / 'other' / 'mlflow.db'}")
    here, there = require(TOY, ToyConfig(), store=store), require(TOY, ToyConfig(), store=other)
    assert here.run_id != there.run_id
    for one, record in ((store, here), (other, there)):
        assert only(one.client) == [record.run_id]
        assert record.artifact("config.yaml").is_relative_to(one.beside)
        member = people.starts(environment={"MLFLOW_TRACKING_URI": one.uri})
        assert member.ended() == 0 and member.answer == record.run_id
    assert require(DOUBLE, ToyConfig(), store=other).store.uri == other.uri
    assert len(only(store.client)) == 1 and len(only(other.client)) == 2  # upstream is there too


@pytest.fixture
def lab(migrated: Path, tmp_path: Path) -> Path:
    """The folder of a store, with one finished run."""
    folder = tmp_path / "lab"
    folder.mkdir()
    shutil.copy(migrated, folder / "mlflow.db")
    require(TOY, ToyConfig(), store=store_of(folder))
    return folder


def store_of(folder: Path) -> Store:
    return connect(f"sqlite:///{folder / 'mlflow.db'}")


def test_a_store_that_moved_answers_and_computes_where_it_is_now(
    lab: Path, tmp_path: Path, people: Crowd, capsys: pytest.CaptureFixture[str]
):
    first = require(TOY, ToyConfig(), store=store_of(lab))
    shutil.move(lab, tmp_path / "moved")
    moved = store_of(tmp_path / "moved")
    again = require(TOY, ToyConfig(), store=moved)
    assert again.run_id == first.run_id
    assert again.artifact("results/toy.json").is_relative_to(tmp_path / "moved")
    new = require(TOY, ToyConfig(seed=1), store=moved)
    said = capsys.readouterr().err
    assert said.count("has moved: artifacts go to") == 1
    assert new.artifact("results/toy.json").is_relative_to(tmp_path / "moved")
    assert not lab.exists()
    require(TOY, ToyConfig(seed=2), store=moved)
    assert "has moved" not in capsys.readouterr().err
    # MLflow's own pages find the artifacts of old runs as well
    assert moved.client.list_artifacts(first.run_id)


def test_a_copy_of_a_store_leaves_the_original_alone(lab: Path, tmp_path: Path):
    first = require(TOY, ToyConfig(), store=store_of(lab))
    shutil.copytree(lab, tmp_path / "copy")
    copy = store_of(tmp_path / "copy")
    before = sorted(lab.rglob("*"))
    new = require(TOY, ToyConfig(seed=1), store=copy)
    assert new.artifact("results/toy.json").is_relative_to(tmp_path / "copy")
    assert sorted(lab.rglob("*")) == before
    shutil.rmtree(lab)
    assert require(TOY, ToyConfig(), store=copy).run_id == first.run_id


def test_artifacts_that_somebody_put_elsewhere_stay_there(store: Store, tmp_path: Path):
    elsewhere = tmp_path / "large disk" / "toys"
    store.client.create_experiment("toys", elsewhere.as_uri())
    record = require(TOY, ToyConfig())
    assert record.artifact("results/toy.json").is_relative_to(elsewhere)


# -- deleted by hand -------------------------------------------------------------------------------


def test_a_run_that_was_deleted_and_restored_answers_again(store: Store, client: MlflowClient):
    first = require(TOY, ToyConfig())
    client.delete_run(first.run_id)
    assert standing(TOY, ToyConfig()).state == "missing"
    client.restore_run(first.run_id)
    assert require(TOY, ToyConfig()).run_id == first.run_id


def test_a_run_deleted_while_it_is_computed_is_no_answer(store: Store, people: Crowd):
    member = people.starts("--do=slow")
    store.client.delete_run(member.started())
    assert member.ended() == 1
    assert "deleted" in member.stderr.splitlines()[-1] and "Traceback" not in member.stderr
    assert standing(TOY, ToyConfig(do="slow")).usable is None


def test_what_mlflow_gc_removed_is_computed_again_and_what_was_built_on_it_says_so(
    store: Store, client: MlflowClient, capsys: pytest.CaptureFixture[str]
):
    double, toy = require(DOUBLE, ToyConfig()), require(TOY, ToyConfig())
    folder = toy.artifact("config.yaml").parent
    client.delete_run(toy.run_id)
    words = [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", store.uri]
    subprocess.run(words, check=True, capture_output=True)
    assert not folder.exists()
    with pytest.raises(Missing, match="not in sqlite"):
        query.by_id(toy.run_id)
    capsys.readouterr()
    assert require(DOUBLE, ToyConfig()).run_id == double.run_id
    assert f"built on run {toy.run_id}, which is not in the store" in capsys.readouterr().err
    assert require(TOY, ToyConfig()).run_id != toy.run_id


def test_a_deleted_experiment_is_one_line_with_what_to_do_and_answers_when_it_is_restored(
    store: Store, client: MlflowClient, people: Crowd
):
    first = require(TOY, ToyConfig())
    group = first.run.info.experiment_id
    client.delete_experiment(group)
    member = people.starts()
    complains_in_one_line(member, f"mlflow experiments restore --experiment-id {group}")
    assert member.ended() == 2
    client.restore_experiment(group)
    again = people.starts()
    assert again.ended() == 0 and again.answer == first.run_id


def test_a_renamed_experiment_still_answers(store: Store, client: MlflowClient):
    first = require(TOY, ToyConfig())
    client.rename_experiment(first.run.info.experiment_id, "what we did in spring")
    assert require(TOY, ToyConfig()).run_id == first.run_id
    assert require(TOY, ToyConfig(seed=1)).run.info.experiment_id != first.run.info.experiment_id


# -- two answers -----------------------------------------------------------------------------------


def test_two_answers_with_other_numbers_are_said_on_every_use(
    store: Store, client: MlflowClient, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(progress, "_SAID", set())
    first = require(TOY, ToyConfig())
    second = require(TOY, ToyConfig(), "force")
    require(TOY, ToyConfig())
    assert "answers the same question otherwise" not in capsys.readouterr().err  # the same numbers
    client.log_metric(second.run_id, "size", 4.0)
    require(TOY, ToyConfig())
    said = capsys.readouterr().err
    assert f"run {first.run_id} answers the same question otherwise: size 4 against 3" in said


def test_upstream_computed_again_with_other_numbers_is_said_of_what_was_built_on_it(
    store: Store, client: MlflowClient, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(progress, "_SAID", set())
    double, toy = require(DOUBLE, ToyConfig()), require(TOY, ToyConfig())
    client.delete_run(toy.run_id)
    require(TOY, ToyConfig())
    assert require(DOUBLE, ToyConfig()).run_id == double.run_id
    assert f"it was built on run {toy.run_id}, which was deleted" in capsys.readouterr().err


# -- data that change ------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.txt"
    path.write_text("a line\n")
    return path


def test_data_that_change_while_a_run_computes_fail_it_in_one_line(
    store: Store, people: Crowd, data: Path
):
    words = (f"--text={data}", "--do=spoil its data")
    member = people.starts(*words, experiment=READER)
    assert member.ended() == 2
    [line] = member.stderr.splitlines()
    assert line.startswith("reader: text: its content changed while the run was computed")
    [run_id] = only(store.client)
    assert query.by_id(run_id).status == "FAILED" and query.by_id(run_id).unusable()


def spoil_on_the_way(path: Path) -> None:
    """Have the data change after the question was identified, before its run is open."""
    from papertrail.core.writing import track

    introduce = track._introduce

    def late(*words: object) -> None:
        with path.open("a") as file:
            file.write("too late")
        introduce(*words)  # type: ignore[arg-type]

    track._introduce = late


def test_data_that_change_between_question_and_start_fail_it_before_it_computes(
    store: Store, people: Crowd, data: Path
):
    member = people.starts(
        f"--text={data}", experiment=READER, before=partial(spoil_on_the_way, data)
    )
    assert member.ended() == 2 and "working " not in member.stdout
    assert "its content changed" in member.stderr
    again = people.starts(f"--text={data}", experiment=READER)
    assert again.ended() == 0


def test_data_that_change_while_somebody_waits_at_a_claim_are_another_question(
    store: Store, people: Crowd, data: Path
):
    words = (f"--text={data}", "--do=slow")
    owner = people.starts(*words, experiment=READER)
    owner.started()
    other = people.starts(*words, experiment=READER)
    other.until("another process computes it")
    data.write_text("another line\n")
    assert owner.ended() == 2  # its data changed while it computed
    assert other.ended() == 2 and "its data changed meanwhile; start again" in other.stderr
    nothing_stands(store)
