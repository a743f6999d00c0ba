"""One door from words to a config: what is typed arrives, and what cannot be used is said."""

import json
import shlex
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy import TOY, Part, ToyConfig

from papertrail.core.errors import BadInput
from papertrail.core.question import cli, layers

letters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
words = st.text(letters, max_size=30).filter(lambda text: text != "--")


def parsed(*argv: str) -> Any:
    return cli.parse(TOY, argv)[0]


def refusal(*argv: str) -> str:
    with pytest.raises(BadInput) as caught:
        cli.parse(TOY, argv)
    return str(caught.value)


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A conf folder of our own."""
    (tmp_path / "part").mkdir()
    (tmp_path / "scale" / "toys").mkdir(parents=True)
    (tmp_path / "toy.yaml").write_text("part: {size: 7}\nscale: small\n")
    (tmp_path / "part" / "huge.yaml").write_text("size: 1000\n")
    (tmp_path / "scale" / "small.yaml").write_text("part: {rate: 0.25}\nother: {x: 1}\n")
    (tmp_path / "scale" / "large.yaml").write_text("part: {rate: 2e-3}\nseed: 5\n")
    (tmp_path / "scale" / "toys" / "large.yaml").write_text("seed: 6\n")
    monkeypatch.setattr(layers, "CONF", tmp_path)
    return tmp_path


def test_words_of_one_and_of_two_parts_mean_the_same():
    assert parsed("--part.size=4") == parsed("--part.size", "4") == ToyConfig(part=Part(size=4))


@given(words)
def test_any_text_arrives_as_it_was_typed(text: str):
    assert parsed("--text", text).text == text


@pytest.mark.parametrize("text", ["-5", "--part.size", "null", "123", "[1, 2", "{a: 1}", "a=b", ""])
def test_text_that_looks_like_syntax_arrives_as_it_was_typed(text: str):
    assert parsed("--text", text).text == text


@given(st.builds(ToyConfig, part=st.builds(Part, rate=st.floats(0, 1)), text=words))
def test_arguments_mean_the_config_they_were_made_from(config: ToyConfig):
    assert cli.parse(TOY, cli.arguments(config))[0] == config


def test_help_for_an_option_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        cli.launch(TOY, ["--sed=3", "--help"])
    assert capsys.readouterr().err == "toy: no option sed; did you mean seed?\n"


def test_two_dashes_alone_are_refused_as_such():
    assert refusal("--text=--") == "text: two dashes alone are no value (--); give another"


@pytest.mark.parametrize("text", ["e\u0301.txt", "\uf9d4"])
def test_the_name_of_a_file_reaches_another_process_and_a_copied_line_as_it_is_on_disk(text: str):
    config = ToyConfig(text=text)
    assert unicodedata.normalize("NFC", text) != text == parsed(*cli.arguments(config)).text
    assert cli.command(TOY, config) == f"mlflow run . -e toy -P {shlex.quote(f'text={text}')}"


def test_layers_are_defaults_then_conf_then_presets_then_single_values(conf: Path):
    assert parsed() == ToyConfig(part=Part(size=7, rate=0.25))
    assert parsed("--scale=large") == ToyConfig(part=Part(size=7, rate=2e-3), seed=6)
    assert parsed("--part.size=2", "--part=huge").part == Part(size=2, rate=0.25)
    assert parsed("--scale=large", "--part=huge").part == Part(size=1000, rate=2e-3)


def test_a_study_adds_to_a_shared_scale(conf: Path):
    assert parsed("--scale=large").seed == 6


def test_another_conf_file_replaces_the_headline_one(conf: Path, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("part: {size: 9}\n")
    assert parsed("--config", str(tmp_path / "mine.yaml")).part.size == 9


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--part.sise=3"], "no option part.sise; did you mean part.size?"),
        (["--part.siz=3"], "no option part.siz; did you mean part.size?"),
        (["--part.size=three"], "part.size: expected a int (three)"),
        (["--part.rate=quick"], "part.rate: expected a float (quick)"),
        (["size"], "unexpected word (size); options are --key=value"),
        (["--text"], "text: no value was given; write --text=VALUE"),
        (["--scale=tiny"], "scale: no preset (tiny); conf/scale has large, small"),
        (["--part=small"], "part: no preset (small); conf/part has huge"),
        (["--run.mode=always"], "run.mode: expected a Literal['reuse', 'force', 'retry_failed'"),
        (["--config=none.yaml"], "config: no such file (none.yaml)"),
    ],
)
def test_what_cannot_be_used_is_one_line_with_where_what_and_value(
    conf: Path, argv: list[str], message: str
):
    found = refusal(*argv)
    assert found.startswith(message)
    assert "\n" not in found


def test_an_unknown_key_in_a_conf_file_names_the_file(conf: Path):
    (conf / "toy.yaml").write_text("part: {sise: 7}\n")
    assert refusal() == f"{conf / 'toy.yaml'}: no option part.sise; did you mean part.size?"


def run(*argv: str, entry: str = "hotflip") -> tuple[subprocess.CompletedProcess[str], float]:
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, f"entrypoints/{entry}.py", *argv],
        cwd=ROOT, env={"PYTHONPATH": "src", "PATH": ""}, capture_output=True, text=True, check=False
    )  # fmt: skip
    return done, time.monotonic() - begin


def test_a_typo_is_one_line_and_exit_code_2_and_touches_no_store(store_uri: str):
    done, _ = run("--attack.flps=3")
    assert done.returncode == 2
    assert done.stderr == "hotflip: no option attack.flps; did you mean attack.flips?\n"
    assert not done.stdout


def test_a_rule_between_options_is_one_line_too():
    done, _ = run("--model.width=130")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert (
        "model.width: must be a multiple of model.heads=4 (130); try model.width=128" in done.stderr
    )


def test_a_wrong_path_is_refused_before_anything_runs():
    done, _ = run("--data.text=no_such_file.txt")
    assert done.returncode == 2
    assert done.stderr.startswith("hotflip: data.text: no such file or folder")


def test_help_lists_every_option_with_its_meaning_and_default():
    done, _ = run("--help")
    assert done.returncode == 0
    from papertrail.monotone.config import HOTFLIP

    for option in cli.options_of(HOTFLIP):
        assert f"--{option}" in done.stdout, option
    assert "Annotated" not in done.stdout
    assert "default: 42" in done.stdout


def test_an_unknown_table_is_answered_with_the_list_of_tables():
    done, _ = run("--name=perplexity", entry="tables")
    assert done.returncode == 2
    assert "there are all_attacks, attack_success" in done.stderr


ADVERSARIAL = (
    "$(touch hacked)", "`touch hacked`", "; touch hacked", "&& touch hacked", "a\nb", "'", '"',
    "\\", "-x", "--part.size", "the the =!, x", "{config}", "%s", "*", "~", "#x",
    "\u00e9\u4e2d\U0001f600", " spaced ",
)  # fmt: skip


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow project whose only entry point writes down the text options it was given."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "MLproject").write_text(
        "name: echo\nentry_points:\n  echo:\n    parameters:\n      config: {type: path, "
        f'default: conf.yaml}}\n    command: "{sys.executable} echo.py --config {{config}}"\n'
    )
    (folder / "conf.yaml").write_text("{}\n")
    (folder / "echo.py").write_text(
        "import json, pathlib, sys\n"
        f"sys.path[:0] = [{str(ROOT / 'src')!r}, {str(ROOT / 'tests')!r}]\n"
        "from dataclasses import asdict\nfrom papertrail.core.question import cli\n"
        "from toy import ECHO\n"
        "config, _ = cli.parse(ECHO, sys.argv[1:])\n"
        "pathlib.Path('said.json').write_text(json.dumps(asdict(config)))\n"
    )
    return folder


def through_mlflow(echo: Path, texts: dict[str, str]) -> dict[str, str]:
    """What the entry point was told when a person typed `-P` for each of `texts`."""
    options = [word for key, text in texts.items() for word in ("-P", f"{key}={text}")]
    command = [sys.executable, "-m", "mlflow", "run", str(echo), "-e", "echo", *options]
    done = subprocess.run(
        [*command, "--env-manager", "local"], cwd=echo, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, str] = json.loads((echo / "said.json").read_text())
    return {key: said[key] for key in texts}


def test_no_adversarial_value_is_run_or_mangled_by_a_real_mlflow_run(store_uri: str, echo: Path):
    texts = {f"t{number:02d}": text for number, text in enumerate(ADVERSARIAL)}
    assert through_mlflow(echo, texts) == texts
    assert not (echo / "hacked").exists()


@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(words, min_size=18, max_size=18))
def test_any_values_survive_a_real_mlflow_run(store_uri: str, echo: Path, drawn: list[str]):
    texts = {f"t{number:02d}": text for number, text in enumerate(drawn)}
    assert through_mlflow(echo, texts) == texts
