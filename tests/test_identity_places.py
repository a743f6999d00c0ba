"""An identity does not depend on where things lie, how they are called, and who asks."""

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from told import EXPERIMENT, Config, told
from toy import TOY, Part, ToyConfig

from papertrail.core.question import cli
from papertrail.core.question.identity import canonical, identify
from papertrail.data.config import CORPUS
from papertrail.monotone.config import PRETRAIN

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for letter in "ab":
        (folder / f"{letter}.txt").write_bytes(f"{letter} line\n".encode() * 3000)
    return folder


def of_text(name: str | Path, *argv: str) -> str:
    words = [f"--data.text={name}", *argv]
    return identify(PRETRAIN, cli.parse(PRETRAIN, words)[0]).digest


def test_a_folder_is_one_identity_however_it_is_named(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "link").symlink_to(texts)
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(texts, tmp_path / "copy")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names = [texts, f"{texts}/", "texts", "./texts/", "link", "link/", "~/texts", "copy", "copy/."]
    found = {of_text(name) for name in names}
    monkeypatch.chdir(tmp_path / "elsewhere")
    found |= {of_text("../texts"), of_text(texts)}
    monkeypatch.chdir(texts)
    assert len(found | {of_text(".")}) == 1


def test_line_ends_in_the_data_are_part_of_it(texts: Path):
    before = of_text(texts)
    file = texts / "a.txt"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert of_text(texts) != before


def test_data_changed_at_the_same_size_and_time_is_another_identity(texts: Path):
    file = texts / "a.txt"
    times = file.stat()
    before = of_text(texts)
    file.write_bytes(file.read_bytes().replace(b"a", b"c"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file.stat().st_size == times.st_size
    assert of_text(texts) != before


def test_accents_in_file_names_have_one_order_composed_and_decomposed(tmp_path: Path):
    found = set()
    for form, accent in (("nfc", COMPOSED), ("nfd", DECOMPOSED)):
        folder = tmp_path / form / f"caf{accent}"
        folder.mkdir(parents=True)
        for name in (accent, "d", "f"):
            (folder / f"{name}.txt").write_text(unicodedata.normalize("NFC", name))
        found.add(of_text(folder))
    assert len(found) == 1


def test_a_model_is_one_identity_wherever_its_folder_lies(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"w" * 50_000)
    (model / "config.json").write_text("{}")
    (tmp_path / "link").symlink_to(model)
    shutil.copytree(model, tmp_path / "copy")
    monkeypatch.chdir(tmp_path)
    names = [model, f"{model}/", "model", "link", "copy", "./copy/"]
    assert len(found := {of_text(texts, f"--model.name={name}") for name in names}) == 1
    (model / "model.safetensors").write_bytes(b"v" * 50_000)
    assert of_text(texts, "--model.name=model") not in found
    assert of_text(texts, "--model.name=copy") in found


def test_a_moved_module_a_renamed_class_and_another_machine_keep_it(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "other.py").write_text(
        "from dataclasses import dataclass, field\n"
        "from papertrail.core.question.experiment import Experiment\n"
        "from papertrail.core.question.identity import identify\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Piece:\n    rate: float = 0.5\n    size: int = 3\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Renamed:\n    device: str = 'x'\n    seed: int = 0\n    text: str = ''\n"
        "    do: str = 'finish'\n    part: Piece = field(default_factory=Piece)\n"
        "TOY = Experiment(name='toy', study='moved', schema=Renamed, verb='other:verb',\n"
        "                 infrastructure=('device',))\n"
        "print(identify(TOY, Renamed()).digest)\n"
    )
    done = subprocess.run(
        [sys.executable, "other.py"], cwd=tmp_path / "elsewhere", text=True, capture_output=True,
        check=True,
        env={
            "PYTHONPATH": str(ROOT / "src"), "HOSTNAME": "another", "USER": "another",
            "MLFLOW_TRACKING_URI": "http://another", "TZ": "Asia/Tokyo", "LC_ALL": "C",
        },
    )  # fmt: skip
    assert done.stdout.strip() == identify(TOY, ToyConfig()).digest


def test_the_config_of_a_real_run_asks_the_same_question_again(store_uri: str):
    from papertrail.core.answering.require import require

    config = ToyConfig(
        part=Part(size=2**53 + 1, rate=1e-5), text=f"no: 'x'\r\n{DECOMPOSED} 1e-4 #", seed=3
    )
    record = require(TOY, config)
    again, _ = cli.parse(TOY, [f"--config={record.artifact('config.yaml')}"])
    assert identify(TOY, again).digest == identify(TOY, config).digest
    assert require(TOY, again).run_id == record.run_id


@pytest.mark.parametrize("text", ["no", "null", "~", "1e-4", "0123", "12:30:00", "2024-01-01", ""])
def test_text_that_yaml_takes_for_something_else_survives_config_yaml(tmp_path: Path, text: str):
    config = Config(
        text=text,
        names={text},
        numbers={text: 1e-5},
        rates=(1e-5, 5e-324),
        free={"a": [1, 2.5, None, {"b": True}], "n": 3},
    )
    path = tmp_path / "config.yaml"  # as `track` writes it
    path.write_text(yaml.safe_dump(canonical(config), allow_unicode=True, sort_keys=False))
    assert told(f"--config={path}") == identify(EXPERIMENT, config).digest


def test_the_corpus_does_not_depend_on_the_path_of_a_tokenizer(tmp_path: Path, texts: Path):
    found = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text("{}")
        words = [f"--data.text={texts}", f"--data.tokenizer={tmp_path / name}"]
        found.add(identify(CORPUS, cli.parse(CORPUS, words)[0]).digest)
    assert len(found) == 1
