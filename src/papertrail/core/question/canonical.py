"""A config as plain JSON values, coerced by the annotations of its schema.

So 1 and 1.0 in a float option are one value, and a value that has no such form is refused by its
key. Nothing here knows of experiments; `identity` says what of a config counts.
"""

import json
import math
import types
import unicodedata
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from papertrail.core.digests import seen_once
from papertrail.core.errors import BadInput

SCALARS = (bool, int, float, str, Path, type(None))
ORDERED, UNORDERED = (list, tuple, Sequence), (set, frozenset, AbstractSet)


def canonical(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config dataclass as plain JSON values; BadInput naming the option that has none."""
    return _copied(_spelled(_Same(config), prefix))


@dataclass(frozen=True, eq=False)
class _Same:
    """Equal to itself alone: to Python, a section with 1 in it equals one with true."""

    section: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.section is other.section

    def __hash__(self) -> int:
        return id(self.section)


@seen_once  # thousands of questions of one study share their sections
def _spelled(same: _Same, prefix: str) -> dict[str, Any]:
    hints = annotations(type(same.section))
    return {
        f.name: canonical_value(getattr(same.section, f.name), hints[f.name], prefix + f.name)
        for f in fields(same.section)
    }


def _copied(tree: dict[str, Any]) -> dict[str, Any]:
    """Callers leave options out of what they get; lists they leave alone."""
    return {
        name: _copied(value) if isinstance(value, dict) else value for name, value in tree.items()
    }


def canonical_value(value: Any, hint: Any, path: str) -> Any:
    """`value` as the plain JSON value that `hint` makes of it; BadInput naming `path` if none."""
    hint = _arm(hint, value, path)
    if value is None or isinstance(value, bool):
        return value
    if is_dataclass(value):
        return canonical(value, f"{path}.")
    if isinstance(value, Enum):
        return canonical_value(value.value, Any, path)
    if isinstance(value, (int, float)):
        return _number(value, hint, path)
    if isinstance(value, (str, Path)):
        return _text(str(value), path)
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


def spelled(value: Any) -> str:
    """A canonical value as people type it: text as it is, all else as `dumps` spells it."""
    return value if isinstance(value, str) else dumps(value)


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """flat({"optim": {"lr": 1e-3}}, "cfg.") == {"cfg.optim.lr": 1e-3}"""
    return {prefix + ".".join(names): value for names, value in leaves(tree).items()}


def by_option(config: Any) -> dict[str, Any]:
    """Dotted option -> canonical value; unlike in `flat`, a mapping is one option."""
    return _by_option(config, canonical(config), "")


def _by_option(section: Any, tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in tree.items():
        inner = getattr(section, name)
        below = _by_option(inner, value, f"{prefix}{name}.") if is_dataclass(inner) else None
        out |= {f"{prefix}{name}": value} if below is None else below
    return out


def as_given(config: Any) -> dict[str, Any]:
    """`by_option` with the text that was given: composed or not is one question, but two files."""
    return {
        option: _as_given(reduce(getattr, option.split("."), config), value)
        for option, value in by_option(config).items()
    }


def _as_given(given: Any, value: Any) -> Any:
    if isinstance(given, (str, Path)) and not isinstance(given, Enum):
        return str(given)
    if isinstance(given, (list, tuple)) and isinstance(value, list):
        return [_as_given(*pair) for pair in zip(given, value, strict=True)]
    return value


def leaves(tree: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Names from the root -> value; a name may hold a dot, so joined names can be ambiguous."""
    out: dict[tuple[str, ...], Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping) and value
        out |= leaves(value, (*above, name)) if nested else {(*above, name): value}
    return out


def annotations(schema: Any) -> Mapping[str, Any]:
    """Option -> annotation of a dataclass."""
    return _evaluated(schema)


@cache  # to evaluate them takes longer than all else here
def _evaluated(schema: Any) -> Mapping[str, Any]:
    return get_type_hints(schema, include_extras=True)


def arms(hint: Any) -> list[Any]:
    """The types that an annotation allows, without Annotated, Union, Literal and NewType."""
    if get_origin(hint) is Annotated:
        return arms(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return [arm for part in get_args(hint) for arm in arms(part)]
    if get_origin(hint) is Literal:
        return [type(member) for member in get_args(hint)]
    supertype = getattr(hint, "__supertype__", None)
    return [hint] if supertype is None else arms(supertype)


def _arm(hint: Any, value: Any, path: str) -> Any:
    """The type, of those that `hint` allows, that `value` is meant as; BadInput if of none."""
    allowed, roots = _allowed(hint)
    _told_apart([arm for arm in allowed if is_dataclass(arm)], path)
    for kind in _kinds(value):
        if kind in roots:
            return allowed[roots.index(kind)]
    # Any, a base class, an enum given by value: what is no scalar is looked at by its content.
    for arm, root in zip(allowed, roots, strict=True):
        if root not in SCALARS:
            return arm
    wanted = " or ".join(arm.__name__ for arm in dict.fromkeys(allowed))
    raise BadInput(f"{path}: expected {wanted}, got {type(value).__name__} ({value!r})")


@cache
def _allowed(hint: Any) -> tuple[list[Any], list[Any]]:
    """The types of an annotation, each once, and the classes behind them."""
    found = list(dict.fromkeys(arms(hint)))
    return found, [get_origin(arm) or arm for arm in found]


def _kinds(value: Any) -> tuple[Any, ...]:
    """What a value may be meant as, best first: 1 is an int, else a float, and never a bool."""
    match value:
        case bool() | None:
            return (type(value),)
        case Enum():
            return (type(value), *_kinds(value.value))
        case int():
            return int, float
        case float():
            return float, int
        case str():
            return str, Path
        case Path():
            return Path, str
        case Mapping():
            return type(value), dict, Mapping
        case list() | tuple():
            return type(value), *ORDERED, *UNORDERED
        case set() | frozenset():
            return type(value), *UNORDERED, *ORDERED
    return (type(value),)


def _told_apart(sections: list[Any], path: str) -> None:
    """The name of a class is no part of a config, so its options must say which one it is."""
    if len(sections) < 2:
        return
    names = {tuple(sorted(f.name for f in fields(section))) for section in sections}
    assert len(names) == len(sections), f"{path}: two of its sections have the same options"


def _number(value: int | float, hint: Any, path: str) -> int | float:
    if hint is float or isinstance(value, float):
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond 1.8e308
            number = math.inf
        if not math.isfinite(number):
            raise BadInput(f"{path}: must be finite to identify a run ({value}); give a number")
        if hint is not int:
            return number + 0.0  # + 0.0 turns -0.0 into 0.0
    if value != int(value):
        raise BadInput(f"{path}: expected a whole number ({value})")
    return int(value)


def _text(value: str, path: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair: how Python keeps bytes that are no text
        raise BadInput(f"{path}: not UTF-8 ({value!r}); retype it") from None
    return unicodedata.normalize("NFC", value)


def _mapping(value: Mapping[Any, Any], hint: Any, path: str) -> dict[str, Any]:
    inner = (get_args(hint) or (str, Any))[1]
    out: dict[str, Any] = {}
    for key, item in value.items():
        if not isinstance(key, str):
            raise BadInput(f"{path}: keys must be text ({key!r} is {type(key).__name__})")
        name = _text(key, path)
        if name in out:
            raise BadInput(f"{path}: two keys are one text, composed and not ({name}); drop one")
        out[name] = canonical_value(item, inner, f"{path}.{name}")
    return out


def _sequence(value: Any, hint: Any, path: str) -> list[Any]:
    items = [
        canonical_value(item, inner, f"{path}[{i}]")
        for i, (item, inner) in enumerate(zip(value, _inner(hint, len(value), path), strict=True))
    ]
    unordered = isinstance(value, (set, frozenset)) or (get_origin(hint) or hint) in UNORDERED
    return _sorted(items, path) if unordered else items


def _inner(hint: Any, length: int, path: str) -> Sequence[Any]:
    """The annotation of each element: tuple[int, float] has one for each place."""
    args = get_args(hint) or (Any,)
    if get_origin(hint) is not tuple or args[1:] == (...,):
        return [args[0]] * length
    if len(args) != length:
        raise BadInput(f"{path}: expected {len(args)} values, got {length}")
    return args


def _sorted(items: list[Any], path: str) -> list[Any]:
    """Elements of a set in the one order that does not depend on PYTHONHASHSEED."""
    if len({type(item) for item in items}) > 1:
        raise BadInput(f"{path}: a set of mixed types has no order ({dumps(items)}); use a list")
    if len({dumps(item) for item in items}) < len(items):
        raise BadInput(f"{path}: two elements of the set are one value ({dumps(items)}); drop one")
    try:
        return sorted(items)
    except TypeError:  # [1] and ["a"], and whatever else has no less-than
        raise BadInput(
            f"{path}: a set of these has no order ({dumps(items)}); use a list"
        ) from None
