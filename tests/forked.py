"""Entry points as processes for a fraction of their price: forked from one that has imported.

A training process spends seconds on imports before it does anything. `Popen` here is subprocess's,
for commands like `[sys.executable, FILE, *words]`: the process was forked by a server, which has
imported what FILE would. It is a child of ours like any other: we adopt what the server orphans.
"""

import atexit
import ctypes
import json
import os
import random
import runpy
import socket
import subprocess
import sys
from functools import cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PLACES = (ROOT / "src", ROOT / "tests")
NEEDED = (
    "mlflow.store.artifact.local_artifact_repo", "mlflow.store.tracking.sqlalchemy_store",
    "sqlalchemy.dialects.sqlite", "transformers.models.gpt_neox.modeling_gpt_neox",
    "papertrail.core.training.fit", "papertrail.monotone.attack", "papertrail.records.report",
)  # fmt: skip
"""What entry points of trainings import, some of it late."""
ADOPT = 36  # PR_SET_CHILD_SUBREAPER of Linux's prctl
MESSAGE_BYTES = 1 << 17


class Popen(subprocess.Popen[Any]):
    """`subprocess.Popen` of a Python file with its words; other commands are none for it."""

    def _execute_child(self, *given: Any, **named: Any) -> None:
        asked = signature(subprocess.Popen._execute_child).bind(self, *given, **named).arguments
        words = asked["args"]
        assert words[0] == sys.executable and words[1].endswith(".py"), words
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        session = bool(asked["start_new_session"])
        ends = asked["p2cread"], asked["c2pwrite"], asked["errwrite"]
        streams = [end if end != -1 else number for number, end in enumerate(ends)]
        self.pid = _ask([words[1:], environment, str(Path.cwd()), session], streams)
        self._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(asked[name] for name in pipes))


def _ask(wanted: list[Any], streams: list[int]) -> int:
    """The id of a process that the server forked and left to us."""
    line = _server()
    _adopt(True)
    try:
        socket.send_fds(line, [json.dumps(wanted).encode()], streams)
        return int(line.recv(MESSAGE_BYTES))
    finally:
        _adopt(False)


def _adopt(yes: bool) -> None:
    """Whether orphans among our descendants become our children; else init's, as ever."""
    assert ctypes.CDLL(None, use_errno=True).prctl(ADOPT, int(yes), 0, 0, 0) == 0


@cache
def _server() -> socket.socket:
    """The line to the server of this process, started when it is first needed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PLACES))}
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())], env=environment,
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    atexit.register(_dismiss, process, ours)
    return ours


def _dismiss(process: "subprocess.Popen[bytes]", line: socket.socket) -> None:
    """There is nothing more to fork."""
    line.close()
    process.wait()


# -- the server ------------------------------------------------------------------------------------


def serve(line: socket.socket) -> list[Any]:
    """Fork for each request, until the other end is closed; returns in each forked process."""
    while True:
        text, streams, _, _ = socket.recv_fds(line, MESSAGE_BYTES, 3)
        if not text:
            os._exit(0)
        if not (child := _orphan()):
            line.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            _close(streams)
            return json.loads(text)  # type: ignore[no-any-return]
        _close(streams)
        line.send(str(child).encode())


def _orphan() -> int:
    """A fork whose parent has gone, so that whoever adopts is its parent; 0 in the fork itself."""
    near, far = os.pipe()
    if between := os.fork():
        os.waitpid(between, 0)
        os.close(far)
        child = int(os.read(near, 32))
        os.close(near)
        return child
    if child := os.fork():
        os.write(far, str(child).encode())
        os._exit(0)
    _close([near, far])
    return 0


def _close(files: list[int]) -> None:
    for number in files:
        os.close(number)


def become(words: list[str], environment: dict[str, str], folder: str, session: bool) -> None:
    """What `python FILE *words` would be in that environment."""
    if session:
        os.setsid()
    random.seed()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    places = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    sys.path[:1] = [str(Path(words[0]).parent), *places]
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    for name in NEEDED:
        import_module(name)
    become(*serve(socket.socket(fileno=int(sys.argv[1]))))
