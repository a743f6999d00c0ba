"""`mlflow run . -e server`: start everything, say where it is, keep it alive until told to stop."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from papertrail.core import progress, stopping
from papertrail.core.errors import BadInput, Interrupted
from papertrail.core.question.experiment import Command
from papertrail.server import parts, postgres, storage, tracking
from papertrail.server.config import Server
from papertrail.server.secrets import KEY, SECRET, gathered
from papertrail.server.supervise import supervised


def answer(command: Command, config: Server, execution: Any) -> None:
    """Run the server; returns when it was asked to stop and everything has stopped."""
    with _held(config.place), stopping.signals_raise():
        if found := parts.stop_leftovers(config.place):
            progress.say(f"server: stopped what a killed server had left: {', '.join(found)}")
        _refuse_taken(config)
        secrets = _secrets(config)
        try:
            _run(config, secrets)
        except Interrupted as error:
            progress.say(f"server: {error}")


def _run(config: Server, secrets: Mapping[str, str]) -> None:
    database = postgres.part(config, secrets)
    if config.storage.endpoint:
        storage.refuse_unusable(config, secrets)
        objects = []
    else:
        objects = [storage.part(config, secrets)]
    wanted = [database, *objects, tracking.part(config, secrets)]
    with supervised(config.place, wanted) as running:
        _introduce(config, secrets)
        running.watch()


def _introduce(config: Server, secrets: Mapping[str, str]) -> None:
    path = tracking.write_client(config, secrets)
    print(f"server: {config.address}   (Ctrl-C stops it; logs in {config.place / parts.LOGS})")
    known = tracking.variables(config, dict.fromkeys(secrets, "..."))
    for key, text in known.items():
        if text != "...":
            print(f"export {key}={text}")
    if "..." in known.values():
        print(f". {path}   # the same with the password and keys, for you alone to read")
    print(flush=True, end="")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The folder, made if need be and ours alone; the kernel gives it back when we die."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / "server.lock", timeout=0)
        lock.acquire()
    except OSError as error:
        if not isinstance(error, Timeout):
            raise BadInput(f"folder: cannot be used ({folder}: {error.strerror})") from None
        raise BadInput(f"folder: a server works in it ({folder}); choose another") from None
    try:
        yield
    finally:
        lock.release()


def _refuse_taken(config: Server) -> None:
    """BadInput naming the first port on which somebody listens already, or that is ours twice."""
    seen: dict[int, str] = {}
    for option, (host, port) in config.ports.items():
        if port in seen:
            raise BadInput(f"{option}: it is that of {seen[port]} too ({port}); choose another")
        seen[port] = option
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                where = option.partition(" ")[0]
                raise BadInput(
                    f"{option}: cannot listen on {host} ({port}: {error.strerror}); stop what "
                    f"does, or choose another by {where}=..."
                ) from None


def _secrets(config: Server) -> Mapping[str, str]:
    lacking = [name for name in (KEY, SECRET) if not os.environ.get(name)]
    if config.storage.endpoint and lacking:
        names = " and ".join(lacking)
        raise BadInput(f"storage.endpoint: {names} not in the environment; export the store's keys")
    return gathered(config.place)
