"""A store that does not answer for a while: what counts as that, and how long is waited for it.

A request that was refused is refused again in a minute; a server that restarts is back by then.
"""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

import requests
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from papertrail.core import progress
from papertrail.core.errors import in_a_line

T = TypeVar("T")
REFUSALS = frozenset(
    {
        "BAD_REQUEST", "ENDPOINT_NOT_FOUND", "FEATURE_DISABLED", "INVALID_PARAMETER_VALUE",
        "INVALID_STATE", "NOT_FOUND", "NOT_IMPLEMENTED", "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "UNAUTHENTICATED",
    }
)  # fmt: skip
"""Codes of an answer: the store is there, and says no."""
CLIENTS = frozenset({"boto3", "botocore", "requests", "s3transfer", "urllib3"})
"""What reaches remote artifacts raises errors of its own."""
LOST = ("server closed the connection", "connection is closed", "terminating connection")
"""What a database's driver says of a connection that went down with the server."""
_LIMIT: ContextVar[float] = ContextVar("patience", default=math.inf)
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 15.0  # seconds between two tries


def patience() -> float:
    """Seconds that a finished result waits for the store: PAPERTRAIL_PATIENCE_SECONDS, else 600."""
    return float(os.environ.get("PAPERTRAIL_PATIENCE_SECONDS") or 600.0)


def away(error: BaseException) -> bool:
    """Whether a remote store did not answer, or not sensibly: asking again may help."""
    if isinstance(error, MlflowException):
        said = str(error)
        return error.error_code not in REFUSALS or any(words in said for words in LOST)
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code in (408, 429)
    if isinstance(answer := getattr(error, "response", None), dict):  # botocore's
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return not 400 <= status < 500 or status in (408, 429)
    kinds = (ConnectionError, TimeoutError, json.JSONDecodeError)
    return isinstance(error, kinds) or type(error).__module__.partition(".")[0] in CLIENTS


def why_away(error: BaseException) -> str:
    """Why a store did not answer, in a few words; MLflow says it in five lines."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, requests.exceptions.RetryError):
            return "it answers that it is unavailable"
        if isinstance(below, (requests.Timeout, TimeoutError)):
            return "no answer in time"
        if isinstance(below, (requests.ConnectionError, ConnectionError)):
            return "no connection"
        below = below.__cause__ or below.__context__
    return in_a_line(error)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """While the block lasts, no call waits longer for the store: what it asks is not worth more."""
    token = _LIMIT.set(seconds)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def pauses() -> Iterator[float]:
    """Seconds to wait before each next try, for ever."""
    pause = FIRST_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE)


def patiently(call: Callable[[], T], what: str, seconds: float | None = None) -> T:
    """What `call` gives once the store answers, which is waited for; else its last error.

    Only for calls that may be made twice: an answer can be lost after the work was done.
    """
    seconds = min(patience() if seconds is None else seconds, _LIMIT.get())
    end, said = time.monotonic() + seconds, False
    for pause in pauses():
        try:
            return call()
        except Exception as error:
            left = end - time.monotonic()
            if left <= 0 or not away(error):
                raise
            if not said:
                waiting = f"waiting up to {progress.duration(seconds)} for it"
                progress.say(f"{what}: {why_away(error)}; {waiting}")
                said = True
        time.sleep(min(pause, left))
    raise AssertionError("pauses never end")


class Patient(MlflowClient):
    """MLflow's client, each call of which waits until a store that is away is back."""

    def __init__(self, client: MlflowClient, what: str) -> None:
        self._asked, self._what = client, what

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        client, what = (object.__getattribute__(self, key) for key in ("_asked", "_what"))
        found = getattr(client, name)
        if not callable(found):
            return found
        return lambda *words, **named: patiently(partial(found, *words, **named), what)
