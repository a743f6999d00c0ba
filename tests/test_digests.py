"""A digest is remembered exactly as long as the file is what it was, and never in place of reading.

Files, stores and processes are real; `reads` counts how often a file's content was read.
"""

import hashlib
import os
import resource
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from papertrail.core import digests, progress
from papertrail.core.errors import BadInput

LARGE = digests.SMALL + 1  # bytes: worth remembering
BY_HAND = """
import sys
from pathlib import Path
from papertrail.core import digests
digests.YOUNG_NS = 0
read, reads = digests._read, []
digests._read = lambda path: (reads.append(path), read(path))[1]
for name in sys.argv[1:]:
    print(digests.sha256(Path(name)))
print(len(reads))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A memory of our own, that has not been given up."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PAPERTRAIL_CACHE", str(folder))
    monkeypatch.setattr(digests._Memory, "given_up", set())
    monkeypatch.setattr(progress, "_SAID", set())
    return folder


@pytest.fixture
def grown_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as old at once: ctime cannot be set back, and a test should not wait."""
    monkeypatch.setattr(digests, "YOUNG_NS", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []
    real = digests._read

    def spy(path: Path) -> tuple[bytes, os.stat_result]:
        seen.append(path)
        return real(path)

    monkeypatch.setattr(digests, "_read", spy)
    return seen


def content(letter: str, size: int = LARGE) -> bytes:
    return letter.encode() * size


def true_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def processes(count: int, *paths: Path, limit: Callable[[], None] | None = None) -> list[list[str]]:
    """What processes that start together print, and what they complain of."""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BY_HAND, *map(str, paths)],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=limit,
        )
        for _ in range(count)
    ]  # fmt: skip
    return [list(one.communicate(timeout=60)) for one in started]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200), st.integers(1, 200))
def test_it_is_the_sha256_of_the_content_first_and_second_time(
    tmp_path: Path, grown_up: None, word: bytes, times: int
):
    path = tmp_path / str(len(list(tmp_path.iterdir())))
    path.write_bytes(word * times)
    expected = hashlib.sha256(word * times).hexdigest()
    assert digests.sha256(path) == digests.sha256(path) == expected


def test_a_file_that_is_left_alone_is_read_once_for_all_processes(
    tmp_path: Path, grown_up: None, reads: list[Path]
):
    path = tmp_path / "file"
    path.write_bytes(content("a"))
    [[first, _]] = processes(1, path)
    assert [digests.sha256(path), "1"] == first.split() == [true_digest(path), "1"]
    assert reads == []


def test_two_seconds_after_its_last_change_a_file_is_remembered(tmp_path: Path, reads: list[Path]):
    path = tmp_path / "file"
    path.write_bytes(content("a"))
    digests.sha256(path)
    digests.sha256(path)
    assert len(reads) == 2
    time.sleep(2.1)
    digests.sha256(path)
    digests.sha256(path)
    assert len(reads) == 3


def test_a_change_within_one_tick_of_the_clock_is_never_missed(tmp_path: Path):
    path = tmp_path / "file"
    for _ in range(100):  # several such pairs fall into one tick of 1 to 4 ms
        for letter in "ab":
            path.write_bytes(content(letter))
            assert digests.sha256(path) == hashlib.sha256(content(letter)).hexdigest()


def test_a_change_that_restores_size_and_mtime_is_noticed(tmp_path: Path, grown_up: None):
    path = tmp_path / "file"
    path.write_bytes(content("a"))
    before = path.stat()
    digests.sha256(path)
    time.sleep(0.02)
    path.write_bytes(content("b"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert digests.sha256(path) == true_digest(path)


def test_a_file_moved_into_its_place_is_noticed(tmp_path: Path, grown_up: None):
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_bytes(content("a"))
    other.write_bytes(content("b"))
    moment = path.stat().st_mtime_ns
    digests.sha256(path)
    os.utime(other, ns=(moment, moment))
    other.replace(path)
    assert digests.sha256(path) == true_digest(path)


def test_two_folders_that_change_places_are_noticed(tmp_path: Path, grown_up: None):
    a, b, aside = (tmp_path / name for name in ("a", "b", "aside"))
    for folder in (a, b):
        folder.mkdir()
    for n in range(100):  # some pairs fall into one tick: open() would look at them in between
        for folder in (a, b):
            file = os.open(folder / f"{n}", os.O_CREAT | os.O_WRONLY)
            os.write(file, content(folder.name))
            os.close(file)
    paths = [a / f"{n}" for n in range(100)]
    before = digests.of_each(paths)
    for here, there in ((a, aside), (b, a), (aside, b)):
        here.rename(there)  # of a folder: the files in it keep their ctime
    assert before == [true_digest(b / path.name) for path in paths]
    assert digests.of_each(paths) == [true_digest(path) for path in paths]


def test_a_link_is_what_it_points_to(
    tmp_path: Path, grown_up: None, reads: list[Path], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "a").write_bytes(content("a"))
    (tmp_path / "b").write_bytes(content("b"))
    link = tmp_path / "link"
    link.symlink_to("a")
    monkeypatch.chdir(tmp_path)
    names = [tmp_path / "a", link, Path("a"), Path("link"), Path("cache/../a")]
    assert {digests.sha256(name) for name in names} == {true_digest(tmp_path / "a")}
    assert len(reads) == 1
    link.unlink()
    link.symlink_to("b")
    assert digests.sha256(link) == true_digest(tmp_path / "b")


def test_a_copy_has_the_same_digest(tmp_path: Path):
    (tmp_path / "a").write_bytes(content("a"))
    (tmp_path / "b").write_bytes(content("a"))
    a, b = digests.of_each([tmp_path / "a", tmp_path / "b"])
    assert a == b


def test_a_small_file_is_read_and_not_remembered(tmp_path: Path, grown_up: None, cache: Path):
    (tmp_path / "a").write_bytes(content("a", digests.SMALL))
    digests.sha256(tmp_path / "a")
    assert not cache.exists()


def folder_is_a_file(cache: Path) -> None:
    cache.write_text("no folder")


def memory_is_a_folder(cache: Path) -> None:
    (cache / digests.FILE).mkdir(parents=True)


def memory_is_no_database(cache: Path) -> None:
    cache.mkdir()
    (cache / digests.FILE).write_bytes(b"something else " * 1000)


def memory_has_other_columns(cache: Path) -> None:
    cache.mkdir()
    with sqlite3.connect(cache / digests.FILE) as connection:
        connection.execute("CREATE TABLE digests (what TEXT)")
    connection.close()


@pytest.mark.parametrize(
    "spoil", [folder_is_a_file, memory_is_a_folder, memory_is_no_database, memory_has_other_columns]
)
def test_a_memory_that_cannot_be_used_costs_time_and_one_line(
    tmp_path: Path, cache: Path, grown_up: None, capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
):  # fmt: skip
    spoil(cache)
    paths = [tmp_path / letter for letter in "abc"]
    for path in paths:
        path.write_bytes(content(path.name))
    for _ in range(2):
        assert digests.of_each(paths) == [true_digest(path) for path in paths]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("digests of files are not remembered (") and str(cache) in said


def test_a_full_disk_costs_time_and_one_line_and_what_was_remembered_still_counts(
    tmp_path: Path, grown_up: None
):
    known, new = tmp_path / "known", tmp_path / "new"
    for path in (known, new):
        path.write_bytes(content(path.name))
    digests.sha256(known)

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    [[out, err]] = processes(1, new, known, new, limit=no_room)
    assert out.split() == [*(true_digest(path) for path in (new, known, new)), "2"]
    assert err.count("\n") == 1 and digests.FILE in err


def test_a_memory_that_another_process_holds_is_waited_for_and_then_given_up(
    tmp_path: Path, cache: Path, grown_up: None, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setattr(digests, "PATIENCE_SECONDS", 0.2)
    path = tmp_path / "file"
    path.write_bytes(content("a"))
    digests.sha256(path)
    holder = sqlite3.connect(cache / digests.FILE, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    path.write_bytes(content("b"))
    begin = time.monotonic()
    assert [digests.sha256(path) for _ in range(5)] == [true_digest(path)] * 5
    assert time.monotonic() - begin < 2
    holder.close()
    assert "locked" in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_a_digest_that_was_damaged_on_disk_is_not_believed(
    tmp_path: Path, cache: Path, grown_up: None
):
    path = tmp_path / "file"
    path.write_bytes(content("a"))
    digests.sha256(path)
    with sqlite3.connect(cache / digests.FILE) as connection:
        assert connection.execute("UPDATE digests SET sha256 = zeroblob(32)").rowcount == 1
    connection.close()
    assert digests.sha256(path) == true_digest(path)


def test_processes_that_start_together_share_one_memory(tmp_path: Path, cache: Path):
    paths = [tmp_path / f"{n}" for n in range(8)]
    for n, path in enumerate(paths):
        path.write_bytes(content(str(n)))
    expected = [true_digest(path) for path in paths]
    for out, err in processes(8, *paths):
        assert out.split()[:-1] == expected and err == ""
    connection = sqlite3.connect(cache / digests.FILE)
    assert connection.execute("SELECT count(*) FROM digests").fetchone() == (8,)
    connection.close()


def test_the_memory_does_not_grow_for_ever_and_forgets_the_oldest(
    tmp_path: Path, cache: Path, grown_up: None, reads: list[Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(digests, "MOST", 20)
    paths = [tmp_path / f"{n}" for n in range(30)]
    for path in paths:
        path.write_bytes(content("x"))
        digests.sha256(path)
    connection = sqlite3.connect(cache / digests.FILE)
    assert 18 <= connection.execute("SELECT count(*) FROM digests").fetchone()[0] <= 20
    connection.close()
    reads.clear()
    digests.of_each(paths[-18:])
    assert reads == []
    digests.sha256(paths[0])
    assert reads == paths[:1]


def test_what_was_read_before_a_kill_minus_9_is_remembered(
    tmp_path: Path, grown_up: None, reads: list[Path]
):
    paths = [tmp_path / f"{n}" for n in range(digests.BATCH + 1)]
    for path in paths:
        path.write_bytes(content("x"))
    code = (
        "import os, sys; from pathlib import Path; from papertrail.core import digests\n"
        "digests.YOUNG_NS, read = 0, digests._read\n"
        "def deadly(path):\n"
        "    if path.name == sys.argv[1]: os.kill(os.getpid(), 9)\n"
        "    return read(path)\n"
        "digests._read = deadly\n"
        "digests.of_each([Path(name) for name in sys.argv[2:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, paths[-1].name, *map(str, paths)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
    )
    assert done.returncode == -9
    digests.of_each(paths)
    assert reads == paths[-1:]


def test_a_file_that_is_being_written_has_no_digest(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(content("a", 30_000_000))
    done = threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not done.is_set():
                file.write(b"more")
                time.sleep(0.0001)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with pytest.raises(BadInput, match=r"file: changes while it is read; wait until it is"):
            digests.sha256(path)
    finally:
        done.set()
        writer.join()
    assert digests.sha256(path) == true_digest(path)


def test_within_one_look_a_folder_is_looked_at_once_and_afterwards_again(tmp_path: Path):
    looks: list[str] = []

    @digests.seen_once
    def names(folder: Path) -> list[str]:
        looks.append(folder.name)
        return [path.name for path in folder.iterdir()]

    with digests.one_look():
        before = names(tmp_path)
        (tmp_path / "new").touch()
        with digests.one_look():
            assert names(tmp_path) == before
        assert names(tmp_path) == before
        assert names(tmp_path / "..") != before
    assert sorted(names(tmp_path)) == sorted([*before, "new"])
    assert looks == [tmp_path.name, "..", tmp_path.name]


def test_an_identity_is_known_without_the_network_torch_or_mlflow():
    heavy = ("requests", "rich", "torch", "mlflow", "numpy")
    code = (
        "import sys, papertrail.core.question.identity;"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src"), "PATH": ""},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
