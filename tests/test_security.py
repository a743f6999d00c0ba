"""Nothing that a run, a model or an archive brings along is executed or leaves its folder."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sheets import ARBITRARY, Page, sheet_of
from tiny import tiny
from toy import TOY, ToyConfig

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.paths import checked, inside
from papertrail.core.reading import query
from papertrail.core.storage.store import Store
from papertrail.core.training import keeper
from papertrail.core.training.fit import _take
from papertrail.core.writing import track
from papertrail.nn.language_model import from_pretrained
from papertrail.nn.loading import load
from papertrail.tables.render import to_html
from papertrail.tables.sheet import Column, measured, refused

SOURCES = sorted(
    path
    for folder in ("src", "entrypoints", "benchmarks", ".ci", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
PICKLES = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal", "jsonpickle"}
BETWEEN_PROCESSES = {"src/papertrail/core/training/ranks.py"}
"""A parent hands its job to a child that it started, through a pipe that nobody else has."""
LOADERS = ("AutoModelForCausalLM", "AutoTokenizer", "AutoConfig", "AutoModel")


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def calls(path: Path) -> Iterator[tuple[str, dict[str | None, str], int]]:
    """Dotted name, keywords as source text, and line of every call; `**` under the key None."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            words = {one.arg: ast.unparse(one.value) for one in node.keywords}
            yield ast.unparse(node.func), words, node.lineno


def of_sources(*folders: str) -> list[Path]:
    return [path for path in SOURCES if path.relative_to(ROOT).parts[0] in folders]


def test_no_module_reads_pickles_but_what_a_process_hands_to_its_child():
    users = set()
    for path in of_sources("src", "entrypoints", "benchmarks", ".ci"):
        for node in nodes(path):
            if isinstance(node, ast.Import):
                found = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names}
                found = {(node.module or "").partition(".")[0]}
                found = set() if names == {"UnpicklingError"} else found
            else:
                continue
            if found & PICKLES:
                users.add(path.relative_to(ROOT).as_posix())
    assert users == BETWEEN_PROCESSES


def test_tensors_are_loaded_without_code():
    for path in SOURCES:
        for name, words, line in calls(path):
            where = f"{path.relative_to(ROOT)}:{line}"
            if name == "torch.load" or "ckpt_path" in words:
                assert words.get("weights_only") == "True", where
            assert words.get("weights_only", "True") == "True", where
            assert words.get("allow_pickle", "False") == "False", where


def test_no_call_runs_code_that_came_with_data():
    for path in of_sources("src", "entrypoints", "benchmarks", ".ci"):
        for name, words, line in calls(path):
            where = f"{path.relative_to(ROOT)}:{line} {name}"
            assert "shell" not in words, where
            assert name not in ("eval", "exec", "os.system", "os.popen", "torch.hub.load"), where
            assert not name.endswith((".unpack_archive", ".extractall")), where
            if name.startswith("yaml."):
                assert name in ("yaml.safe_load", "yaml.safe_dump"), where
            if name.partition(".")[0] in LOADERS and name.endswith(".from_pretrained"):
                told = words.get("trust_remote_code") == "False" or "TRUSTED" in words.get(None, "")
                assert told or "**TRUSTED" in path.read_text(encoding="utf-8"), where
            assert words.get("trust_remote_code", "False") == "False", where


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_checkpoint_with_code_in_it_is_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    torch.save({"state_dict": {}, "more": Bomb(tmp_path / "ran")}, tmp_path / "step-00000002.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "step-00000001.ckpt")
    found = keeper.newest_good(tmp_path)
    assert found is not None and found.name == "step-00000001.ckpt"
    assert "step-00000002.ckpt cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_weights_with_code_in_them_are_not_taken(tmp_path: Path):
    bomb = {"state_dict": {}, "step": 1, "val/loss": Bomb(tmp_path / "ran")}
    torch.save(bomb, tmp_path / keeper.BEST)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        keeper.Keeper(tmp_path, 0, 1.0, lambda done: None, keep_best=True)
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        _take(L.LightningModule(), tmp_path / keeper.BEST)
    assert not (tmp_path / "ran").exists()


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as they were before safetensors."""
    folder = tmp_path_factory.mktemp("pickled")
    tiny("gpt_neox").save_pretrained(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_an_old_checkpoint_of_tensors_alone_is_loaded(pickled: Path):
    expected = tiny("gpt_neox").state_dict()
    found = from_pretrained(str(pickled)).state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_model_with_code_in_its_weights_is_refused(pickled: Path, tmp_path: Path):
    state = {"weight": torch.zeros(1), "more": Bomb(tmp_path / "ran")}
    (tmp_path / "model").mkdir()
    torch.save(state, tmp_path / "model/pytorch_model.bin")
    (tmp_path / "model/config.json").write_bytes((pickled / "config.json").read_bytes())
    with pytest.raises(BadInput, match="hold more than tensors"):
        from_pretrained(str(tmp_path / "model"))
    assert not (tmp_path / "ran").exists()


def test_code_that_lies_beside_a_model_is_not_run(tmp_path: Path):
    folder = tmp_path / "model"
    tiny("gpt_neox").save_pretrained(folder)
    (folder / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    told = json.loads((folder / "config.json").read_text())
    told["auto_map"] = {
        "AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(told))
    tokenizer = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert type(from_pretrained(str(folder))).__name__ == "GPTNeoXForCausalLM"
    with pytest.raises(Exception, match=r"."):  # it has no tokenizer but that one
        load(folder)
    assert not (tmp_path / "ran").exists()


@given(
    st.text()
    | st.lists(st.sampled_from(["a", "..", ".", "", "b c", "\\", "\0", "~"])).map("/".join)
)
def test_a_name_stays_in_its_folder_or_is_refused(name: str):
    folder = Path("/somewhere/folder")
    try:
        path = folder / checked(name)
    except BadInput:
        return
    assert Path(os.path.normpath(path)) == path and path.is_relative_to(folder) and path != folder


def test_a_link_that_leads_out_is_refused(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "folder/link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder/up").symlink_to(tmp_path)
    for name in ("link", "up/secret", "../secret", "/etc/passwd"):
        with pytest.raises(BadInput, match="folder"):
            inside(tmp_path / "folder", name)


LEAVING = replace(TOY, name="leaving", verb="test_security:leave")


def leave(config: ToyConfig) -> None:
    with track.file("note.txt") as path:
        path.write_text("x")
    track.artifact(Path(config.text), "results/../../..")


def test_an_artifact_is_neither_written_nor_read_outside_its_run(store: Store, tmp_path: Path):
    source = tmp_path / "mine.txt"
    source.write_text("mine")
    with pytest.raises(BadInput, match="leaves its folder"):
        require(LEAVING, ToyConfig(text=str(source)))
    assert [path.parent for path in tmp_path.rglob("mine.txt")] == [tmp_path]
    record = require(TOY, ToyConfig())
    (record.artifact("results") / "link.json").symlink_to(source)
    for name in ("../../../mine.txt", str(source), "results/link.json", "results/../../../x"):
        with pytest.raises(BadInput, match="name: lea"):
            record.artifact(name)
    assert query.by_id(record.run_id).artifact("results/toy.json").is_file()


HOSTILE = st.sampled_from(
    ["<script>alert(1)</script>", "</style><b>", "</title><i>", "\"'><img src=x onerror=y>",
     "<!--", "--><u>", "&lt;b&gt;", "javascript:x", "<svg/onload=x>", "]]><b>", "</table><td>"]
)  # fmt: skip


@given(ARBITRARY, HOSTILE, HOSTILE)
def test_a_report_has_the_tags_that_it_has_for_harmless_text(text, first, second):
    def page(text: str) -> Page:
        cells = (measured(1.0, note=text, runs=("a",)), refused(text, runs=("a", "b")))
        words = {"title": text, "caption": text, "footnotes": (text,), "name": text}
        columns = (Column(key="model", title=text), Column(key="x", title=text, help=text))
        more: Any = words | {"columns": columns, "provenance": {text: [text]}}
        return Page(to_html(sheet_of(*cells, **more)))

    hostile = page(f"x{text}{first}{second}")
    names = [(tag, sorted(attrs)) for tag, attrs in hostile.tags]
    assert names == [(tag, sorted(attrs)) for tag, attrs in page("x").tags]


def test_an_audit_that_could_ask_nobody_does_not_pass(monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed")
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    command = [sys.executable, str(ROOT / ".ci/audit_packages.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | nowhere
    )
    assert done.returncode == 3 and "1 of" in done.stdout
    assert len(done.stdout.splitlines()) == 1, done.stdout
