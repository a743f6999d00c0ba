"""Being asked to stop: SIGINT, SIGTERM and SIGHUP become one Interrupted, at a safe moment.

MLflow leaves a run RUNNING after SIGTERM and SIGHUP, and half an optimizer step is no checkpoint:
so the process that computes turns signals into an exception itself, between training steps.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from papertrail.core.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _State:
    depth = 0
    """Open runs in this process: the outermost one gives the signals back."""
    deferred = False
    """Whether a signal waits for the end of the step in progress."""
    requested: str | None = None
    """The signal that waits."""
    raised = False
    """Whether Interrupted is on its way: the end of a run is not interrupted again."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """While the block lasts, the first signal to this process raises Interrupted in it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs handlers in the main thread only
        return
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    _State.depth += 1
    try:
        yield
    finally:
        _State.depth -= 1
        for number, handler in before.items():
            signal.signal(number, handler)
        if _State.depth == 0:
            _State.raised = False


@contextmanager
def between_steps() -> Iterator[None]:
    """Signals wait for `check`; a second one does not wait."""
    _State.deferred, _State.requested = True, None
    try:
        yield
        check()
    finally:
        _State.deferred = False


def take_back() -> None:
    """Handle the signals again after somebody else began to: Lightning answers SIGTERM by leaving
    with exit code 0 before the step's metrics are logged."""
    if _State.depth and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _stop)


def requested() -> bool:
    """Whether a signal waits."""
    return _State.requested is not None


def check() -> None:
    """Raise Interrupted if a signal waits."""
    if _State.requested is not None:
        _raise(_State.requested)


def _stop(number: int, frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    if _State.raised:
        return
    if _State.deferred and _State.requested is None:
        _State.requested = name
        return
    _raise(name)


def _raise(name: str) -> None:
    _State.requested, _State.raised = None, True
    raise Interrupted(name)
