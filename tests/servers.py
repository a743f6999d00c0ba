"""A tracking server as people start it, and S3 stores without one: real programs, free ports."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import boto3
import postgres
from conftest import ROOT

PATIENCE_SECONDS = 120.0
KEYS = {
    "AWS_ACCESS_KEY_ID": "papertrail",
    "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
}
BUCKET = "tests"
PROGRAMS = Path(sys.executable).parent


def absent(*programs: str) -> str:
    """Why no server can be had here, in one clause; empty when one can."""
    gone = [name for name in programs or ("weed",) if not (PROGRAMS / name).exists()]
    gone += [name for name in ("flask_wtf",) if find_spec(name) is None]
    return f"{' and '.join(gone)} not installed" if gone else postgres.absent()


def free_ports() -> tuple[int, int, int]:
    """For MLflow, PostgreSQL and SeaweedFS (which takes ten); below those that clients get."""
    while True:
        first = random.randrange(11_000, 22_000)
        block = range(first, first + 7)
        if all(_is_free(port) for port in (*block, *(port + 10_000 for port in block))):
            return first + 5, first + 6, first


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def public_folder() -> Iterator[Path]:
    """A new folder that every user can enter: root's PostgreSQL is another user's."""
    folder = Path(tempfile.mkdtemp(prefix="server-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def until(what: Callable[[], str], holds: Callable[[], bool]) -> None:
    """Wait until `holds()`; `what()` says what was the case when it never did."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


@dataclass
class Started:
    """A server, as started by `entrypoints/server.py`."""

    folder: Path
    ports: tuple[int, int, int] = field(default_factory=free_ports)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def words(self) -> list[str]:
        names = ("port", "database.port", "storage.port")
        ports = [f"--{name}={port}" for name, port in zip(names, self.ports, strict=True)]
        return [f"--folder={self.folder / 'server'}", *ports]

    @property
    def secrets(self) -> Mapping[str, str]:
        found: dict[str, str] = json.loads((self.folder / "server/secrets.json").read_text())
        return found

    @property
    def said(self) -> str:
        """What it wrote to stdout and stderr."""
        return (self.folder / "said").read_text()

    def pid(self, name: str) -> int:
        """Process id of a part."""
        noted = json.loads((self.folder / "server/running.json").read_text())
        return int(json.loads(noted[name]["owner"])["pid"])

    def start(self, *more: str) -> None:
        """Start it and wait until it says where it is."""
        with (self.folder / "said").open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "entrypoints/server.py"), *self.words, *more],
                env=environment(), stdout=file, stderr=file,
            )  # fmt: skip
        self.hears("server: http")

    def hears(self, text: str) -> None:
        """Wait until it says `text`."""
        process = self.process
        assert process

        def ended_or_said() -> bool:
            return text in self.said or process.poll() is not None

        until(lambda: f"never said {text!r}: {self.said}", ended_or_said)
        assert text in self.said, f"it ended: {self.said}"

    def kill(self, name: str) -> None:
        """Kill a part and wait until it is back."""
        os.kill(self.pid(name), signal.SIGKILL)
        self.hears(f"{name} is back")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to stop; its exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def objects(self, prefix: str = "") -> dict[str, int]:
        """Names and bytes of what lies in its S3 store."""
        return listed(f"http://127.0.0.1:{self.ports[2]}", self.secrets, "mlflow", prefix)


def environment() -> dict[str, str]:
    """Ours without what names a store, runs or secrets."""
    kept = {k: v for k, v in os.environ.items() if k.partition("_")[0] not in ("MLFLOW", "AWS")}
    kept.pop("PGPASSWORD", None)
    return kept | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}


@contextmanager
def server(*words: str) -> Iterator[Started]:
    """A server that is stopped, with everything it started, when the block ends."""
    with public_folder() as folder:
        found = Started(folder)
        try:
            found.start(*words)
            yield found
        finally:
            if found.process and found.process.poll() is None:
                found.stop()


def client(endpoint: str, keys: Mapping[str, str] = KEYS) -> "boto3.client":
    """A client of an S3 store."""
    return boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1",
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip


def listed(endpoint: str, keys: Mapping[str, str], bucket: str, prefix: str = "") -> dict[str, int]:
    """Names and bytes of the objects below a prefix."""
    pages = client(endpoint, keys).get_paginator("list_objects_v2")
    found = (page.get("Contents", []) for page in pages.paginate(Bucket=bucket, Prefix=prefix))
    return {one["Key"]: int(one["Size"]) for page in found for one in page}


@contextmanager
def weed() -> Iterator[str]:
    """Address of a SeaweedFS with one bucket."""
    from papertrail.server import storage
    from papertrail.server.config import Server, Storage

    with public_folder() as folder:
        port = free_ports()[2]
        config = Server(folder=str(folder), storage=Storage(port=port, bucket=BUCKET))
        part = storage.part(config, KEYS)
        with _serving(part.words, part.environment, f"http://127.0.0.1:{port}") as endpoint:
            yield endpoint


@contextmanager
def rclone() -> Iterator[str]:
    """Address of an `rclone serve s3` with one bucket: a folder is one."""
    with public_folder() as folder:
        (folder / BUCKET).mkdir()
        address = f"127.0.0.1:{postgres.free_port()}"
        words = [
            str(PROGRAMS / "rclone"), "serve", "s3", "--config", "/dev/null", "--addr", address,
            str(folder),
        ]  # fmt: skip
        # Quoted: a list of pairs, separated as CSV is.
        key = f'"{KEYS["AWS_ACCESS_KEY_ID"]},{KEYS["AWS_SECRET_ACCESS_KEY"]}"'
        with _serving(words, {"RCLONE_AUTH_KEY": key}, f"http://{address}") as endpoint:
            yield endpoint


@contextmanager
def _serving(words: Sequence[str], variables: Mapping[str, str], endpoint: str) -> Iterator[str]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        words, env={"PATH": os.defpath, "HOME": "/nonexistent", **variables}, stdout=quiet,
        stderr=quiet,
    )  # fmt: skip

    def takes_us_in() -> bool:
        assert process.poll() is None, "it ended"
        try:
            buckets = client(endpoint).list_buckets()["Buckets"]
        except Exception:
            return False
        return BUCKET in {one["Name"] for one in buckets}

    try:
        until(lambda: f"{words[0]} does not answer", takes_us_in)
        yield endpoint
    finally:
        process.kill()
        process.wait()
