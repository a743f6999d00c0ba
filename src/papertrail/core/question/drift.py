"""The code behind a run: which of the project's modules its verb reaches, and whether they changed.

A digest is taken of the meaning of a module (comments, docstrings and layout left out) beside that
of its text. The laboratory itself (`core`, `records`) is left out, except where it decides numbers.
"""

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from papertrail.core.project import ROOT

PROJECT = "papertrail"
MACHINERY = (f"{PROJECT}.core", f"{PROJECT}.records")
DECIDING = tuple(f"{PROJECT}.core.training.{name}" for name in ("fit", "keeper", "ranks"))
"""Modules of the machinery that a number depends on."""

Code = Mapping[str, Mapping[str, str]]
"""Module -> digests of its source, whole and without comments."""


@lru_cache
def code_of(verb: str, *more: str) -> Code:
    """Digests of every module of the project that `package.module:function` can import.

    `more` are modules that it looks up by name.
    """
    digests = {}
    for module in sorted(set().union(*map(_reached, (verb.partition(":")[0], *more)))):
        source = _source(module)
        assert source is not None, f"{module} was found a moment ago"
        digests[module] = {"source": _sha(source), "code": _sha(_meaning(source)), "python": PYTHON}
    return digests


def changed(recorded: Code) -> list[str]:
    """The modules whose meaning is another now than it was when it was recorded."""
    return [module for module, digests in recorded.items() if _differs(module, digests)]


def place(module: str) -> str:
    """Where a module's source lies, from the project's root: for people."""
    path = _path(module)
    return str(path.relative_to(ROOT)) if path and path.is_relative_to(ROOT) else module


def state(modules: list[str]) -> str:
    """Short digest of the present source of `modules`: what somebody accepts as equivalent."""
    return _sha("\n".join(f"{m} {_sha(_source(m) or '')}" for m in sorted(modules)))[:12]


PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def _differs(module: str, then: Mapping[str, str]) -> bool:
    source = _source(module)
    if source is None:
        return True  # moved or removed
    if _sha(source) == then["source"]:
        return False
    # Another Python may print one meaning otherwise: then only the text can be compared.
    return then["python"] != PYTHON or _sha(_meaning(source)) != then["code"]


def _reached(start: str) -> set[str]:
    """`start` and all modules of the project that it imports, at its top or inside a function."""
    found, waiting = set[str](), [start]
    ours = (PROJECT, start.partition(".")[0])
    while waiting:
        module = waiting.pop()
        source = None if module in found else _source(module)
        if source is None:
            continue
        found.add(module)
        above = module.rpartition(".")[0]  # importing a module runs the packages it lies in
        waiting += [name for name in (above, *_imports(source)) if _counts(name, ours)]
    return found


def _counts(module: str, ours: tuple[str, ...]) -> bool:
    if module.startswith(MACHINERY):
        return module in DECIDING
    return module.partition(".")[0] in ours


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            # `from papertrail.nn import scoring` imports a module, not a name
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _source(module: str) -> str | None:
    """Text of a module; None for what is no module of Python source."""
    path = _path(module)
    is_source = path is not None and path.suffix == ".py" and path.is_file()
    return path.read_text(encoding="utf-8") if path and is_source else None


@lru_cache
def _path(module: str) -> Path | None:
    """Where a module's source lies. Only its first name is looked up: looking up a longer one
    would import what is above it."""
    top, *inner = module.split(".")
    spec = find_spec(top)
    if spec is None or spec.origin is None:
        return None
    place = Path(spec.origin)
    if inner:
        place = place.parent.joinpath(*inner).with_suffix(".py")
        package = place.with_suffix("") / "__init__.py"
        place = package if package.is_file() else place
    return place


def _meaning(source: str) -> str:
    """The source without comments, docstrings and layout."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            bare = [one for one in body if not _is_text(one)]
            node.body = bare or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(node: ast.AST) -> bool:
    """A docstring, of whatever it stands under: text that nothing uses."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
