"""MLflow's UI as people see it: a real `mlflow server` on a store, and a headless Chromium."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

HOST = "papertrail.test"
"""What the browser calls the server: on localhost MLflow opens an assistant over a third of it."""
PATIENCE_SECONDS = 90.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), "")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--timeout=40000", f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
    # Frames of another process draw nothing while time is virtual: reports would be blank.
    "--disable-features=IsolateSandboxedIframes",
)  # fmt: skip


def absent() -> str:
    """Why there is no browser, in one clause; empty where there is one."""
    return "" if CHROMIUM else "no chromium on the path"


@dataclass(frozen=True)
class Browser:
    """A fresh profile for every page, so that nothing of one is seen on the next."""

    port: int

    def page(
        self, where: str, picture: Path, size: tuple[int, int] = (1500, 900), seconds: int = 15
    ) -> str:
        """The DOM of `#/where` after so many virtual seconds, and its picture as a PNG."""
        sign = "&" if "?" in where else "?"
        address = f"http://{HOST}:{self.port}/#/{where}{sign}workflowType=machine_learning"
        with tempfile.TemporaryDirectory() as profile:
            words = [
                CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", f"--screenshot={picture}",
                f"--window-size={size[0]},{size[1]}", f"--virtual-time-budget={seconds * 1000}",
                "--dump-dom", address,
            ]  # fmt: skip
            done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert picture.exists(), done.stderr
        return done.stdout


@contextmanager
def browser(uri: str) -> Iterator[Browser]:
    """A browser in front of the store `uri`, which a server shows while the block lasts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    hosts = f"{HOST}:*,127.0.0.1:*"
    words = [
        sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}",
        "--workers=1", f"--backend-store-uri={uri}", f"--allowed-hosts={hosts}",
        f"--cors-allowed-origins=http://{HOST}:{port}",
    ]  # fmt: skip
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            words, env=environment, stdout=said, stderr=said, start_new_session=True
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield Browser(port)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            urlopen(address, timeout=5).close()
        except (URLError, OSError):
            assert process.poll() is None and time.monotonic() < end, "the server did not start"
            time.sleep(0.2)
        else:
            return
