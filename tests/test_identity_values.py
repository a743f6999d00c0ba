"""One value is one question however it is typed, and what has no one value is refused by its key.

Every question here arrives as it does in life: words of a command line, a YAML or a JSON file.
"""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from told import EXPERIMENT, Optimizer, held, refusal, told

from papertrail.core.errors import BadInput
from papertrail.core.question.identity import differences, dumps, identify

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.fixture
def in_yaml(tmp_path: Path) -> Any:
    def write(text: str) -> str:
        path = tmp_path / "typed.yaml"
        path.write_text(text, encoding="utf-8")
        return told(f"--config={path}")

    return write


@pytest.fixture
def in_json(tmp_path: Path) -> Any:
    def write(tree: Mapping[str, Any]) -> str:
        path = tmp_path / "typed.json"
        path.write_text(json.dumps(tree), encoding="utf-8")
        return told(f"--config={path}")

    return write


# Numbers


@pytest.mark.parametrize(
    "number", ["1e-4", "0.0001", "1.0e-4", "1E-4", ".1e-3", "100e-6", "0.00010"]
)
def test_one_number_is_one_question_however_it_is_spelled(in_yaml, in_json, number: str):
    expected = held(optimizer=Optimizer(lr=0.0001), numbers={"a": 0.0001}, rates=(0.0001,))
    words = f"--optimizer.lr={number}", f'--numbers={{"a": {number}}}', f"--rates=[{number}]"
    assert told(*words) == expected
    text = f"optimizer: {{lr: {number}}}\nnumbers: {{a: {number}}}\nrates: [{number}]\n"
    assert in_yaml(text) == expected
    assert in_yaml(text.replace(number, f"'{number}'")) == expected
    tree = {"optimizer": {"lr": number}, "numbers": {"a": number}, "rates": [number]}
    assert in_json(tree) == expected
    tree = {"optimizer": {"lr": 1e-4}, "numbers": {"a": 1e-4}, "rates": [1e-4]}
    assert in_json(tree) == expected


@settings(max_examples=25, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_arrives_by_its_shortest_spelling(number: float):
    expected = held(share=number)
    assert told(f"--share={number!r}") == expected
    assert told(f"--share={number:.17e}") == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(-(2**70), 2**70))
def test_every_whole_number_arrives(number: int):
    assert told(f"--count={number}") == held(count=number)


def test_neighbours_at_the_edge_of_exactness_stay_apart_on_every_way(in_yaml, in_json):
    edges = [2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**63, 2**64]
    found = [held(count=edge) for edge in edges]
    assert len(set(found)) == len(edges)
    assert [told(f"--count={edge}") for edge in edges] == found
    assert [in_yaml(f"count: {edge}") for edge in edges] == found
    assert [in_json({"count": edge}) for edge in edges] == found


def test_2_to_the_53_plus_1_is_no_float_and_reads_as_its_neighbour(in_yaml):
    beyond = str(2**53 + 1)
    assert told(f"--share={beyond}") == in_yaml(f"share: {beyond}") == held(share=2.0**53)
    assert held(share=2**53 + 1) == held(share=2.0**53)


@pytest.mark.parametrize("number", [5e-324, 2.2250738585072009e-308])
def test_a_subnormal_number_is_not_zero_on_any_way(in_yaml, in_json, number: float):
    expected = held(share=number)
    assert expected != held(share=0.0)
    assert told(f"--share={number!r}") == in_yaml(f"share: {number!r}") == expected
    assert in_json({"share": number}) == expected


def test_minus_zero_is_zero(in_yaml, in_json):
    expected = held(share=0.0, maybe=0.0, rates=(0.0,), free={"a": 0.0})
    words = ("--share=-0.0", "--maybe=-0", "--rates=[-0.0]", '--free={"a": -0.0}')
    assert told(*words) == expected
    assert in_yaml("share: -0.0\nmaybe: -0.\nrates: [-0.0]\nfree: {a: -0.0}\n") == expected
    tree = {"share": -0.0, "maybe": -0.0, "rates": [-0.0], "free": {"a": -0.0}}
    assert in_json(tree) == expected


def test_one_is_what_the_schema_makes_of_it(in_yaml, in_json):
    share, count = held(share=1.0), held(count=1)
    assert held(share=1) == told("--share=1") == told("--share=1.0") == share
    assert in_yaml("share: 1") == in_yaml("share: '1'") == in_json({"share": 1.0}) == share
    assert held(count=1.0) == told("--count=1") == in_yaml("count: '1'") == count
    assert held(level=1.0) == told("--level=1") == held()
    assert held(text="1") == told("--text=1") == in_json({"text": "1"}) != held(text="1.0")
    assert held(free={"a": 1}) != held(free={"a": True}) != held(free={"a": "1"})


def test_where_a_count_or_a_share_is_meant_they_are_two_questions():
    assert told("--either=1") == held(either=1)
    assert told("--either=1.0") == held(either=1.0)
    assert held(either=1) != held(either=1.0)


@pytest.mark.parametrize(
    ("option", "value", "wanted"),
    [
        ("count", True, "int, got bool (True)"),
        ("share", False, "float, got bool (False)"),
        ("flag", 1, "bool, got int (1)"),
        ("flag", 0.0, "bool, got float (0.0)"),
        ("count", "1", "int, got str ('1')"),
        ("text", 1, "str, got int (1)"),
        ("maybe", "x", "float or NoneType, got str ('x')"),
        ("count", None, "int, got NoneType (None)"),
        ("share", [0.5], "float, got list ([0.5])"),
        ("level", True, "int, got bool (True)"),
    ],
)
def test_a_value_of_another_type_is_refused_by_key(option: str, value: Any, wanted: str):
    assert refusal(**{option: value}) == f"{option}: expected {wanted}"


@pytest.mark.parametrize(
    "word", ["count=1.0", "count=true", "count=1e3", "share=true", "flag=1", "flag=0", "seed=1.5"]
)
def test_a_word_of_another_type_is_refused_by_key(word: str):
    with pytest.raises(BadInput, match=rf"^{word.partition('=')[0]}: expected a"):
        told(f"--{word}")


def test_a_seed_is_the_same_seed_from_everywhere(in_yaml, in_json):
    expected = held(seed=1)
    assert told("--seed=1") == told("--seed", "1") == told("--seed=01") == expected
    assert in_yaml("seed: 1") == in_yaml("seed: '1'") == in_yaml('seed: "1"') == expected
    assert in_json({"seed": 1}) == in_json({"seed": "1"}) == expected


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 10**400])
@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("share", lambda x: {"share": x}),
        ("optimizer.lr", lambda x: {"optimizer": Optimizer(lr=x)}),
        ("maybe", lambda x: {"maybe": x}),
        ("rates[1]", lambda x: {"rates": (1.0, x)}),
        ("numbers.b", lambda x: {"numbers": {"a": 1.0, "b": x}}),
    ],
)
def test_what_is_not_finite_is_refused_by_key(key: str, values: Any, number: float):
    assert refusal(**values(number)).startswith(f"{key}: must be finite to identify a run (")


def test_what_is_not_finite_is_refused_in_lists_in_free_dicts():
    assert refusal(free={"a": [1, {"b": float("nan")}]}).startswith("free.a[1].b: must be finite")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("share: .nan", "share"),
        ("share: 1e400", "share"),
        ("optimizer: {lr: -.inf}", "optimizer.lr"),
        ("rates: [1, .inf]", "rates"),
        ("free: {a: {b: .nan}}", "free"),
        ("share: nan", "share"),
    ],
)
def test_what_is_not_finite_is_refused_by_key_in_a_file(in_yaml, text: str, key: str):
    with pytest.raises(BadInput, match=rf"(^|: ){key}: "):
        in_yaml(text)


@pytest.mark.parametrize("number", ["nan", ".nan", "inf", "-.inf", "1e999"])
def test_what_is_not_finite_ends_a_real_command_with_one_line(number: str):
    done = subprocess.run(
        [sys.executable, "entrypoints/hotflip.py", f"--train.lr={number}"],
        cwd=ROOT, env={"PYTHONPATH": "src", "PATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("hotflip: train.lr: ")


def test_a_whole_number_needs_no_float_to_be_itself():
    assert held(count=10**400) != held(count=10**400 + 1)


# Text


def test_accents_are_one_text_composed_and_decomposed_in_values_keys_and_sets(in_yaml):
    found = {
        (
            told(f"--text={accent}", f'--numbers={{"{accent}": 1}}', f'--names=["{accent}"]'),
            in_yaml(f"text: {accent}\nnumbers: {{{accent}: 1}}\nnames: [{accent}]\n"),
            held(text=accent, numbers={accent: 1.0}, names={accent}),
        )
        for accent in (COMPOSED, DECOMPOSED)
    }
    assert len(found) == 1 and len(set(found.pop())) == 1


def test_keys_that_composed_are_one_are_refused_by_key():
    both = {COMPOSED: 1.0, DECOMPOSED: 2.0}
    assert refusal(numbers=both).startswith("numbers: two keys are one text")
    assert refusal(free={"a": [both]}).startswith("free.a[0]: two keys are one text")


def test_elements_of_a_set_that_composed_are_one_are_refused_by_key():
    assert refusal(names={COMPOSED, DECOMPOSED}).startswith(
        "names: two elements of the set are one"
    )


def test_line_ends_in_a_text_are_part_of_it(in_json):
    unix, dos = held(text="a\nb"), held(text="a\r\nb")
    assert unix != dos
    assert told("--text=a\r\nb") == in_json({"text": "a\r\nb"}) == dos


def test_bytes_that_are_no_text_are_refused_by_key():
    broken = os.fsdecode(b"caf\xe9")  # as the shell hands over a word that is not UTF-8
    with pytest.raises(BadInput, match=r"^text: not UTF-8 \('caf\\udce9'\)"):
        told(f"--text={broken}")
    assert refusal(free={broken: 1}).startswith("free: not UTF-8")


# Containers


@settings(max_examples=25, deadline=None)
@given(st.permutations(["b", "a", "c", "B"]))
def test_the_order_of_keys_does_not_count_at_any_depth(keys: list[str]):
    tree = {key: {inner: [1, {key: 2}] for inner in keys} for key in keys}
    plain = {key: {inner: [1, {key: 2}] for inner in sorted(keys)} for key in sorted(keys)}
    assert told(f"--free={json.dumps(tree)}") == held(free=plain)
    assert held(numbers={key: float(ord(key)) for key in keys}) == held(
        numbers={key: float(ord(key)) for key in sorted(keys)}
    )


def test_the_order_of_sections_and_options_in_a_file_does_not_count(in_yaml):
    lines = ["optimizer: {device: 1, lr: 0.5}", "count: 2", "text: x"]
    assert in_yaml("\n".join(lines)) == in_yaml("\n".join(reversed(lines)))
    assert in_yaml(lines[0]) == in_yaml("optimizer: {lr: 0.5, device: 1}")


def test_the_order_of_a_list_counts():
    assert told("--rates=[1, 2]") != told("--rates=[2, 1]")


def test_a_list_is_a_tuple_and_each_place_has_its_own_type(in_json):
    assert held(rates=[1, 2]) == held(rates=(1.0, 2.0)) == in_json({"rates": [1, 2]})
    assert held(pair=[2, 1]) == held(pair=(2.0, 1.0)) == told("--pair=[2, 1]")
    assert refusal(pair=(0.5, 1)) == "pair[0]: expected a whole number (0.5)"
    assert refusal(pair=(1,)) == "pair: expected 2 values, got 1"


def test_none_is_not_zero_and_is_the_same_as_absent_where_it_is_the_default(in_yaml, in_json):
    assert in_yaml("maybe: null") == in_yaml("maybe: ~") == in_json({"maybe": None}) == held()
    assert told("--maybe=null") == held(maybe=None) == held() != held(maybe=0.0)
    assert held(free={"a": None}) != held(free={})


def test_an_empty_dict_is_the_same_as_absent_where_it_is_the_default(in_yaml, in_json):
    assert in_yaml("numbers: {}") == in_json({"numbers": {}}) == told("--numbers={}") == held()
    assert in_yaml("{}") == in_yaml("") == held()
    assert held(free={"a": {}}) != held(free={})
    assert held(free={"a": {}}) != held(free={"a": []})


def test_a_set_has_one_identity_under_every_hash_seed_and_order():
    words = [f"w{n}" for n in range(30)]
    script = (
        "import sys; sys.path[:0] = ['src', 'tests']; import told as t;"
        f"print(t.held(names=set({words}), free={{'s': frozenset({words})}}),"
        f"t.told('--names={json.dumps(words)}'))"
    )
    seeds = ("0", "1", "2", "3")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        )
        for seed in seeds
    ]  # fmt: skip
    found = {one.communicate(timeout=60)[0] for one in started}
    assert len(found) == 1
    assert found.pop().split()[1] == held(names=words[::-1])


def test_a_set_of_mixed_types_is_refused_by_key():
    assert refusal(free={"a": {1, "b"}}).startswith("free.a: a set of mixed types has no order")
    assert refusal(free={"a": {1, 2.5}}).startswith("free.a: a set of mixed types")
    assert refusal(free={"a": {(1, "b"), ("b", 1)}}).startswith("free.a: a set of these has no")
    assert refusal(names={"a", None}).startswith("names[")


def test_sections_with_the_same_options_cannot_stand_in_for_each_other():
    Adam, Sgd = (
        make_dataclass(name, [("lr", float, 0.1)], frozen=True, kw_only=True)
        for name in ("Adam", "Sgd")
    )
    schema = make_dataclass("Choice", [("optimizer", Adam | Sgd)], frozen=True, kw_only=True)
    with pytest.raises(AssertionError, match="optimizer: two of its sections have the same"):
        identify(replace(EXPERIMENT, schema=schema, infrastructure=()), schema(optimizer=Sgd()))


# Two forms compared

trees = st.recursive(
    st.sampled_from([0, 1, 0.0, 1.0, True, False, None, "", "1", "None", "(absent)"]),
    lambda inner: st.dictionaries(st.sampled_from(["a", "b", "a.b"]), inner, max_size=3),
    max_leaves=4,
)


@given(trees, trees)
def test_forms_that_differ_in_anything_have_a_difference_that_says_so(one: Any, other: Any):
    lines = differences({"config": one}, {"config": other})
    assert bool(lines) == (dumps(one) != dumps(other))
    for line in lines:
        before, after = line.partition(": ")[2].split(" -> ")
        assert before != after


@pytest.mark.parametrize(
    ("one", "other", "lines"),
    [
        ({"a": 1}, {"a": "1"}, ['config.a: 1 -> "1"']),
        ({"a": 1}, {"a": 1.0}, ["config.a: 1 -> 1.0"]),
        ({"a": None}, {"a": "None"}, ['config.a: null -> "None"']),
        ({}, {"a": "(absent)"}, ["config: {} -> (absent)", 'config.a: (absent) -> "(absent)"']),
        ({"a.b": 1}, {"a": {"b": 1}}, ["config.a.b: (absent) -> 1", "config.a.b: 1 -> (absent)"]),
        ({"a.b": 1, "a": {"b": 2}}, {"a.b": 2, "a": {"b": 2}}, ["config.a.b: 1 -> 2"]),
    ],
)
def test_forms_that_print_alike_are_told_apart(one: Any, other: Any, lines: list[str]):
    assert differences({"config": one}, {"config": other}) == lines
