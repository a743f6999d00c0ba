"""Being asked to stop: SIGINT, SIGTERM and SIGHUP become one Interrupted, at a safe moment.

MLflow leaves a run RUNNING after SIGTERM and SIGHUP, and half an optimizer step is no checkpoint:
so the process that computes turns signals into an exception itself, between training steps.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from papertrail.core.errors import Interrupted

Handler = Callable[[int, FrameType | None], Any] | int | None
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
    heard: int | None = None
    """Where the interpreter notes every signal, whoever handles it: the end to read from."""
    came: str | None = None
    """A signal that came since the outermost run was opened."""
    before: dict[signal.Signals, Handler] | None = None
    """Who handled the signals before a run was open."""
    last: int = signal.SIGTERM
    """The signal that came last."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """While the block lasts, the first signal to this process raises Interrupted in it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # Python runs handlers in the main thread only
        return
    before = {number: signal.signal(number, _stop) for number in SIGNALS}
    _State.depth += 1
    try:
        if _State.depth == 1:
            _State.before = before
            with _hearing(), _insisting():
                yield
        else:
            yield
    finally:
        _State.depth -= 1
        for number, handler in before.items():
            signal.signal(number, handler)
        if _State.depth == 0:
            _State.raised = False


@contextmanager
def unheard() -> Iterator[None]:
    """While the block lasts, signals change nothing: `mlflow run` passes Ctrl-C on a second time,
    just when the first one is being written down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _State.raised = _State.raised, True
    try:
        yield
    finally:
        _State.raised = before


@contextmanager
def _hearing() -> Iterator[None]:
    """While the block lasts, no signal goes unnoticed, even one that a verb handles itself."""
    _State.heard, writer = os.pipe()
    for end in (_State.heard, writer):
        os.set_blocking(end, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(_State.heard)
        os.close(writer)
        _State.heard = _State.came = None


@contextmanager
def _insisting() -> Iterator[None]:
    """While the block lasts, an Interrupted that Python ignores comes again a moment later: what a
    finalizer raises is lost, and a signal may come while one runs."""
    before = sys.unraisablehook

    def again(ignored: Any) -> None:
        if isinstance(ignored.exc_value, Interrupted):
            _State.raised = False
            threading.Timer(0.01, os.kill, (os.getpid(), _State.last)).start()
        else:
            before(ignored)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


def refuse_swallowed() -> None:
    """Raise Interrupted if a signal came while a run was open, although its verb went on.

    What it did about the signal cannot be known: it may have left early, with half a result.
    """
    if _State.heard is None or threading.current_thread() is not threading.main_thread():
        return
    with suppress(BlockingIOError):  # nothing came
        names = [signal.Signals(n).name for n in os.read(_State.heard, 4096) if n in SIGNALS]
        _State.came = next(iter(names), _State.came)
    if _State.came is not None:
        raise Interrupted(f"{_State.came}, which its code swallowed")


def _before_fork() -> None:
    """A signal to a child that is not yet one of its own would be heard as one to its parent."""
    if _State.heard is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _after_fork() -> None:
    if _State.heard is not None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def _in_forked_child() -> None:
    """A forked child is not its parent's run: it dies of a signal as any process does."""
    if _State.heard is not None and _State.before is not None:
        signal.set_wakeup_fd(-1)
        for number, handler in _State.before.items():
            if signal.getsignal(number) is _stop:
                signal.signal(number, handler)
    _after_fork()


os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_forked_child
)


@contextmanager
def between_steps() -> Iterator[None]:
    """Signals wait for `check`; a second one does not wait."""
    _State.deferred, _State.requested = True, None
    try:
        yield
        check()
    finally:
        _State.deferred = False


@contextmanager
def at_once() -> Iterator[None]:
    """Inside `between_steps`, the part in which signals do not wait."""
    _State.deferred = False
    try:
        check()
        yield
    finally:
        _State.deferred = True


def take_back() -> None:
    """Handle the signals again after somebody else began to: Lightning answers SIGTERM by leaving
    with exit code 0 before the step's metrics are logged."""
    if _State.depth and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, _stop)


def ignore() -> None:
    """Leave it to another process to decide when this one stops."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def requested() -> bool:
    """Whether a signal waits."""
    return _State.requested is not None


def check() -> None:
    """Raise Interrupted if a signal waits."""
    if _State.requested is not None:
        _raise(_State.requested)


def _stop(number: int, frame: FrameType | None) -> None:
    name, _State.last = signal.Signals(number).name, number
    if _State.raised:
        return
    if _State.deferred and _State.requested is None:
        _State.requested = name
        return
    _raise(name)


def _raise(name: str) -> None:
    _State.requested, _State.raised = None, True
    raise Interrupted(name)
