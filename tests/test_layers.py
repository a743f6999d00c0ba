"""Imports point one way: entry point -> study -> attacks -> nn -> {data, stats, tables} -> records
-> core, and inside core: training -> answering -> reading -> writing -> storage -> question."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

LEVELS = (
    {"core"}, {"core.question"}, {"core.storage"}, {"core.writing"}, {"core.reading"},
    {"core.answering"}, {"core.training"}, {"records"},
    {"data", "stats", "tables", "server", "cluster"}, {"nn", "sweep"}, {"attacks"},
    {"monotone", "world"},
)  # fmt: skip
"""Lowest first: a package may import its own level's members only if it is the same package."""
PACKAGES = {name for level in LEVELS for name in level}
SOURCE = ROOT / "src"
FILES = sorted([*SOURCE.glob("papertrail/**/*.py"), *ROOT.glob("entrypoints/*.py")])
LIGHT = (
    "data.config", "monotone.config", "monotone.setup", "world.config", "world.tables",
    "core.question.cli", "records.commands", "server.config", "cluster.commands", "sweep.config",
    "tables.catalog", "tables.main", "tables.auditing",
)  # fmt: skip
PLUGIN = "src/papertrail/cluster/backend.py"
"""What MLflow itself loads: it is made of MLflow's own classes."""


def level(package: str) -> int:
    return next(n for n, members in enumerate(LEVELS) if package in members)


def package(module: str) -> str:
    """papertrail.core.storage.store -> core.storage; papertrail.nn.loading -> nn."""
    parts = module.split(".")[1:]
    return next(name for name in (".".join(parts[:2]), parts[0]) if name in PACKAGES)


def modules(path: Path) -> Iterator[str]:
    """Names of modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def strays(path: Path) -> set[str]:
    """Packages that a file imports and must not: those beside and above its own."""
    if path.parent.name == "entrypoints" or path.parent.parent == SOURCE:
        return set()  # the top: may import everything, and nothing imports it
    home = package(".".join(path.relative_to(SOURCE).with_suffix("").parts))
    used = {package(name) for name in modules(path) if name.startswith("papertrail.")}
    return {name for name in used if name != home and level(name) >= level(home)}


def test_imports_point_down():
    assert not {str(path): found for path in FILES if (found := strays(path))}


def test_mlflow_is_touched_in_core_only():
    allowed = [*(SOURCE / "papertrail" / "core").glob("**/*.py"), ROOT / PLUGIN]
    others = set(FILES) - set(allowed)
    assert not {path for path in others for name in modules(path) if name.startswith("mlflow")}


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
