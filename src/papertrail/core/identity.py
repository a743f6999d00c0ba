"""What makes two runs the same question: a hash over everything that decides the answer.

The canonical form is JSON with sorted keys, every value coerced by the schema's annotation, so
that 1, 1.0 and "1" typed in different places cannot make two runs out of one. The hash is an
index, not a proof: `require` compares the stored form as well.
"""

import hashlib
import json
import math
import types
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from papertrail.core.errors import BadInput
from papertrail.core.experiment import Experiment

SCHEME = 1  # raised when the canonical form itself changes: every identity changes with it


@dataclass(frozen=True)
class Identity:
    """The full question in canonical form and its short name."""

    form: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """20 hex digits: 2^40 runs before an accidental collision is likely."""
        return hashlib.sha256(dumps(self.form).encode()).hexdigest()[:20]

    def __str__(self) -> str:
        return self.digest


def identify(experiment: Experiment, config: Any) -> Identity:
    """The identity of `experiment` under `config`; BadInput naming the key that has none."""
    upstream = experiment.upstream(config)
    return Identity(
        {
            "scheme": SCHEME,
            "experiment": experiment.name,
            "revision": experiment.revision,
            "config": question(experiment, config),
            "data": dict(experiment.data(config)),
            "upstream": {
                role: identify(needed.experiment, needed.config).digest
                for role, needed in upstream.items()
            },
        }
    )


def question(experiment: Experiment, config: Any) -> dict[str, Any]:
    """The canonical config without what does not decide the answer.

    Left out: infrastructure (where, how fast), data (its content is hashed instead of its path)
    and options added later that stand at the neutral value declared with them.
    """
    tree = canonical(config)
    for path in (*experiment.infrastructure, *experiment.data(config)):
        _drop(tree, path, experiment)
    for path, value in experiment.neutral.items():
        if _at(tree, path, experiment) == canonical_value(value, type(value), path):
            _drop(tree, path, experiment)
    return tree


def canonical(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config dataclass as plain JSON values, coerced by its annotations."""
    hints = get_type_hints(type(config), include_extras=True)
    return {
        f.name: canonical_value(getattr(config, f.name), hints[f.name], prefix + f.name)
        for f in fields(config)
    }


def canonical_value(value: Any, hint: Any, path: str) -> Any:
    """`value` as the plain JSON value that `hint` makes of it; BadInput naming `path` if none."""
    hint = _bare(hint, value)
    if value is None:
        return None
    if is_dataclass(value):
        return canonical(value, f"{path}.")
    if isinstance(value, Enum):
        return canonical_value(value.value, type(value.value), path)
    if isinstance(value, bool) or hint is bool:
        return _boolean(value, hint, path)
    if isinstance(value, (int, float)):
        return _number(value, hint, path)
    if isinstance(value, (str, Path)):
        return unicodedata.normalize("NFC", str(value))
    if isinstance(value, Mapping):
        return _mapping(value, hint, path)
    if isinstance(value, (list, tuple, set, frozenset)):
        return _sequence(value, hint, path)
    raise BadInput(f"{path}: a {type(value).__name__} has no canonical form ({value!r}); use text")


def dumps(tree: Any) -> str:
    """The one spelling of a canonical tree: sorted keys, floats by repr, no spaces."""
    return json.dumps(
        tree, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """flat({"optim": {"lr": 1e-3}}, "cfg.") == {"cfg.optim.lr": 1e-3}"""
    out: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        out |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return out


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The dotted keys in which two canonical forms differ, as "key: old -> new"."""
    a, b = flat(old), flat(new)
    absent = "(absent)"
    return [
        f"{key}: {a.get(key, absent)} -> {b.get(key, absent)}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, absent) != b.get(key, absent)
    ]


def _bare(hint: Any, value: Any) -> Any:
    """The annotation without Annotated and without the arms of a union that do not fit `value`."""
    if get_origin(hint) is Annotated:
        return _bare(get_args(hint)[0], value)
    if get_origin(hint) in (Union, types.UnionType):
        arms = [_bare(arm, value) for arm in get_args(hint)]
        exact = [arm for arm in arms if isinstance(arm, type) and type(value) is arm]
        return (exact or [arm for arm in arms if arm is not type(None)])[0]
    if get_origin(hint) is Literal:
        return type(value)
    return hint


def _boolean(value: Any, hint: Any, path: str) -> bool:
    if not isinstance(value, bool) or hint in (int, float, str):
        wanted = getattr(hint, "__name__", hint)
        raise BadInput(f"{path}: expected {wanted}, got {type(value).__name__} ({value!r})")
    return value


def _number(value: int | float, hint: Any, path: str) -> int | float:
    if not math.isfinite(value):
        raise BadInput(f"{path}: must be finite to identify a run ({value}); give a number")
    if hint is int:
        if value != int(value):
            raise BadInput(f"{path}: expected a whole number ({value})")
        return int(value)
    if hint is float:
        return float(value) + 0.0  # + 0.0 turns -0.0 into 0.0
    return value + 0.0 if isinstance(value, float) else value


def _mapping(value: Mapping[Any, Any], hint: Any, path: str) -> dict[str, Any]:
    inner = (get_args(hint) or (str, Any))[1]
    for key in value:
        if not isinstance(key, str):
            raise BadInput(f"{path}: keys must be text ({key!r} is {type(key).__name__})")
    return {
        unicodedata.normalize("NFC", key): canonical_value(item, inner, f"{path}.{key}")
        for key, item in value.items()
    }


def _sequence(value: Any, hint: Any, path: str) -> list[Any]:
    inner = (get_args(hint) or (Any,))[0]
    items = [canonical_value(item, inner, f"{path}[{i}]") for i, item in enumerate(value)]
    if not isinstance(value, (set, frozenset)):
        return items
    if len({type(item) for item in items}) > 1:
        raise BadInput(f"{path}: a set of mixed types has no order ({value!r}); use a list")
    return sorted(items)


def _at(tree: dict[str, Any], path: str, experiment: Experiment) -> Any:
    node: Any = tree
    for part in path.split("."):
        assert isinstance(node, dict) and part in node, f"{experiment.name} has no option {path}"
        node = node[part]
    return node


def _drop(tree: dict[str, Any], path: str, experiment: Experiment) -> None:
    *above, last = path.split(".")
    node = _at(tree, ".".join(above), experiment) if above else tree
    assert last in node, f"{experiment.name} has no option {path}"
    del node[last]
