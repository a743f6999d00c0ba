"""What of a config does not count: infrastructure, and options added later at neutral values."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Any, Literal

import pytest
from told import EXPERIMENT, Config, Optimizer, held, told

from papertrail.core.question.identity import identify, question

DECOMPOSED = unicodedata.normalize("NFD", "é")


def test_an_option_named_like_infrastructure_at_another_depth_counts():
    assert told("--device=cuda") == told()
    assert told("--optimizer.device=1") != told()
    assert told('--free={"device": 1}') != told('--free={"device": 2}')


@pytest.mark.parametrize("path", ["devise", "optimizer.devices", "text.device", "optimizer.lr.x"])
@pytest.mark.parametrize("kind", ["infrastructure", "neutral", "data"])
def test_a_declared_path_that_does_not_exist_is_our_error(kind: str, path: str):
    declared = {
        "infrastructure": {"infrastructure": (path,)},
        "neutral": {"neutral": {path: 0}},
        "data": {"data": lambda config: {path: "abc"}},
    }
    with pytest.raises(AssertionError, match=f"told has no option {path}"):
        identify(replace(EXPERIMENT, **declared[kind]), Config())


def later(neutral: Mapping[str, Any], *added: tuple[Any, ...], **changes: Any) -> Any:
    """Config -> identity, for the experiment after options were added to its schema."""
    schema = make_dataclass("Later", added, bases=(Config,), frozen=True, kw_only=True)
    experiment = replace(EXPERIMENT, schema=schema, neutral=neutral, **changes)

    def asked(**values: Any) -> str:
        return identify(experiment, schema(**values)).digest

    return asked


@pytest.mark.parametrize(
    ("kind", "neutral", "other"),
    [
        (float, 0, 0.5),
        (float, 0.0, 5e-324),
        (float, -0.0, 1.0),
        (int, 0, 1),
        (bool, False, True),
        (str, DECOMPOSED, "e"),
        (float | None, None, 0.0),
        (int | bool, 0, False),
        (bool | int, False, 0),
        (int | float, 1, 1.0),
        (tuple[float, ...], [1, 2], (2.0, 1.0)),
        (tuple[float, ...], (), (0.0,)),
        (set[str], {"a", "b"}, {"a"}),
        (dict[str, float], {}, {"a": 0.0}),
        (Any, 1, True),
        (Literal["none", "linear"], "none", "linear"),
    ],
)
def test_a_neutral_value_is_what_the_option_itself_makes_of_it(kind: Any, neutral, other):
    asked = later({"new": neutral}, ("new", kind))
    assert asked(new=neutral) == held()
    assert asked(new=other) != held()


@pytest.mark.parametrize(
    ("kind", "neutral"),
    [(float, False), (bool, 0), (int, 0.5), (int, "0"), (str, 0), (float, None), (float, "nan")],
)
def test_a_neutral_value_that_the_option_cannot_have_is_our_error(kind: Any, neutral: Any):
    with pytest.raises(AssertionError, match="told: neutral value of new: expected"):
        later({"new": neutral}, ("new", kind))(new=kind())


@dataclass(frozen=True, kw_only=True)
class Noise:
    scale: float = 0.0
    kind: str = "gauss"
    workers: int = 1


NOISE = ("noise", Noise, field(default_factory=Noise))
NEUTRAL = {"noise.scale": 0.0, "noise.kind": "gauss", "noise.workers": 1}


def test_a_section_added_later_is_left_out_when_all_of_it_is_neutral():
    asked = later(NEUTRAL, NOISE)
    assert asked() == held()
    assert asked(noise=Noise(kind="uniform")) != held()
    assert asked(noise=Noise(kind="uniform")) != asked(noise=Noise(scale=0.5))


def test_a_section_added_later_may_hold_infrastructure():
    asked = later(NEUTRAL, NOISE, infrastructure=("device", "noise.workers"))
    assert asked() == asked(noise=Noise(workers=8)) == held()
    assert asked(noise=Noise(scale=0.5)) == asked(noise=Noise(scale=0.5, workers=8)) != held()


def test_a_section_that_was_there_before_stays_though_it_is_empty():
    """It stood in the form as {} when its only option was infrastructure."""
    old = make_dataclass("Old", [("workers", int, 1)], frozen=True, kw_only=True)
    new = make_dataclass("New", [("scale", float, 0.0)], bases=(old,), frozen=True, kw_only=True)
    before, after = (
        later(neutral, ("noise", schema, field(default_factory=schema)), infrastructure=away)
        for schema, neutral, away in (
            (old, {}, ("device", "noise.workers")),
            (new, {"noise.scale": 0.0}, ("device", "noise.workers")),
        )
    )
    assert before() == after() == after(noise=new(workers=8)) != after(noise=new(scale=0.5))


def test_a_section_is_not_declared_neutral_by_its_defaults():
    with pytest.raises(AssertionError, match="neutral noise is a section; give the value of each"):
        later({"noise": Noise()}, NOISE)()


def test_an_optional_section_added_later_is_left_out_while_it_is_not_set():
    asked = later(
        {"noise": None, "noise.kind": "gauss"},
        ("noise", Noise | None, None),
        infrastructure=("device", "noise.workers"),
    )
    assert asked() == held() != asked(noise=Noise())
    assert asked(noise=Noise(workers=8)) == asked(noise=Noise())
    assert asked(noise=Noise(kind="uniform")) != asked(noise=Noise())


def test_an_option_inside_an_old_section_leaves_the_rest_of_the_section():
    @dataclass(frozen=True, kw_only=True)
    class Longer(Optimizer):
        momentum: float = 0.9

    schema = make_dataclass(
        "Later",
        [("optimizer", Longer, field(default_factory=lambda: Longer(momentum=0.0)))],
        bases=(Config,), frozen=True, kw_only=True,
    )  # fmt: skip
    experiment = replace(EXPERIMENT, schema=schema, neutral={"optimizer.momentum": 0})
    assert identify(experiment, schema()).digest == held()
    assert "momentum" in question(experiment, schema(optimizer=Longer()))["optimizer"]


def test_data_may_be_named_by_an_option_added_later():
    def content(config: Any) -> Mapping[str, str]:
        return {"extra": "abc"} if config.extra else {}

    asked = later({"extra": ""}, ("extra", str, ""), data=content)
    assert asked() == held() != asked(extra="a.txt")
    assert asked(extra="a.txt") == asked(extra="moved.txt")
