"""What a process of a sweep does: one point after another, until the budget is spent.

Workers know of each other through the study alone. One that finds nothing to do leaves, so that no
job of a cluster waits for another; whoever started them looks whether that was all.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna
from optuna.study import Study

from papertrail.core.answering.joining import PARENT
from papertrail.core.errors import BadInput, Interrupted, Missing
from papertrail.core.question import cli
from papertrail.core.storage.store import connect, in_one_line
from papertrail.sweep import storage, trials
from papertrail.sweep.attempt import Swept, attempt
from papertrail.sweep.config import NAME, base, parsed
from papertrail.sweep.methods import Seeded, pruner


@contextmanager
def opened(swept: Swept) -> Iterator[Study]:
    """The study of a sweep; Missing where nobody began it."""
    sampler, judge = Seeded(swept.config.sampler), pruner(swept.config.pruner)
    with storage.connected(swept.config.storage, swept.store) as kept:
        try:
            study = optuna.load_study(
                study_name=swept.study, storage=kept, sampler=sampler, pruner=judge
            )
        except KeyError:
            raise Missing(f"study {swept.study}: it is gone; type the sweep again") from None
        yield study


def work(swept: Swept, study: Study) -> None:
    """Try points until there is nothing to do; a worker whose boss was killed leaves as well."""
    boss = os.getppid()
    while os.getppid() == boss and not trials.hopeless(study, swept.config.failures):
        trials.revive(study)
        if not trials.places(study, swept.budget(study)):
            return
        attempt(swept, study)


def main(place: str, words: Sequence[str]) -> None:
    """A worker as a process of its own, for the run that PARENT names; `place` is number:study."""
    study = place.partition(":")[2]
    try:
        with in_one_line():
            target, config = parsed(words)
            run_id, store = os.environ[PARENT], connect()
            swept = Swept(target, config, base(target, config), study, store, run_id)
            with opened(swept) as found:
                work(swept, found)
    except BadInput as error:
        sys.exit(cli.complain(NAME, error, cli.USAGE))
    except (Missing, Interrupted) as error:
        sys.exit(cli.complain(NAME, error, cli.FAILURE))
