"""How long is a question of its own kind: 100 steps are the first half of 200.

Where the schedule does not depend on the horizon, a longer run begins at the last checkpoint of a
shorter one. Both stay runs of their own, with results of their own.
"""

import shutil
from collections.abc import Mapping
from typing import Any

from papertrail.core import progress
from papertrail.core.question.experiment import Experiment
from papertrail.core.question.identity import Identity
from papertrail.core.reading import query
from papertrail.core.reading.record import MACHINE, Record
from papertrail.core.writing.run import Run

LINEAGE, REACHED = "papertrail.lineage", "papertrail.horizon"
CHECKPOINT = "checkpoints/last.ckpt"
BATCH = 1000


def begin(experiment: Experiment, config: Any, active: Run, may_go_on: bool) -> None:
    """Note how long the open run will be, and let it go on from a shorter one's end if it may."""
    path = experiment.horizon(config)
    if not path:
        return
    lineage, wanted = _without(active.identity.form, path), _steps(config, path)
    active.tags({LINEAGE: lineage, REACHED: str(wanted)})
    shorter = _longest_below(wanted, lineage, active) if may_go_on else None
    if shorter is not None:
        _go_on(active, shorter, int(shorter.tags[REACHED]))


def _longest_below(wanted: int, lineage: str, active: Run) -> Record | None:
    """The usable run of this lineage that comes nearest, if it left its checkpoint."""
    records = query.tagged(LINEAGE, lineage, active.store)
    below = [one for one in records if int(one.tags[REACHED]) < wanted and not one.unusable()]
    return max(below, key=lambda one: int(one.tags[REACHED]), default=None)


def _go_on(active: Run, shorter: Record, step: int) -> None:
    """Begin where `shorter` ended: its last checkpoint, and its curves up to there."""
    folder = active.folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"step-{step:08d}.part"
    shutil.copyfile(shorter.artifact(CHECKPOINT), part)
    _copy_curves(active, shorter)
    active.tags({"papertrail.continues": shorter.run_id})
    part.replace(part.with_suffix(".ckpt"))
    progress.say(f"{active.run_id}: going on from step {step} of run {shorter.run_id}")


def _copy_curves(active: Run, shorter: Record) -> None:
    client = active.store.client
    points = [
        point
        for key in shorter.metrics
        if not MACHINE.search(key)
        for point in client.get_metric_history(shorter.run_id, key)
        if point.step > 0
    ]
    for start in range(0, len(points), BATCH):
        client.log_batch(active.run_id, metrics=points[start : start + BATCH])


def _steps(config: Any, path: str) -> int:
    for name in path.split("."):
        config = getattr(config, name)
    return int(config)


def _without(form: Mapping[str, Any], path: str) -> str:
    """Digest of a question without its horizon."""
    *above, last = path.split(".")
    tree = dict(form)
    node = tree
    for name in ("config", *above):
        node[name] = dict(node[name])
        node = node[name]
    del node[last]
    return Identity(tree).digest
