"""MLflow's server on that database and that store, and what its clients need to know."""

import os
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import requests

from papertrail.core.errors import BadInput
from papertrail.server import postgres, storage
from papertrail.server.config import LOOPBACK, Server
from papertrail.server.parts import Part
from papertrail.server.secrets import ADMIN, DATABASE, FLASK, private

CLIENT = "client.sh"
ADMINISTRATOR = "admin"


def part(config: Server, secrets: Mapping[str, str]) -> Part:
    """`mlflow server`: telemetry and job runner off, one worker unless told."""
    bucket = f"s3://{config.storage.bucket}/artifacts"
    artifacts = {
        "proxied": ["--artifacts-destination", bucket],
        "direct": ["--no-serve-artifacts", "--default-artifact-root", bucket],
    }[config.artifacts]
    hosts = _hosts(config)
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    words = [
        str(Path(sys.executable).with_name("mlflow")), "server",
        "--host", config.host, "--port", str(config.port), "--workers", str(config.workers),
        "--allowed-hosts", ",".join(hosts), "--cors-allowed-origins", ",".join(origins),
        "--uvicorn-opts", "--no-access-log", *artifacts,
    ]  # fmt: skip
    environment = _environment(config, secrets)
    if config.auth:
        words += ["--app-name", "basic-auth"]
        environment |= _with_auth(config, secrets)
    return Part(
        name="mlflow", words=tuple(words), environment=environment, ready=lambda: healthy(config)
    )


def healthy(config: Server) -> bool:
    """Whether it answers."""
    try:
        return requests.get(f"{config.address}/health", timeout=5).ok
    except requests.RequestException:
        return False


def variables(config: Server, secrets: Mapping[str, str]) -> dict[str, str]:
    """What the environment of a client names, secrets among it."""
    found = {"MLFLOW_TRACKING_URI": config.address}
    if config.artifacts == "proxied":
        # Large files go to the S3 store in parts, for which the server signs, if clients reach it.
        found["MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD"] = str(config.reachable).lower()
    else:
        found |= {"MLFLOW_S3_ENDPOINT_URL": storage.endpoint(config), **storage.keys(secrets)}
    if config.auth:
        found |= {"MLFLOW_TRACKING_USERNAME": ADMINISTRATOR}
        found |= {"MLFLOW_TRACKING_PASSWORD": secrets[ADMIN]}
    return found


def write_client(config: Server, secrets: Mapping[str, str]) -> Path:
    """The file that a shell reads to become a client."""
    lines = [f"export {k}={shlex.quote(v)}\n" for k, v in variables(config, secrets).items()]
    private(config.place / CLIENT, "".join(lines))
    return config.place / CLIENT


def _hosts(config: Server) -> list[str]:
    """What a request may call us; everything else could be a foreign page in somebody's browser."""
    named = [config.host, *LOOPBACK, *config.allowed_hosts]
    names = [f"[{name}]" if ":" in name else name for name in dict.fromkeys(named)]
    # Without a port: behind a proxy that listens on 443.
    return [*(f"{name}:{config.port}" for name in names), *config.allowed_hosts]


def _environment(config: Server, secrets: Mapping[str, str]) -> dict[str, str]:
    """Ours without what is meant for clients; secrets are seen by this process alone."""
    kept = {key: text for key, text in os.environ.items() if not key.startswith("MLFLOW_")}
    return kept | storage.keys(secrets) | {
        "MLFLOW_BACKEND_STORE_URI": postgres.address(config),
        "PGPASSWORD": secrets[DATABASE],
        "MLFLOW_S3_ENDPOINT_URL": storage.endpoint(config),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }  # fmt: skip


def _with_auth(config: Server, secrets: Mapping[str, str]) -> dict[str, str]:
    """Users stand in the same database. The first administrator gets the password of ours."""
    if find_spec("flask_wtf") is None:
        raise BadInput(
            "auth: mlflow[auth] is not installed; pip install -r requirements-server.txt"
        )
    lines = {
        "default_permission": "EDIT",
        "database_uri": postgres.address(config),
        "admin_username": ADMINISTRATOR,
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": str(config.auth_cache_seconds),
    }
    ini = config.place / "auth.ini"
    private(ini, "[mlflow]\n" + "".join(f"{key} = {text}\n" for key, text in lines.items()))
    return {"MLFLOW_AUTH_CONFIG_PATH": str(ini)} | {k: secrets[k] for k in (FLASK, ADMIN)}
