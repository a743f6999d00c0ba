"""Workers that answer one question after another: who takes what, who dies, who is stopped."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from test_stories_process import entry_points
from toy import TOY, ToyConfig

from papertrail.core import progress, stopping
from papertrail.core.answering.pool import Pool
from papertrail.core.answering.standing import Standing, standings
from papertrail.core.answering.workers import Asked, Words, Worker, chosen
from papertrail.core.errors import Interrupted
from papertrail.core.progress import Report
from papertrail.core.question.experiment import Question
from papertrail.core.storage.store import Store

# -- who takes what --------------------------------------------------------------------------------


def question(name: str, *needs: Words) -> Asked:
    return Asked((name,), frozenset(needs))


def takes(waiting: list[Asked], last: Asked | None, *at_work: Asked) -> str:
    """What a worker goes on with."""
    return chosen(waiting, last, at_work).words[0]


A, B = ("model a",), ("model b",)
OF_A, OF_B = [[question(f"{one[0]}, {n}", one) for n in range(3)] for one in (A, B)]
BOTH = question("both", OF_A[0].words, OF_B[0].words)


def test_a_worker_goes_on_with_the_model_that_it_has():
    assert takes([*OF_A[1:], *OF_B], OF_B[0]) == "model b, 0"
    assert takes(OF_A, OF_B[0]) == "model a, 0"


def test_a_new_worker_takes_a_model_that_no_other_has_if_there_is_one():
    assert takes([*OF_A[1:], *OF_B], None, OF_A[0]) == "model b, 0"
    assert takes([*OF_A[1:], *OF_B], None) == "model a, 1"
    assert takes(OF_A[1:], None, OF_A[0]) == "model a, 1"


def test_nobody_waits_for_what_is_being_answered_while_there_is_something_else():
    assert takes([OF_A[1], BOTH, OF_B[1]], None, OF_A[0]) == "model b, 1"
    assert takes([BOTH], None, OF_A[0]) == "both"
    assert takes([BOTH, *OF_B], OF_A[2]) == "model b, 0"


def test_questions_that_build_on_nothing_are_taken_in_order():
    first, *others = [question(str(n)) for n in range(3)]
    assert takes(others, first) == takes(others, None, first) == "1"


# -- how far ---------------------------------------------------------------------------------------


def test_one_bar_tells_how_many_runs_are_left_and_no_run_looks_for_the_nearest_of_thousands(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    entry_points(tmp_path, monkeypatch)
    seen: list[float] = []

    @contextmanager
    def bar(label: str) -> Iterator[Report]:
        assert label == "3 runs, 1 at a time"
        yield seen.append

    monkeypatch.setattr(progress, "bar", bar)
    asked = [Question(TOY, ToyConfig(seed=seed)) for seed in range(3)]
    Pool(1).compute(asked, store, "reuse")
    assert seen == sorted(seen) and sorted(set(seen)) == pytest.approx([0, 1 / 3, 2 / 3])
    assert {one.usable is not None for one in standings(asked, store)} == {True}
    assert "the nearest is" not in capfd.readouterr().err


# -- who stays -------------------------------------------------------------------------------------


def asks(pool: Pool, store: Store, *seeds: int) -> set[str]:
    """Which processes answered."""
    asked = [Question(TOY, ToyConfig(seed=seed)) for seed in seeds]
    pool.compute(asked, store, "reuse")
    found = [one.usable for one in standings(asked, store)]
    return {record.tags["papertrail.owner"] for record in found if record}


def test_workers_stay_from_one_stage_of_a_study_to_the_next_and_leave_with_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    entry_points(tmp_path, monkeypatch)
    before = set(psutil.Process().children())
    with Pool(1) as pool:
        first = asks(pool, store, 1, 2)
        assert asks(pool, store, 3, 4) == asks(pool, store, 7) == first and len(first) == 1
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # another environment: another process
        assert asks(pool, store, 5, 6).isdisjoint(first)
        assert len(set(psutil.Process().children()) - before) == 1
    assert set(psutil.Process().children()) == before


# -- who dies --------------------------------------------------------------------------------------

DOES = ("finish", "start others", "kill", "fork and return", "finish", "wait", "finish")
ASKED = [Question(TOY, ToyConfig(do=do, seed=n)) for n, do in enumerate(DOES)]


@dataclass(frozen=True)
class Answers:
    """What stands after one worker at a time was asked all of it, until somebody stopped us."""

    found: list[Standing]
    left: set[psutil.Process]
    """Processes that were not there before."""

    def process(self, number: int) -> str:
        """Who answered a question."""
        record = self.found[number].usable
        assert record, self.found[number].why
        return record.tags["papertrail.owner"]


@pytest.fixture(scope="module")
def answers(module_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    before = set(psutil.Process().children())
    threading.Thread(target=stop_us, args=(ASKED[DOES.index("wait")], module_store)).start()
    with pytest.MonkeyPatch.context() as patch, stopping.signals_raise():
        entry_points(tmp_path_factory.mktemp("entries"), patch)
        with pytest.raises(Interrupted, match="SIGTERM"):
            Pool(1).compute(ASKED, module_store, "reuse")
    return Answers(standings(ASKED, module_store), set(psutil.Process().children()) - before)


def stop_us(asked: Question, store: Store) -> None:
    """Stop this process as soon as the question is being answered."""
    while not ((found := standings([asked], store)[0].running) and found.metrics):
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)


def test_a_worker_answers_one_question_after_another_whatever_they_print(answers: Answers):
    assert answers.process(0) == answers.process(1)


def test_a_worker_that_is_killed_loses_the_question_it_was_at_and_no_other(answers: Answers):
    killed = answers.found[2]
    assert not killed.usable and "RUNNING" in killed.why
    assert answers.process(1) != answers.process(3)


def test_a_fork_of_a_worker_answers_nothing_and_takes_nothing(answers: Answers):
    assert answers.process(3) == answers.process(4)


def test_a_worker_that_was_killed_is_told_from_one_that_can_be_asked():
    worker = Worker(os.environ)
    worker.process.kill()
    worker.process.wait()
    assert not worker.lives() and not worker.ask(question("anything"), False) and not worker.busy
    worker.hang_up()


def test_who_stops_the_launcher_stops_the_worker_that_is_at_a_question(answers: Answers):
    stopped, never_asked = answers.found[5:]
    assert stopped.last and stopped.last.status == "KILLED" and "SIGTERM" in stopped.why
    assert never_asked.state == "missing" and not answers.left
