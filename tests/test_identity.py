"""The same question has one identity, and another question has another."""

import json
import subprocess
import sys
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from papertrail.core.errors import BadInput
from papertrail.core.question.experiment import Experiment, Question
from papertrail.core.question.identity import canonical, differences, flat, identify, question


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    steps: int = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    inner: Inner = field(default_factory=Inner)
    name: str = "x"
    flag: bool = False
    maybe: float | None = None
    many: tuple[float, ...] = (1.0, 2.0)
    free: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    data: str = "corpus.txt"


def experiment(**changes: Any) -> Experiment:
    base = {
        "name": "e",
        "study": "s",
        "schema": Config,
        "verb": "m:f",
        "infrastructure": ("device",),
    }
    return Experiment(**(base | changes))


def digest(config: Any = None, **changes: Any) -> str:
    return identify(experiment(**changes), config or Config()).digest


def test_golden_identities_do_not_move():
    assert digest() == "e225bbc449c64c41cc25"
    assert (
        digest(Config(name="é", inner=Inner(lr=3e-4), free={"b": 1.0, "a": -0.0}))
        == "4d7c3c4f6c28a137de3d"
    )


def test_identity_is_the_same_under_every_hash_seed():
    script = (
        "import sys; sys.path[:0] = ['src', 'tests']; import test_identity as t;"
        "print(t.digest(t.Config(free={'b': 1.0, 'a': 2.0})))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True, text=True, check=True, cwd=ROOT,
        ).stdout
        for seed in ("0", "1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_an_option_that_says_where_or_how_fast_is_no_part_of_it():
    assert digest(Config(device="cuda")) == digest()


def test_an_excluded_path_that_does_not_exist_is_our_error():
    with pytest.raises(AssertionError, match=r"no option inner\.device"):
        digest(infrastructure=("inner.device",))


@pytest.mark.parametrize("changes", [{"name": "other"}, {"revision": 2}])
def test_experiment_and_revision_are_part_of_it(changes: dict[str, Any]):
    assert digest(**changes) != digest()


def test_moved_code_keeps_it():
    assert digest(verb="elsewhere:g", study="other") == digest()


def test_data_counts_by_content_and_not_by_path():
    def by(content: str) -> Any:
        return lambda config: {"data": content}

    moved = Config(data="/another/place.txt")
    assert digest(data=by("abc")) == digest(moved, data=by("abc"))
    assert digest(data=by("abc")) != digest(data=by("abd"))
    assert digest(data=by("abc")) != digest()


def test_upstream_identity_is_part_of_it():
    def after(revision: int) -> Any:
        return lambda config: {"up": Question(experiment(name="up", revision=revision), config)}

    assert digest(upstream=after(1)) != digest(upstream=after(2))


def test_an_option_added_later_is_left_out_at_its_neutral_value_only():
    @dataclass(frozen=True, kw_only=True)
    class Later(Config):
        dropout: float = 0.0

    later = experiment(schema=Later, neutral={"dropout": 0.0})
    assert identify(later, Later()).digest == digest()
    assert identify(later, Later(dropout=0.1)).digest != digest()


def test_a_changed_default_is_another_question():
    @dataclass(frozen=True, kw_only=True)
    class Changed(Config):
        name: str = "y"

    assert identify(experiment(schema=Changed), Changed()).digest != digest()


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Config(inner=Inner(lr=1)), Config(inner=Inner(lr=1.0))),
        (Config(inner=Inner(steps=10.0)), Config(inner=Inner(steps=10))),  # type: ignore[arg-type]
        (Config(inner=Inner(lr=1e-4)), Config(inner=Inner(lr=0.0001))),
        (Config(maybe=-0.0), Config(maybe=0.0)),
        (Config(many=[1, 2]), Config(many=(1.0, 2.0))),  # type: ignore[arg-type]
        (Config(name="e\u0301"), Config(name="\u00e9")),
        (Config(free={"a": 1, "b": 2}), Config(free={"b": 2.0, "a": 1.0})),
    ],
)
def test_spelling_does_not_matter(left: Config, right: Config):
    assert digest(left) == digest(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Config(name="1"), Config(name="1.0")),
        (Config(flag=True), Config(flag=False)),
        (Config(maybe=None), Config(maybe=0.0)),
        (Config(many=(1.0, 2.0)), Config(many=(2.0, 1.0))),
        (Config(inner=Inner(steps=2**53)), Config(inner=Inner(steps=2**53 + 1))),
        (Config(inner=Inner(lr=5e-324)), Config(inner=Inner(lr=0.0))),
    ],
)
def test_what_differs_stays_different(left: Config, right: Config):
    assert digest(left) != digest(right)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (Config(inner=Inner(lr=float("nan"))), "inner.lr"),
        (Config(maybe=float("inf")), "maybe"),
        (Config(inner=Inner(steps=1.5)), "inner.steps"),  # type: ignore[arg-type]
        (Config(inner=Inner(steps=True)), "inner.steps"),
        (Config(free={1: 2.0}), "free"),  # type: ignore[dict-item]
        (Config(many={1.0, "a"}), "many"),  # type: ignore[arg-type]
    ],
)
def test_what_has_no_canonical_form_is_refused_by_key(config: Config, key: str):
    with pytest.raises(BadInput, match=rf"^{key}"):
        digest(config)


@given(
    st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False)),
    st.text(),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_config_to_json_and_back_is_the_same_question(free: dict[str, float], name: str, lr: float):
    config = Config(free=free, name=name, inner=Inner(lr=lr))
    tree = json.loads(json.dumps(canonical(config)))
    back = Config(**(tree | {"inner": Inner(**tree["inner"])}))
    assert digest(back) == digest(config)


def test_differences_name_the_keys_and_both_values():
    old, new = (question(experiment(), replace(Config(), name=name)) for name in ("x", "y"))
    assert differences(old, new) == ["name: x -> y"]


def test_flat_joins_the_path_with_dots():
    assert flat({"optim": {"lr": 1e-3}}, "cfg.") == {"cfg.optim.lr": 1e-3}
