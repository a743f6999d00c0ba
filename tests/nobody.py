"""Another user of this machine: root may write everywhere, so root steps down for some tests."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

NOBODY = 65_534
CODE = (Path(pytest.__file__), ROOT / "src" / "papertrail" / "__init__.py")
"""Where modules are looked for; those of Python itself are loaded before."""


def shut_out(*paths: Path) -> str:
    """Why nobody could not run what lies there, in one clause; empty if nobody can, or we are no
    root: a checkout in a private folder of root's is closed to everybody else."""
    if os.geteuid() != 0:
        return ""
    for path in paths:
        asked = subprocess.run(["test", "-r", str(path)], user=NOBODY, cwd="/", check=False)
        if asked.returncode:
            return f"we are root, and no other user may read {path}"
    return ""


def become_nobody() -> None:
    """Step down in this process, for good."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
