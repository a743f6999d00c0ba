"""A TCP proxy before a server, which does to its clients what networks and servers do."""

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

BLOCK = 1 << 16  # bytes
ANSWER_503 = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass
class Proxy:
    """Hands everything on, until it is told otherwise; what it is told holds at once."""

    target: tuple[str, int]
    port: int = 0
    delay: float = 0.0
    """Seconds by which each answer comes late."""
    refusing: bool = False
    """Whether connections are closed as soon as they are made, as if nobody listened."""
    hanging: bool = False
    """Whether requests are taken and never answered."""
    unavailable: bool = False
    """Whether each request is answered by 503."""
    spoiling: float = 0.0
    """Share of the answers that are lost, cut in half or changed; their requests were done."""
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    spoiled: int = 0
    """How many answers were."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def serve(self, listening: socket.socket, over: threading.Event) -> None:
        """One thread for each connection, until `over`."""
        while not over.is_set():
            try:
                near, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=self._connected, args=(near,), daemon=True).start()

    def _connected(self, near: socket.socket) -> None:
        with suppress(OSError), near:
            if self.refusing:
                return
            with socket.create_connection(self.target) as far:
                back = threading.Thread(target=self._answers, args=(far, near), daemon=True)
                back.start()
                while block := near.recv(BLOCK):
                    if self.refusing:
                        break
                    while self.hanging:
                        time.sleep(0.05)
                    if self.unavailable:
                        near.sendall(ANSWER_503)
                        break
                    far.sendall(block)
                with suppress(OSError):
                    far.shutdown(socket.SHUT_RDWR)
                back.join()

    def _answers(self, far: socket.socket, near: socket.socket) -> None:
        with suppress(OSError):
            while block := far.recv(BLOCK):
                time.sleep(self.delay)
                if self.refusing:
                    break
                if self.spoiling and self.dice.random() < self.spoiling:
                    self.spoiled += 1
                    self._spoil(block, near)
                    break
                near.sendall(block)
        with suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    def _spoil(self, block: bytes, near: socket.socket) -> None:
        match self.dice.randrange(3):
            case 0:
                near.sendall(block[: len(block) // 2])
            case 1:
                near.sendall(bytes(byte ^ 0x2A for byte in block))


@contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A proxy before that port of this machine, on a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        found = Proxy(("127.0.0.1", target), listening.getsockname()[1])
        over = threading.Event()
        thread = threading.Thread(target=found.serve, args=(listening, over), daemon=True)
        thread.start()
        try:
            yield found
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
