"""Keys and passwords of a server: from the environment, or made once and kept in its folder.

They reach other programs through their environment only: a command line is everybody's to read.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

FILE = "secrets.json"
FLASK, ADMIN = "MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD"
DATABASE = "PGPASSWORD"
KEY, SECRET = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
NAMES = (DATABASE, KEY, SECRET, FLASK, ADMIN)
"""As the programs that need them call them in their environment."""


def gathered(folder: Path) -> Mapping[str, str]:
    """Every secret by name; what the environment does not give is made once and kept."""
    path = folder / FILE
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    lacking = [name for name in NAMES if name not in kept and not os.environ.get(name)]
    if lacking:
        kept |= {name: secrets.token_hex(20) for name in lacking}
        private(path, json.dumps(kept, indent=1))
    return {name: os.environ.get(name) or kept[name] for name in NAMES}


def private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, complete or not at all."""
    aside = path.with_name(f"{path.name}.part")
    aside.unlink(missing_ok=True)
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    aside.replace(path)
