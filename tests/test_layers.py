"""Imports point one way: entry point -> study -> attacks -> nn -> {data, stats, tables} -> records
-> core."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LEVELS = (
    {"core"}, {"records"}, {"data", "stats", "tables", "server", "cluster"}, {"nn", "sweep"},
    {"attacks"}, {"monotone", "world"},
)  # fmt: skip
"""Lowest first: a package may import its own level's members only if it is the same package."""
FILES = sorted([*ROOT.glob("src/papertrail/*/*.py"), *ROOT.glob("entrypoints/*.py")])
LIGHT = (
    "data.config", "monotone.config", "monotone.setup", "world.config", "world.tables", "core.cli",
    "records.commands", "server.config", "cluster.commands", "sweep.config", "tables.catalog",
    "tables.main", "tables.auditing",
)  # fmt: skip
MLFLOW_ALLOWED = {"core"}
PLUGIN = "src/papertrail/cluster/backend.py"
"""What MLflow itself loads: it is made of MLflow's own classes."""


def level(package: str) -> int:
    return next(n for n, members in enumerate(LEVELS) if package in members)


def imported(path: Path) -> set[str]:
    """Packages of ours that a file imports, anywhere in it."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    return {name.split(".")[1] for name in modules if name.startswith("papertrail.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path):
    if path.parent.name == "entrypoints":
        return  # the top: may import everything, and nothing imports it
    home = path.parent.name
    stray = {name for name in imported(path) if name != home and level(name) >= level(home)}
    assert not stray, f"{path.relative_to(ROOT)} must not import {sorted(stray)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_mlflow_is_touched_in_core_only(path: Path):
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    names |= {node.module or "" for node in tree if isinstance(node, ast.ImportFrom)}
    if path.parent.name not in MLFLOW_ALLOWED and path != ROOT / PLUGIN:
        assert not {name for name in names if name.split(".")[0] == "mlflow"}


@pytest.mark.parametrize("module", LIGHT)
def test_options_are_known_without_importing_torch_or_mlflow(module: str):
    code = (
        f"import sys, papertrail.{module};"
        "print([m for m in ('torch', 'mlflow', 'transformers', 'lightning') if m in sys.modules])"
    )
    environment = {"PYTHONPATH": str(ROOT / "src"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
