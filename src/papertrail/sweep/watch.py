"""The sweep's own curves while it goes on: whoever computes the trials, one process watches."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from optuna.study import Study, StudyDirection
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from papertrail.core.writing.run import Run
from papertrail.sweep import trials
from papertrail.sweep.attempt import Swept

SECONDS = 5.0


@contextmanager
def watching(swept: Swept, study: Study, run: Run) -> Iterator[None]:
    """While the block lasts, what trials come to is logged to the sweep's run, and once at its
    end."""
    over, known = threading.Event(), set[int]()

    def watch() -> None:
        while not over.wait(SECONDS):
            try:
                _log_new(swept, study, run, known)
            except SQLAlchemyError:
                continue  # the database is busy: the next look sees more

    watcher = threading.Thread(target=watch, name="sweep", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    _log_new(swept, study, run, known)


def _log_new(swept: Swept, study: Study, run: Run, known: set[int]) -> None:
    """Curves over the number of trials that are done; a resumed sweep repeats no point of them."""
    found = trials.real(study)
    done = sorted(
        (t for t in found if t.state in trials.DONE), key=lambda t: (t.datetime_complete, t.number)
    )
    names = sorted(swept.config.objectives)
    best = dict.fromkeys(names, float("nan"))
    for step, trial in enumerate(done, start=1):
        if trial.state == TrialState.COMPLETE:
            for name, value, direction in zip(names, trial.values, study.directions, strict=True):
                take = min if direction == StudyDirection.MINIMIZE else max
                best[name] = value if best[name] != best[name] else take(best[name], value)
        if trial.number in known:
            continue
        known.add(trial.number)
        values = {f"best/{name}": value for name, value in best.items() if value == value}
        if trial.state == TrialState.COMPLETE:
            values |= dict(zip((f"trial/{n}" for n in names), trial.values, strict=True))
        run.metrics(values, step)
    run.progress(min(1.0, len(done) / max(1, swept.budget(study))))
