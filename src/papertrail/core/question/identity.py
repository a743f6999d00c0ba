"""What makes two runs the same question: a hash over everything that decides the answer.

Everything is taken in its canonical form (`canonical`), so that 1, 1.0 and "1" typed in different
places cannot make two runs out of one. The hash is an index, not a proof: whoever reuses a run
compares the stored form as well.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from papertrail.core.digests import one_look, seen_once
from papertrail.core.errors import BadInput
from papertrail.core.question.canonical import (
    annotations,
    arms,
    as_given,
    by_option,
    canonical,
    canonical_value,
    dumps,
    flat,
    leaves,
    spelled,
)
from papertrail.core.question.experiment import Experiment

__all__ = [
    "Identity", "annotation", "as_given", "by_option", "canonical", "differences", "dumps", "flat",
    "identify", "question", "spelled",
]  # fmt: skip
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


@dataclass(frozen=True)
class _Asked:
    """A question by its spelling: 1, 1.0 and true are equal to Python, and three questions."""

    spelled: str
    experiment: Experiment = field(compare=False)
    config: Any = field(compare=False)


def identify(experiment: Experiment, config: Any) -> Identity:
    """The identity of `experiment` under `config`; BadInput naming the key that has none."""
    with one_look():  # what it builds on reads the same data: once, and at the same moment
        spelled = f"{id(experiment)} {dumps(canonical(config))}"
        return _identified(_Asked(spelled, experiment, config))


@seen_once  # the runs of a study build on the same trainings, and those on the same pretraining
def _identified(asked: _Asked) -> Identity:
    experiment, config = asked.experiment, asked.config
    data = dict(experiment.data(config))
    return Identity(
        {
            "scheme": SCHEME,
            "experiment": experiment.name,
            "revision": experiment.revision,
            "config": question(experiment, config, data),
            "data": data,
            "upstream": {
                role: identify(needed.experiment, needed.config).digest
                for role, needed in experiment.upstream(config).items()
            },
        }
    )


def question(experiment: Experiment, config: Any, data: Iterable[str] = ()) -> dict[str, Any]:
    """The canonical config without what does not decide the answer.

    Left out: infrastructure (where, how fast), what this config does not use, the options in `data`
    (the content is hashed instead of the path) and options added later that stand at the neutral
    value declared with them.
    """
    tree = canonical(config)
    for path in (*experiment.infrastructure, *experiment.unused(config), *data):
        annotation(experiment, path)
        _drop(tree, path)
    for path, value in experiment.neutral.items():
        neutral = _neutral(experiment, path, value)
        if _spelling(tree, path) == dumps(neutral):
            _drop(tree, path)
    for path in sorted(experiment.neutral, key=len, reverse=True):
        _drop_emptied(tree, path, experiment)
    return tree


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The dotted keys in which two canonical forms differ, as "key: old -> new".

    Empty if and only if the forms are equal: 1, 1.0, true and "1" are four values.
    """
    a, b = leaves(old), leaves(new)
    lines = []
    for key in sorted(a.keys() | b.keys()):
        exact = [dumps(tree[key]) if key in tree else "(absent)" for tree in (a, b)]
        plain = [str(tree.get(key, "(absent)")) for tree in (a, b)]
        if exact[0] != exact[1]:
            before, after = plain if plain[0] != plain[1] else exact
            lines.append(f"{'.'.join(key)}: {before} -> {after}")
    return lines


def annotation(experiment: Experiment, path: str) -> Any:
    """How the schema annotates the option or section at `path`; our own error if it has none."""
    hint: Any = experiment.schema
    for name in path.split("."):
        sections = [annotations(arm) for arm in arms(hint) if is_dataclass(arm)]
        hint = next((options[name] for options in sections if name in options), None)
        assert hint is not None, f"{experiment.name} has no option {path}"
    return hint


def _neutral(experiment: Experiment, path: str, value: Any) -> Any:
    """A neutral value as the option itself would take it: False is not the 0.0 of a float."""
    whole = f"{experiment.name}: neutral {path} is a section; give the value of each of its options"
    assert not is_dataclass(value), whole  # its defaults may change, a neutral value never does
    try:
        return canonical_value(value, annotation(experiment, path), path)
    except BadInput as error:
        raise AssertionError(f"{experiment.name}: neutral value of {error}") from error


def _above(tree: dict[str, Any], path: str) -> dict[str, Any]:
    """The section that holds the option at `path`; empty where an optional section is not set."""
    node: Any = tree
    for name in path.split(".")[:-1]:
        node = node.get(name) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}


def _spelling(tree: dict[str, Any], path: str) -> str | None:
    section, name = _above(tree, path), path.rpartition(".")[2]
    return dumps(section[name]) if name in section else None


def _drop(tree: dict[str, Any], path: str) -> None:
    _above(tree, path).pop(path.rpartition(".")[2], None)


def _drop_emptied(tree: dict[str, Any], path: str, experiment: Experiment) -> None:
    """A section that came with its options goes with them, if every one of them came later."""
    section = path.rpartition(".")[0]
    while section and _spelling(tree, section) == "{}" and _came_later(experiment, section):
        _drop(tree, section)
        section = section.rpartition(".")[0]


def _came_later(experiment: Experiment, path: str) -> bool:
    below = [arm for arm in arms(annotation(experiment, path)) if is_dataclass(arm)]
    names = [f"{path}.{name}" for arm in below for name in annotations(arm)]
    return path in experiment.neutral or (
        bool(names) and all(_came_later(experiment, name) for name in names)
    )
