"""No password and no key of the environment is ever kept or printed."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from crowd import Crowd
from killed import runs

from papertrail.core.errors import without_password
from papertrail.core.storage.store import Store, in_one_line

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "aws-Secret+1/2",
    "HF_TOKEN": "hf_SecretOfTheTests",
    "MLFLOW_TRACKING_PASSWORD": "tracking-Secret",
    "PGPASSWORD": "postgres-Secret",
}
IN_AN_ADDRESS = "address-Secret"


def spoken(people: Crowd) -> str:
    """All that its members wrote to stdout and stderr."""
    return "".join(member.stdout + member.stderr for member in people.members)


def everything(store: Store, folder: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents: params, tags, every file that was left below a folder."""
    for run in runs(store):
        for kind in ("params", "tags", "metrics"):
            for key, value in getattr(run.data, kind).items():
                yield f"{kind} {key}", f"{key} {value}".encode()
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


@pytest.mark.parametrize("do", ["finish", "raise"])
def test_no_secret_of_the_environment_is_kept_or_printed(
    do: str, people: Crowd, store: Store, tmp_path: Path
):
    # SQLite takes options that it does not know: an address with a password that works.
    uri = f"{os.environ['MLFLOW_TRACKING_URI']}?password={IN_AN_ADDRESS}&nolock=0"
    told = {**SECRETS, "MLFLOW_TRACKING_URI": uri, "PAPERTRAIL_WORK": str(tmp_path / "work")}
    member = people.starts(f"--do={do}", environment=told)
    assert member.ended() == (1 if do == "raise" else 0), member.stderr
    found = list(everything(store, tmp_path))
    assert {"params cfg.do", "tags papertrail.owner", "tags papertrail.command"} <= dict(
        found
    ).keys()
    assert any(name.endswith("failure.txt") for name, _ in found) is (do == "raise")
    for secret in (*SECRETS.values(), IN_AN_ADDRESS):
        assert secret not in spoken(people)
        assert not [name for name, content in found if secret.encode() in content]


@pytest.mark.parametrize(
    "uri",
    [f"http://user:{IN_AN_ADDRESS}@127.0.0.1:1", f"postgresql://u:{IN_AN_ADDRESS}@127.0.0.1:1/m"],
)
def test_a_store_that_is_away_is_named_without_its_password(
    uri: str, people: Crowd, tmp_path: Path
):
    told = {**SECRETS, "MLFLOW_TRACKING_URI": uri, "PAPERTRAIL_WORK": str(tmp_path)}
    member = people.starts(environment=told)
    assert member.ended() == 1
    assert "127.0.0.1:1" in member.stderr and member.stderr.count("\n") == 1
    assert IN_AN_ADDRESS not in spoken(people)


def test_an_address_is_shown_without_its_password():
    shown = Store(f"https://me:{IN_AN_ADDRESS}@lab:5000", Path("w")).shown
    assert shown == "https://me:***@lab:5000"
    said = without_password(f"could not reach postgresql://u:{IN_AN_ADDRESS}@h/db?sslmode=on (no)")
    assert said == "could not reach postgresql://u:***@h/db?sslmode=on (no)"


def test_an_error_that_quotes_the_address_is_told_without_its_password(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{store_uri}?password={IN_AN_ADDRESS}")
    with pytest.raises(LookupError) as caught, in_one_line():
        raise OSError(f"no {os.environ['MLFLOW_TRACKING_URI']}")
    assert IN_AN_ADDRESS not in str(caught.value) and "***" in str(caught.value)
