"""A run that somebody tries out: marked as such, and ended when its curve is not worth going on.

Who tries many configs opens `trying` around each; a training inside asks after every validation.
"""

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from papertrail.core.errors import Interrupted

SWEEP = "papertrail.sweep"
"""Tag of a run that was computed for a sweep alone: the sweep's run. Scans leave such runs out."""
NUMBER = "papertrail.trial"
"""Tag of the run that a trial asked for: the number of that trial."""
PRUNED = "pruned at step"


class Pruned(Interrupted):
    """The run was ended because others do better: it reads KILLED, and was no failure."""

    def __init__(self, step: int, why: str) -> None:
        BaseException.__init__(self, f"{PRUNED} {step}: {why}")
        self.step = step


@dataclass(frozen=True, kw_only=True)
class Trying:
    """One run that is tried, by its identity, and who judges it."""

    identity: str
    tags: Mapping[str, str]
    """What its run carries; what it builds on carries `SWEEP` alone."""
    ordinary: Set[str] = frozenset()
    """Identities that it builds on whatever is tried: their runs are as any other."""
    metric: str = ""
    """What a validation logs and `judge` wants to know."""
    judge: Callable[[float, int], str] = field(default=lambda value, step: "")
    """Takes a value and the optimizer step; says why to stop, or nothing."""


_TRYING: ContextVar[Trying | None] = ContextVar("trying", default=None)


@contextmanager
def trying(one: Trying) -> Iterator[None]:
    """While the block lasts, runs that are begun are part of `one`."""
    token = _TRYING.set(one)
    try:
        yield
    finally:
        _TRYING.reset(token)


def marks(identity: str) -> dict[str, str]:
    """The tags that a run of this identity begins with, because of what is being tried."""
    one = _TRYING.get()
    if one is None or identity in one.ordinary:
        return {}
    return dict(one.tags) if identity == one.identity else {SWEEP: one.tags[SWEEP]}


def validated(identity: str, metrics: Mapping[str, object], step: int) -> None:
    """Hand a validation of the run of this identity to whoever tries it; Pruned if it has to end.

    `metrics` are what a Trainer holds, `step` is that of the curve.
    """
    one = _TRYING.get()
    if one is None or identity != one.identity or one.metric not in metrics:
        return
    value = float(metrics[one.metric])  # type: ignore[arg-type]  # a tensor of one number
    if why := one.judge(value, step):
        raise Pruned(step, why)
