"""What can go wrong, as a person reads it: one line, *where: what was wrong (value); what to do*.

ValueError      what a person typed: exit code 2, before anything ran
LookupError     a result or an input that is not there
Interrupted     Ctrl-C, SIGTERM or SIGHUP: the run ends KILLED with what was logged
AssertionError  our own invariant broke: a bug of ours
"""

import re

PASSWORD = re.compile(
    r"(?<=://)([^\s/@:]*):[^\s/]*@|\b(password|passwd|pwd)=[^\s&]*", re.IGNORECASE
)


def without_password(text: str) -> str:
    """A text in which no address gives its password away."""
    return PASSWORD.sub(lambda m: f"{m[2]}=***" if m[2] else f"{m[1]}:***@", text)


def in_a_line(error: BaseException) -> str:
    """What is at the bottom of somebody else's error: layers above it go on for pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    return without_password(str(error).partition("\n")[0].strip()) or type(error).__name__


class BadInput(ValueError):
    """Something a person typed or handed over cannot be used; the message says what to do."""


class Missing(LookupError):
    """A result that was asked for has not been computed, or was and cannot be used."""


class Interrupted(BaseException):
    """The process was asked to stop. Not an Exception: no `except Exception` may swallow it."""

    def __init__(self, signal_name: str) -> None:
        super().__init__(f"stopped by {signal_name}")
        self.signal_name = signal_name
