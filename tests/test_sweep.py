"""What a sweep is: its space, what is refused before anything runs, and its identity."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from swept import BOWL, words

from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.identity import by_option, identify
from papertrail.sweep import figures, space
from papertrail.sweep.config import base, find, sweeping
from papertrail.sweep.options import Dimension
from papertrail.sweep.results import Result, Tried

SWEEP = sweeping(BOWL)
PRESETS = sorted((ROOT / "conf" / "sweep").glob("*.yaml"))


def typed(*more: str, **others: Any) -> Any:
    return cli.parse(SWEEP, words(*more, **others))[0]


def refusal(*more: str) -> str:
    with pytest.raises(BadInput) as refused:
        identify(SWEEP, typed(*more))
    assert "\n" not in str(refused.value)
    return str(refused.value)


# -- refused before the first trial ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{bowl.y: {low: 0, high: 1}}", "no option bowl.y; did you mean bowl.x?"),
        ("{bowl: {low: 0, high: 1}}", "no option bowl; did you mean bowl.x?"),
        ("{bowl.x: {low: 0, high: 1, log: true}}", "bowl.x: log needs low above 0 (0)"),
        ("{bowl.x: {low: 2, high: 1}}", "bowl.x: low is above high (2 > 1)"),
        ("{bowl.x: {low: 2}}", "bowl.x: has neither choices nor low and high"),
        ("{bowl.x: {choices: []}}", "bowl.x: has neither choices nor low and high"),
        ("{bowl.x: {choices: [a]}}", "bowl.x: expected a float (a)"),
        ("{bowl.x: {choices: [1], low: 0}}", "bowl.x: choices go without low"),
        ("{bowl.kind: {choices: [flat, flat]}}", "a choice is there twice"),
        ("{bowl.kind: {low: 0, high: 1}}", "bowl.kind is no number"),
        ("{bowl.wide: {low: 0, high: 1}}", "bowl.wide is no number"),
        ("{bowl.n: {low: 0, high: 3}}", "bowl.n: input should be greater than 0 (0)"),
        ("{bowl.n: {low: 1.5, high: 3}}", "bowl.n: input should be a valid integer"),
        ("{bowl.n: {low: 1, high: 4, step: 0.5}}", "bowl.n takes whole numbers"),
        ("{bowl.x: {low: 0, high: 1, step: 0.3}}", "try high=0.9"),
        ("{bowl.x: {low: 0, high: 1, step: -1}}", "step must be above 0 (-1)"),
        ("{bowl.x: {low: 1, high: 9, step: 1, log: true}}", "step and log exclude each other"),
        ("{bowl.x: {lwo: 1, high: 9}}", "ption 'lwo' is not accepted"),
        ("{device: {choices: [cpu, gpu]}}", "device does not decide what comes out of bowl"),
        ("{run.workers: {choices: [1, 2]}}", "run.workers says how runs are computed"),
        ("{}", "nothing is varied"),
        ("{bowl.x: 3}", "options of a Dimension in braces, {name: value} ({bowl.x: 3})"),
        ("hello", "space: expected {name: value} (hello)"),
    ],
)
def test_a_bad_space_is_refused_in_one_line(wrong: str, said: str):
    assert said in refusal(f"--space={wrong}")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--objectives={}"], "objectives: none"),
        (["--objectives={depth: less}"], "expected a Literal['minimize', 'maximize']"),
        (
            ["--objectives={depth: minimize, rim: maximize}", "--pruner.name=median"],
            "one objective",
        ),
        (["--sampler.name=grid"], "a grid needs a step or choices (bowl.x)"),
        (["--sampler.name=grid", "--space={bowl.n: {low: 1, high: 7}}"], "has 7 points (6)"),
        (["--storage=postgresql://me:secret@host/base"], "set PGPASSWORD"),
        (["--storage=mysql://host/base"], "must begin with postgresql://"),
        (["--write_preset=best.txt"], "must end in .yaml"),
    ],
)
def test_a_senseless_order_is_refused_in_one_line(wrong: list[str], said: str):
    found = refusal(*wrong)
    assert said in found and "secret" not in found


def test_a_target_that_is_none_is_refused():
    with pytest.raises(BadInput, match=r"no experiment \(trian\); there are attack,"):
        find("trian")
    with pytest.raises(BadInput, match="nothing at swept:BOWLS"):
        find("swept:BOWLS")
    with pytest.raises(BadInput, match="a function is no experiment"):
        find("swept:roll")


def test_help_says_what_a_sweep_is_and_what_its_target_takes(capsys: pytest.CaptureFixture[str]):
    cli.launch(SWEEP, ["--help"])
    said = capsys.readouterr().out
    assert "SweepConfig" not in said and "--bowl.x" in said and "--trials" in said
    assert "Tries the target under many configs, each a run of its own, and finds the best:" in said


# -- the space -------------------------------------------------------------------------------------

fractions = st.integers(0, 20)
steps = st.sampled_from(["0.1", "0.25", "1", "0.001"])


@settings(max_examples=25, deadline=None)
@given(low=fractions, num=st.integers(1, 12), step=steps)
def test_a_grid_goes_from_low_to_high_in_even_steps(low: int, num: int, step: str):
    size = float(step)
    last = float(f"{low + (num - 1) * size:.6g}")
    one = Dimension(low=float(low), high=last, step=size)
    found = [point["bowl.x"] for point in space.grid(BOWL, {"bowl.x": one})]
    assert found == pytest.approx([low + n * size for n in range(num)])
    assert found[-1] == last


@settings(max_examples=6, deadline=None)
@given(low=st.integers(1, 12), wide=st.booleans(), kind=st.sampled_from(["round", "flat"]))
def test_every_point_of_a_grid_is_a_config_that_has_its_values(low: int, wide: bool, kind: str):
    dimensions = {
        "bowl.n": Dimension(low=float(low), high=12.0),
        "bowl.wide": Dimension(choices=(wide,)),
        "bowl.kind": Dimension(choices=(kind, "ragged")),
    }
    plain = base(BOWL, typed())
    points = space.grid(BOWL, dimensions)
    assert len(points) == (13 - low) * 2
    for point in (points[0], points[-1]):
        values = by_option(space.point(BOWL, plain, point))
        assert values["bowl.n"] == point["bowl.n"] and values["bowl.wide"] is wide
        assert values["bowl.kind"] == point["bowl.kind"] and values["bowl.x"] == 0.5


def test_values_that_do_not_go_together_are_no_point():
    with pytest.raises(BadInput, match="bad luck"):
        space.point(BOWL, base(BOWL, typed()), {"bowl.n": 13})


def test_where_the_options_stand_is_a_point_only_inside_the_space():
    plain = base(BOWL, typed("--bowl.x=0.5"))

    def stands(**wanted: Any) -> bool:
        return space.standing(BOWL, plain, {"bowl.x": Dimension(**wanted)}) is not None

    assert stands(low=0.1, high=0.9, step=0.1) and stands(choices=(0.5, 0.7))
    assert not stands(low=0.6, high=0.9) and not stands(low=0.0, high=0.9, step=0.3)
    assert not stands(choices=(0.7,))


# -- its identity ----------------------------------------------------------------------------------


def identity(*more: str) -> str:
    return identify(SWEEP, typed(*more)).digest


def test_how_a_sweep_is_computed_is_no_part_of_what_it_is():
    how = ("--storage=sqlite:///x.db", "--failures=3", "--plan=true", "--device=gpu")
    assert identity(*how) == identity()


@pytest.mark.parametrize(
    "other",
    [
        "--trials=7", "--sampler.seed=1", "--sampler.name=random", "--pruner.name=hyperband",
        "--objectives={depth: maximize}", "--baseline=false", "--note=else", "--bowl.kind=flat",
        "--space={bowl.x: {low: 0.0, high: 0.8}, bowl.n: {low: 1, high: 8, log: true}}",
    ],
)  # fmt: skip
def test_what_decides_a_sweep_makes_it_another(other: str):
    assert identity(other) != identity()


def test_two_spellings_of_a_space_are_one_sweep():
    other = "{bowl.n: {high: 8, low: 1.0, log: true}, bowl.x: {low: 0, high: 9.0e-1}}"
    assert identity(f"--space={other}") == identity()


def test_a_sweep_spelled_out_means_the_same_sweep():
    config = typed("--pruner.name=median", "--bowl.x=0.25")
    assert cli.parse(SWEEP, cli.arguments(config))[0] == config


# -- presets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_preset_fits_its_target(path: Path):
    tree = yaml.safe_load(path.read_text())
    target = find(tree["target"])
    experiment = sweeping(target)
    config, _ = cli.parse(experiment, ["--scale=smoke", f"--sweep={path.stem}"])
    assert set(tree) <= set(by_option(config)) | {"pruner", "sampler"}
    space.check(target, config)
    assert set(config.space) == set(tree["space"])


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_names_under_the_lines_of_a_preset_do_not_run_into_each_other(path: Path):
    target = find(yaml.safe_load(path.read_text())["target"])
    config, _ = cli.parse(sweeping(target), [f"--sweep={path.stem}"])
    names = dict.fromkeys(config.objectives, 1.0)
    point = {option: (*one.choices, one.low)[0] for option, one in config.space.items()}
    one = Tried(
        number=0, state="complete", point=point, values=names, run_id="", reused=False,
        seconds=0.0, last_step=None, attempt=1, why="",
    )  # fmt: skip
    found = Result(
        schema=1, target=target.name, objectives=config.objectives, sampler="tpe", pruner="none",
        best=[0], importance={key: {} for key in names}, trials=[one],
    )  # fmt: skip
    for key, figure in figures.all_of(found, config.space).items():
        if key.startswith("parallel"):
            boxes = [name.get_window_extent() for name in figure.axes[0].get_xticklabels()]
            assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_a_tuned_preset_stands_above_the_scale(tmp_path: Path):
    preset = tmp_path / "best.yaml"
    preset.write_text("train: {lr: 0.123}\n")
    train = find("train")
    for order in (["--scale=smoke", f"--tuned={preset}"], [f"--tuned={preset}", "--scale=smoke"]):
        config, _ = cli.parse(train, order)
        assert (config.train.lr, config.train.steps) == (0.123, 30)


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "tuned").glob("*.yaml")), ids=str)
def test_a_tuned_preset_sets_options_of_train(path: Path):
    config, _ = cli.parse(find("train"), ["--scale=smoke", f"--tuned={path.stem}"])
    plain, _ = cli.parse(find("train"), ["--scale=smoke"])
    assert config != plain


def test_a_preset_that_sets_what_is_no_option_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    preset = tmp_path / "mine.yaml"
    preset.write_text("target: train\ntrails: 3\n")
    monkeypatch.setattr("sys.argv", ["sweep", f"--sweep={preset}"])
    from papertrail.sweep.config import main

    with pytest.raises(SystemExit):
        main()
    assert "its preset sets trails, which is no option" in capsys.readouterr().err
