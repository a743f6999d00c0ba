"""Every test gets a store of its own, copied from one that was migrated once."""

import os

# Before torch is imported: small matrices are slower with two threads, and suites run side by side.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from crowd import Crowd
    from mlflow.tracking import MlflowClient

    from papertrail.core.storage.store import Store

settings.register_profile("claims", deadline=None)  # speed is shown by benchmarks
settings.load_profile("claims")

ROOT = Path(__file__).parents[1]
LONG = (
    "test_resume", "test_devices", "test_audit", "test_world", "test_monotone", "test_runs",
    "test_sweep_runs", "test_server", "test_setup", "test_long_runs", "test_attack_resume",
)  # fmt: skip
"""Files that take longest: begun first, so that nobody waits for one of them at the end."""
SLOW = {
    "test_arms": ["projected_training_that_was_killed"],
    "test_attack_resume": ["killed_again_and_again_it_repeats_no_finished_batch"],
    "test_attacks": ["minimising_as_nanogcg_does_reaches_the_loss_that_it_reaches[False]"],
    "test_audit": [
        "an_audit_draws_what_stands_and_is_never_answered_by_the_one_before",
        "a_stopped_audit_leaves_nothing_finished_and_no_process[scheduler]",
    ],
    "test_benchmarks": ["a_killed_run_goes_on_behind_its_last_task"],
    "test_cli": ["any_values_survive_a_real_mlflow_run"],
    "test_devices": [
        "a_rank_that_does_not_come_up_is_told",
        "a_training_on_two_devices_that_was_stopped_ends_as_if_it_had_not_been[fsdp]",
        "an_error_of_rank_0_is_its_own",
        "two_devices_give_the_curve_and_the_weights_of_one[fsdp]",
    ],
    "test_long_runs": ["a_training_killed_again_and_again"],
    "test_outage": [
        "a_run_stopped_while_its_server_is_away",
        "a_server_that_does_not_answer_for_seconds",
        "a_server_that_is_away_at_the_start_is_one_line_within_seconds[hanging]",
        "a_slow_server_does_not_slow",
    ],
    "test_resume": [
        "a_longer_run_goes_on_from_a_shorter_one_and_ends_where_it_would_have_ended[accumulated]",
        "the_resumed_loss_curve_equals_the_uninterrupted_one[kill -9]",
        "the_resumed_loss_curve_equals_the_uninterrupted_one[the same, accumulated",
    ],
    "test_runs": [  # the stories have sixteen
        "four_processes_on_no_store_at_all_make_one",
        "processes_that_ask_the_same_question_compute_it_once",
    ],
    "test_server": ["after_the_supervisor_was_killed"],
    "test_setup": ["fetch_brings"],
    "test_sweep_runs": ["a_killed_sweep", "a_stopped_sweep", "two_workers_share"],
    "test_uat": ["a_search_killed_again_and_again"],
}
"""Another way of being killed, or another kind of what a faster test covers: `make test-slow`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; within a file the order stays."""
    for item in items:
        beginnings = tuple(f"test_{claim}" for claim in SLOW.get(item.path.stem, ()))
        if item.name.startswith(beginnings):
            item.add_marker("slow")
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def executed(notebook: str) -> dict[str, Any]:
    """The names that a notebook leaves, run from its first cell to its last."""
    path, names = ROOT / "notebooks" / f"{notebook}.ipynb", dict[str, Any]()
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), str(path), "exec"), names)
    return names


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated SQLite store: creating the tables takes seconds."""
    from papertrail.core.storage.store import connect

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def one_command_each() -> Iterator[None]:
    """What a test launches in this process is a command of its own: the next test is another."""
    yield
    os.environ.pop("PAPERTRAIL_ORDER", None)


@pytest.fixture
def store_uri(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a fresh store, named by the environment as for any process of a user."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    yield uri


@pytest.fixture
def store(store_uri: str) -> "Store":
    """That store, open."""
    from papertrail.core.storage.store import connect

    return connect()


@pytest.fixture(scope="module")
def module_store(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Store]":
    """A store that the tests of one file share: what one of them computes, the next one reads."""
    from papertrail.core.storage.store import connect

    folder = tmp_path_factory.mktemp("shared")
    shutil.copy(migrated, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        yield connect()


@pytest.fixture
def client(store: "Store") -> "MlflowClient":
    """MLflow's own view of it."""
    return store.client


@pytest.fixture
def people(store_uri: str) -> "Iterator[Crowd]":
    """Processes of people who use it."""
    from crowd import crowd

    with crowd() as found:
        yield found


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half a megabyte of real text that is on every machine: sources of the standard library."""
    folder = Path(argparse.__file__).parent
    names = ("argparse", "ast", "bdb", "calendar", "cgi", "configparser", "csv", "datetime")
    more = ("difflib", "doctest", "enum", "fractions", "functools", "heapq", "inspect", "locale")
    sources = [folder / f"{name}.py" for name in (*names, *more)]
    path = tmp_path_factory.mktemp("text") / "library.txt"
    texts = [source.read_text(encoding="utf-8") for source in sources if source.exists()]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def smoke(text_file: Path) -> list[str]:
    """Options of the smoke scale on that text."""
    return ["--scale=smoke", f"--data.text={text_file}"]
