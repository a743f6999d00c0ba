"""The verb of a sweep: begin its study or go on with it, have points tried, say what came out."""

import time
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.study import Study

from papertrail.core.answering import launch, processes
from papertrail.core.answering.workers import Asked
from papertrail.core.errors import Missing
from papertrail.core.question import cli
from papertrail.core.writing import parts, track
from papertrail.sweep import results, space, storage, trials
from papertrail.sweep.attempt import Swept
from papertrail.sweep.config import NAME, WORKER, base, find
from papertrail.sweep.watch import watching
from papertrail.sweep.worker import opened, work

POLL_SECONDS = 1.0


def sweep(config: Any) -> None:
    """Try points until the budget is spent; log the best, all of them, and figures."""
    run, target = track.run(), find(config.target)
    name = f"{target.name} {run.identity.digest} {zlib.crc32(run.store.uri.encode()):08x}"
    swept = Swept(target, config, base(target, config), name, run.store, run.run_id)
    # What says that this very run has begun its study: a new run begins a new one.
    parts.part("study", lambda: _begin(swept))
    with opened(swept) as study:
        track.describe(
            f"A sweep of {target.name} over {', '.join(sorted(config.space))}: "
            f"{swept.budget(study)} trials ({config.sampler.name}, pruner {config.pruner.name})."
        )
        with watching(swept, study, run):
            _compute(swept, study)
        results.log(swept, study)


def _begin(swept: Swept) -> Mapping[str, np.ndarray]:
    config, first = swept.config, _first(swept)
    directions = [config.objectives[name] for name in sorted(config.objectives)]
    with storage.connected(config.storage, swept.store) as kept:
        if swept.study in optuna.study.get_all_study_names(kept):
            optuna.delete_study(study_name=swept.study, storage=kept)
        study = optuna.create_study(study_name=swept.study, storage=kept, directions=directions)
        for point in first:
            study.enqueue_trial(dict(point))
    return {"queued": np.array(len(first))}


def _first(swept: Swept) -> list[space.Point]:
    """The points that are known before anything was tried."""
    target, config = swept.target, swept.config
    if config.sampler.name == "grid":
        return list(space.grid(target, config.space))
    plain = space.standing(target, swept.base, config.space) if config.baseline else None
    return [] if plain is None else [plain]


def _compute(swept: Swept, study: Study) -> None:
    """Return when the budget is spent; Missing where that will not be."""
    while True:
        trials.revive(study)
        if why := trials.hopeless(study, swept.config.failures):
            raise Missing(f"the sweep gives up: {why}")
        places = trials.places(study, swept.budget(study))
        if places:
            _have_worked(swept, study, places)
        elif trials.num(trials.real(study), trials.OPEN):
            time.sleep(POLL_SECONDS)  # somebody elsewhere is at the last points
            optuna.storages.fail_stale_trials(study)
        else:
            return


def _have_worked(swept: Swept, study: Study, places: int) -> None:
    """Here, or by as many workers as there are places for; Missing if none of them did anything."""
    launcher = launch.current()
    if isinstance(launcher, launch.Here):
        return work(swept, study)
    before = [trial.state for trial in study.get_trials(deepcopy=False)]
    workers: int = getattr(launcher, "workers", 1)
    asked = [
        Asked(
            (processes.entry(NAME), f"{WORKER}{number}:{swept.study}", *cli.arguments(swept.config))
        )
        for number in range(min(workers, places))
    ]
    launcher.run(asked, swept.store)
    after = [trial.state for trial in study.get_trials(deepcopy=False)]
    if after == before:
        raise Missing(
            "the workers of the sweep ended before they began a trial; see what they said"
        )
    return None
