"""A long verb that is killed goes on behind its last finished part: real processes, real kills."""

import os
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from crowd import Crowd
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import TOY, Part, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.question.identity import identify
from papertrail.core.reading import query
from papertrail.core.storage.store import Store
from papertrail.core.writing import parts, track
from papertrail.core.writing.parts import num_parts, part

SIZE = 4
DIE, WAIT, FILL = "TEST_PARTS_DIE", "TEST_PARTS_WAIT", "TEST_PARTS_FILL"
LARGE = 16 << 20  # bytes


def parted(config: ToyConfig) -> None:
    """Each part depends on those before it; `config.text` is a diary of what was done."""
    total = 0.0
    for number in range(config.part.size):
        total = float(part(f"part-{number}", partial(step, number, total, config))["total"])
        if os.environ.get(DIE) == f"behind {number}":
            os.kill(os.getpid(), signal.SIGKILL)
    track.metrics({"total": total})


def step(number: int, before: float, config: ToyConfig) -> Mapping[str, np.ndarray]:
    with Path(config.text).open("a") as diary:
        diary.write(f"{number}\n")
    print(f"at part {number}", flush=True)
    if os.environ.get(DIE) == f"inside {number}":
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get(WAIT) == str(number):
        time.sleep(60)
    drawn = np.random.default_rng([config.seed, number]).normal(size=1000)
    large = np.zeros(LARGE if os.environ.get(FILL) == str(number) else 1, dtype=np.uint8)
    return {"total": np.array(before + drawn.sum()), "drawn": drawn, "large": large}


PARTED = replace(TOY, name="parted", verb="test_parts:parted")
toy.BY_NAME["parted"] = PARTED  # for a process that is forked


def no_large_files() -> None:
    """This process cannot write such a part, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 2, resource.RLIM_INFINITY))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def as_it_is() -> None:
    """Nothing; but to find this function, the process imports the experiment."""


@pytest.fixture
def config(tmp_path: Path) -> ToyConfig:
    return ToyConfig(part=Part(size=SIZE), text=str(tmp_path / "diary"))


def words(config: ToyConfig) -> list[str]:
    return [f"--part.size={config.part.size}", f"--text={config.text}", f"--seed={config.seed}"]


def diary(config: ToyConfig) -> list[int]:
    return [int(line) for line in Path(config.text).read_text().split()]


def folder(config: ToyConfig, store: Store) -> Path:
    return store.folder(identify(PARTED, config).digest)


def expected(config: ToyConfig) -> float:
    total = 0.0
    for number in range(config.part.size):
        total += np.random.default_rng([config.seed, number]).normal(size=1000).sum()
    return float(total)


@pytest.mark.parametrize("moment", ["inside", "behind"])
def test_a_run_killed_at_every_part_ends_as_if_it_had_not_been(
    store: Store, people: Crowd, config: ToyConfig, moment: str
):
    for number in range(SIZE):
        died = people.starts(
            *words(config), experiment=PARTED, before=as_it_is,
            environment={DIE: f"{moment} {number}"},
        )  # fmt: skip
        assert died.ended() == -signal.SIGKILL, died.stderr
        assert num_parts(folder(config, store)) == number + (moment == "behind")
    record = require(PARTED, config)
    assert record.metrics["total"] == expected(config)
    again = dict.fromkeys(range(SIZE), 1 + (moment == "inside"))
    assert Counter(diary(config)) == again
    runs = store.client.search_runs(_groups(store))
    # Killed inside its first part, a run has nothing to go on with: only then is there another.
    assert len(runs) == 1 + (moment == "inside")
    assert not list((folder(config, store) / parts.FOLDER).iterdir())
    assert require(PARTED, config).run_id == record.run_id
    assert Counter(diary(config)) == again


def _groups(store: Store) -> list[str]:
    return [one.experiment_id for one in store.client.search_experiments()]


def test_a_run_asked_to_stop_keeps_its_parts(store: Store, people: Crowd, config: ToyConfig):
    member = people.starts(
        *words(config), experiment=PARTED, before=as_it_is, environment={WAIT: "2"}
    )
    member.until("at part 2")
    assert member.kill(signal.SIGTERM) == 1
    assert standing(PARTED, config).why.endswith("it is KILLED (stopped by SIGTERM)")
    record = require(PARTED, config)
    assert diary(config) == [0, 1, 2, 2, 3]
    assert record.metrics["total"] == expected(config)


def test_a_full_disk_ends_the_run_with_its_reason_and_spoils_nothing(
    store: Store, people: Crowd, config: ToyConfig
):
    member = people.starts(
        *words(config), experiment=PARTED, before=no_large_files, environment={FILL: "2"}
    )
    assert member.ended() == 1
    assert "File too large" in standing(PARTED, config).why
    assert num_parts(folder(config, store)) == 2
    assert require(PARTED, config).metrics["total"] == expected(config)
    assert diary(config)[:3] == [0, 1, 2] and diary(config)[-2:] == [2, 3]


def killed_behind(number: int, people: Crowd, config: ToyConfig) -> None:
    died = people.starts(
        *words(config), experiment=PARTED, before=as_it_is, environment={DIE: f"behind {number}"}
    )
    assert died.ended() == -signal.SIGKILL, died.stderr


def cut(written: bytes) -> bytes:
    return written[: len(written) // 2]


def emptied(written: bytes) -> bytes:
    return b""


def flipped(written: bytes) -> bytes:
    spoiled = bytearray(written)
    spoiled[len(spoiled) // 2] ^= 1
    return bytes(spoiled)


@pytest.mark.parametrize("spoil", [cut, emptied, flipped])
def test_a_spoiled_part_is_named_and_done_again(
    store: Store,
    people: Crowd,
    config: ToyConfig,
    spoil: Callable[[bytes], bytes],
    capsys: pytest.CaptureFixture[str],
):
    killed_behind(2, people, config)
    path = folder(config, store) / parts.FOLDER / "part-1.npz"
    path.write_bytes(spoil(path.read_bytes()))
    record = require(PARTED, config)
    assert "part-1.npz cannot be read" in capsys.readouterr().err
    assert diary(config) == [0, 1, 2, 1, 3]
    assert record.metrics["total"] == expected(config)


def test_another_question_sees_none_of_them(store: Store, people: Crowd, config: ToyConfig):
    killed_behind(1, people, config)
    other = replace(config, seed=1)
    assert require(PARTED, other).metrics["total"] == expected(other)
    assert diary(config) == [0, 1, 0, 1, 2, 3]
    assert num_parts(folder(config, store)) == 2


def test_force_computes_everything_again(store: Store, people: Crowd, config: ToyConfig):
    killed_behind(1, people, config)
    require(PARTED, config, "force")
    assert diary(config) == [0, 1, 0, 1, 2, 3]


ARRAYS = {
    "numbers": np.arange(6, dtype=">f4").reshape(2, 3).T,
    "text": np.array(["", "α", "long enough"]),
    "none": np.zeros((0, 3), dtype=np.int16),
    "truth": np.array(True),
}


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_goes_unnoticed(at: int, bit: int):
    packed = parts._packed("one", ARRAYS)
    spoiled = bytearray(packed)
    spoiled[at % len(spoiled)] ^= 1 << bit
    end = -parts.DIGEST_BYTES
    assert parts.sha256(bytes(spoiled[:end])).digest() != bytes(spoiled[end:])


def test_what_is_read_back_is_what_was_computed_to_the_type():
    found = parts._unpacked(parts._packed("one", ARRAYS))
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"one": np.array([{}, None])}, "arrays of objects"),
        ({"file": np.zeros(1)}, "names of its own"),
    ],
)
def test_what_could_not_be_read_back_is_refused(arrays: dict[str, Any], said: str):
    with pytest.raises(AssertionError, match=said):
        parts._packed("one", arrays)


def twice(config: ToyConfig) -> None:
    """Two parts of one name: the second would be given the first."""
    for number in range(2):
        part("same", partial(dict, n=np.array(number)))


def escaping(config: ToyConfig) -> None:
    part("../elsewhere", lambda: {"n": np.array(1)})


@pytest.mark.parametrize("verb", [twice, escaping])
def test_every_part_has_a_plain_name_of_its_own(
    store: Store, config: ToyConfig, verb: Callable[[ToyConfig], None]
):
    experiment = replace(PARTED, name=verb.__name__, verb=f"test_parts:{verb.__name__}")
    with pytest.raises(AssertionError, match="no part's own plain name"):
        require(experiment, config)


def test_a_complete_run_leaves_no_scratch(store: Store, config: ToyConfig):
    record = require(PARTED, config)
    assert not [path for path in folder(config, store).rglob("*") if path.is_file()]
    assert not query.by_id(record.run_id).unusable()
