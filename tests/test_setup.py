"""Before the study: what is there, what is missing, and what it will take."""

import hashlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    OPTConfig,
    PreTrainedConfig,
    T5Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from papertrail.core import machine
from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standings
from papertrail.core.machine import Accelerator, Machine
from papertrail.core.question import cli
from papertrail.core.question.experiment import Question, narrow
from papertrail.core.storage import reach
from papertrail.core.storage.store import Store
from papertrail.data import enwik8
from papertrail.monotone import checks, estimate, footprint, inputs, prepare, weights
from papertrail.monotone.config import MONOTONE, TRAIN
from papertrail.monotone.options import BASELINE
from papertrail.monotone.plan import STAGES, plan
from papertrail.monotone.schemas import StudyConfig, TrainConfig
from papertrail.monotone.setup import SETUP, SetupConfig, amount
from papertrail.nn.language_model import LanguageModel, Optimization, Shape, from_shape
from papertrail.tables import cost
from papertrail.tables.catalog import Need
from papertrail.tables.planned import Planned

HERE = Machine(8_000_000_000, 6_000_000_000, 2, ())
GPU = Machine(8_000_000_000, 6_000_000_000, 2, (Accelerator("H100", 80_000_000_000, True),))
CLOSED = "http://127.0.0.1:9"
"""A port that nobody listens on: refuses at once."""


def study(*words: str) -> StudyConfig:
    return cli.parse(MONOTONE, list(words))[0]


def setup(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The entry point as a person starts it, with no hub to be reached unless told."""
    told = os.environ | {"HF_ENDPOINT": CLOSED, "PYTHONPATH": str(ROOT / "src")} | environment
    command = [sys.executable, "-P", str(ROOT / "entrypoints" / "setup.py"), *words]
    return subprocess.run(
        command, env=told, capture_output=True, text=True, check=False, timeout=120
    )


def state(found: Any, name: str) -> str:
    return next(check.state for check in found if check.name == name)


# -- parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "width", "rows"), [(1, 8, 300), (2, 32, 512), (3, 128, 4096)])
def test_nano_is_counted_as_the_model_that_is_trained(layers: int, width: int, rows: int):
    real = from_shape(Shape(layers=layers, width=width, heads=2, context=64), rows, 0)
    counted = estimate.gpt_neox(layers=layers, width=width, vocabulary=rows)
    assert counted.parameters == real.num_parameters()
    assert counted.multiplied == real.num_parameters() - real.get_input_embeddings().weight.numel()


@pytest.mark.parametrize(
    ("name", "parameters", "feed_forward"),
    [
        ("14m", 14_067_712, 786_432),
        ("31m", 30_494_720, 3_145_728),
        ("70m", 70_426_624, 12_582_912),
        ("160m", 162_322_944, 56_623_104),
        ("410m", 405_334_016, 201_326_592),
        ("1b", 1_011_781_632, 536_870_912),
        ("1.4b", 1_414_647_808, 805_306_368),
        ("2.8b", 2_775_208_960, 1_677_721_600),
    ],
)
def test_a_published_pythia_is_counted_from_its_name(name: str, parameters: int, feed_forward: int):
    for spelled in (f"EleutherAI/pythia-{name}", f"EleutherAI/pythia-{name}-deduped"):
        size = estimate.published(spelled)
        assert size is not None and size.parameters == parameters
        assert (
            size.constrained(replace(BASELINE, kind="softplus", scope="mlp_both")) == feed_forward
        )


@pytest.mark.parametrize("name", ["EleutherAI/pythia-12", "pythia-70m-v0", "gpt2", "pythia-6.9b"])
def test_a_size_that_is_not_known_is_not_made_up(name: str):
    assert estimate.published(name) is None


TINY: list[PreTrainedConfig] = [
    GPTNeoXConfig(vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                  intermediate_size=64),
    GPT2Config(vocab_size=90, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    OPTConfig(vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
              ffn_dim=48, word_embed_proj_dim=16, max_position_embeddings=32),
    LlamaConfig(vocab_size=90, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                num_key_value_heads=1, intermediate_size=40),
]  # fmt: skip


@pytest.mark.parametrize("described", TINY, ids=lambda one: one.model_type)
def test_a_model_is_measured_by_its_config_alone(described: PreTrainedConfig, tmp_path: Path):
    described.save_pretrained(tmp_path)
    real = AutoModelForCausalLM.from_config(described)
    scope = "gated_updown" if described.model_type == "llama" else "mlp_both"
    config = study(f"--constraint.scope={scope}")
    size, reason = weights.architecture(tmp_path, config)
    assert size is not None, reason
    assert size.parameters == real.num_parameters()
    assert size.vocabulary == 90 and size.layers == 2 and size.width == 16
    wide = {"gpt_neox": 64, "gpt2": 64, "opt": 48, "llama": 40}[described.model_type]
    assert size.feed_forward == wide
    assert size.tied == (real.get_input_embeddings().weight is real.get_output_embeddings().weight)


def test_an_architecture_that_is_not_supported_is_named_with_those_that_are(tmp_path: Path):
    small = {"vocab_size": 90, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    for described in (BloomConfig(**small), T5Config(d_model=16, num_layers=1, num_heads=2)):
        described.save_pretrained(tmp_path)
        size, reason = weights.architecture(tmp_path, study())
        assert size is None
        assert described.model_type in reason and "gpt_neox" in reason


def test_an_arm_that_an_architecture_does_not_have_is_found_before_training(tmp_path: Path):
    TINY[0].save_pretrained(tmp_path)
    arms = '--arms=["baseline", "monotone", "gated_all"]'
    size, reason = weights.architecture(tmp_path, study(arms))
    assert size is None and "gated_all" in reason and "mlp_both" in reason


# -- a local model ---------------------------------------------------------------------------------


def saved(folder: Path, **options: Any) -> Path:
    """A tiny model with its tokenizer, as save_pretrained leaves them."""
    from papertrail.data.corpus import train_bpe

    model = AutoModelForCausalLM.from_config(TINY[0])
    model.save_pretrained(folder, **options)
    train_bpe(["some text"], 300).save_pretrained(folder)
    return folder


def of_model(name: Path) -> Any:
    return weights.model(study(f"--model.name={name}"), reach.Hub())


def test_a_local_model_is_ok_with_its_size_and_what_it_is_stored_in(tmp_path: Path):
    taken, size = of_model(saved(tmp_path))
    assert taken.check.state == "ok" and taken.fetch is None
    assert size is not None and f"{size.parameters:,} parameters, stored as F32" in (
        taken.check.sentence
    )


@pytest.mark.parametrize("gone", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_local_model_that_lacks_a_file_is_missing_and_names_it(tmp_path: Path, gone: str):
    (saved(tmp_path) / gone).unlink()
    taken, _ = of_model(tmp_path)
    assert taken.check.state == "missing" and gone in taken.check.sentence


def test_a_shard_that_is_not_there_is_named(tmp_path: Path):
    shards = sorted(saved(tmp_path, max_shard_size="8KB").glob("model-*.safetensors"))
    assert len(shards) > 1 and weights.lacking(tmp_path) == []
    shards[1].unlink()
    assert weights.lacking(tmp_path) == [shards[1].name]


# -- the hub ---------------------------------------------------------------------------------------


def test_a_hub_that_cannot_be_reached_is_reported_in_seconds(store_uri: str, tmp_path: Path):
    begin = time.monotonic()
    done = setup("--scale=paper", HF_HOME=str(tmp_path))
    assert time.monotonic() - begin < 60  # imports on a busy machine; retries would take minutes
    assert done.returncode == 1
    lines = " ".join(done.stdout.split())
    assert "missing model EleutherAI/pythia-1.4b@main: no connection to the hub" in lines
    assert "1,414,647,808 parameters" in lines
    assert "missing text monology/pile-uncopyrighted@main: no connection to the hub" in lines
    assert "-P fetch=true" in lines and "data.text" in lines


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reach, "SECONDS", (0.3, 0.3))
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{port}")
        hub = reach.Hub()
        answers = [hub.ask("models", f"some/model{n}", "main") for n in range(20)]
        listening.setblocking(False)
        listening.accept()[0].close()
        with pytest.raises(BlockingIOError):
            listening.accept()
    assert {one.state for one in answers} == {"unreachable"}


class SmallHub(BaseHTTPRequestHandler):
    """The part of a model hub that a download asks: what is there, and files."""

    root: Path
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        """Tests print nothing."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        self.asked.append(self.path)
        name = "toys/tiny"
        files = {path.name: path for path in self.root.iterdir()}
        path = self.path.partition("?")[0]
        if path.startswith(f"/api/models/{name}/revision/"):
            listing = [{"rfilename": file, "size": at.stat().st_size} for file, at in files.items()]
            tree = {"id": name, "modelId": name, "sha": "a" * 40, "siblings": listing,
                    "private": False, "downloads": 0, "likes": 0, "tags": []}  # fmt: skip
            return self.reply(200, json.dumps(tree).encode(), {}, body)
        if path.startswith(f"/api/models/{name}/tree/"):
            tree = [{"type": "file", "path": file, "size": at.stat().st_size,
                     "oid": hashlib.sha1(at.read_bytes()).hexdigest()}
                    for file, at in files.items()]  # fmt: skip
            return self.reply(200, json.dumps(tree).encode(), {}, body)
        if path.startswith(f"/{name}/resolve/") and path.rpartition("/")[2] in files:
            content = files[path.rpartition("/")[2]].read_bytes()
            tag = hashlib.sha1(content).hexdigest()
            facts = {"ETag": f'"{tag}"', "X-Repo-Commit": "a" * 40}
            return self.reply(200, content, facts, body)
        return self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound"}, body)

    def reply(self, code: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(code)
        kind = "application/json" if content[:1] in (b"{", b"[") else "application/octet-stream"
        for key, value in {"Content-Type": kind, **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def small_hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    asked: list[str] = []
    handler = type("Handler", (SmallHub,), {"root": folder, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def test_fetch_brings_a_model_of_the_hub_into_its_cache(
    store_uri: str, tmp_path: Path, smoke: list[str]
):
    home = tmp_path / "home"
    words = [*smoke, "--model.name=toys/tiny", '--benchmarks.tasks=["lambada"]']
    with small_hub(saved(tmp_path / "tiny")) as (address, _):
        before = setup(*words, HF_ENDPOINT=address, HF_HOME=str(home))
        fetched = setup(*words, "--fetch=true", HF_ENDPOINT=address, HF_HOME=str(home))
    after = setup(*words, HF_HOME=str(home))
    told = [" ".join(one.stdout.split()) for one in (before, fetched, after)]
    assert "warning model toys/tiny@main" in told[0] and "-P fetch=true downloads it" in told[0]
    assert before.returncode == 0, before.stderr
    for text in told[1:]:
        assert "ok model toys/tiny@main in the hub's cache: " in text
    assert after.returncode == 0, after.stderr


def test_a_repository_that_is_not_there_is_told_from_a_hub_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with small_hub(tmp_path) as (address, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        assert reach.Hub().ask("models", "toys/other", "main").state == "absent"
        assert reach.Hub().ask("models", "toys/tiny", "main").state == "there"


# -- data in packages ------------------------------------------------------------------------------


@pytest.fixture
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no package index; answers the folder that pip may look in instead."""
    links = tmp_path / "links"
    links.mkdir()
    monkeypatch.setenv("PAPERTRAIL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    return links


def text_of(config: StudyConfig) -> Any:
    return next(
        one for one in inputs.inputs(config, reach.Hub(), "")[0] if one.check.name == "text"
    )


def test_an_archive_that_cannot_be_had_is_named_with_the_folder_it_belongs_into(no_index: Path):
    taken = text_of(study("--data.text=enwik8"))
    assert taken.check.state == "missing"
    assert enwik8.ASSET.filename in taken.check.sentence
    assert str(no_index.parent / "cache") in taken.check.sentence
    assert "data.text" in taken.check.sentence


def test_an_archive_that_an_index_lists_will_be_downloaded(no_index: Path):
    (no_index / enwik8.ASSET.filename).write_bytes(b"not looked into")
    taken = text_of(study("--data.text=enwik8"))
    assert taken.check.state == "warning" and taken.fetch is not None


def test_a_damaged_archive_in_the_cache_does_not_count(no_index: Path):
    from papertrail.core.cache import cache_folder

    (cache_folder() / enwik8.ASSET.filename).write_bytes(b"half of it")
    assert text_of(study("--data.text=enwik8")).check.state == "missing"


def test_a_whole_archive_in_the_cache_counts(no_index: Path, monkeypatch: pytest.MonkeyPatch):
    from papertrail.core.cache import cache_folder

    content = b"all of it"
    whole = replace(enwik8.ASSET, sha256=hashlib.sha256(content).hexdigest())
    (cache_folder() / whole.filename).write_bytes(content)
    monkeypatch.setattr(enwik8, "ASSET", whole)
    taken = text_of(study("--data.text=enwik8"))
    assert taken.check.state == "ok" and taken.fetch is None


def test_a_set_that_no_package_carries_is_a_warning_as_the_study_goes_on_without_it(no_index: Path):
    asked = study("--scale=smoke", '--benchmarks.tasks=["truthfulqa", "lambada"]')
    alone = study("--scale=smoke", '--benchmarks.tasks=["truthfulqa"]')
    found = [[one.check for one in inputs.inputs(c, reach.Hub(), "")[0]] for c in (asked, alone)]
    assert state(found[0], "benchmark truthfulqa") == "warning"
    assert state(found[0], "benchmark lambada") == "missing"
    assert state(found[1], "benchmark truthfulqa") == "missing"


def test_what_cannot_be_fetched_is_said_and_the_rest_is_fetched(
    no_index: Path, capsys: pytest.CaptureFixture[str]
):
    done: list[str] = []
    gone = inputs._archive("text", "it", enwik8.ASSET, [], "data.text")
    there = replace(gone, fetch=lambda: done.append("there"))
    prepare.fetch([gone, there])
    assert done == ["there"]
    assert enwik8.ASSET.filename in capsys.readouterr().err


# -- memory and disk -------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("layers", [2, 5])
def test_activations_are_estimated_as_a_training_step_keeps_them(
    layers: int, autocast: bool, checkpointing: bool
):
    """Every tensor that autograd keeps in a real step, each storage once, no parameter."""
    width, rows, batch, window = 64, 128, 4, 65
    model = from_shape(Shape(layers=layers, width=width, heads=4, context=64), rows, 0)
    optimization = Optimization(lr=1e-3, free_lr=1e-3, weight_decay=0.0, warmup_fraction=0.1)
    module = LanguageModel(model, optimization, checkpointing).train()
    weights_at = {one.untyped_storage().data_ptr() for one in model.parameters()}
    kept: list[torch.Tensor] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        module.nll(torch.zeros(batch, window, dtype=torch.long))
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in kept}
    held = sum(size for at, size in storages.items() if at not in weights_at)
    size = estimate.gpt_neox(layers=layers, width=width, vocabulary=rows)
    config = study(
        f"--train.batch_size={batch}", f"--train.window={window - 1}",
        f"--compute.gradient_checkpointing={str(checkpointing).lower()}",
        f"--compute.precision={'bf16-mixed' if autocast else '32-true'}",
    )  # fmt: skip
    need = footprint.training_memory(config, config.train, size, 0)
    if checkpointing:  # of one block, while it is computed again
        one = footprint.LAYER_ACTIVATIONS * width * 4 * batch * (window - 1)
        held += one * (footprint.AUTOCAST_SHARE if autocast else 1)
    elif autocast:
        held -= 2 * size.multiplied  # low-precision copies of the weights count as state
    assert need.activations == pytest.approx(held, rel=0.15)


def test_weights_gradients_and_moments_are_counted_as_adamw_holds_them():
    model = from_shape(Shape(layers=2, width=32, heads=2, context=64), 300, 0)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.zeros(1, 8, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    held = sum(one.nbytes + one.grad.nbytes for one in model.parameters() if one.grad is not None)
    held += sum(
        value.nbytes for one in optimizer.state.values() for value in one.values() if value.ndim
    )
    size = estimate.gpt_neox(layers=2, width=32, vocabulary=300)
    need = footprint.training_memory(study(), study().train, size, 0)
    assert need.state == held


def test_a_constrained_matrix_exists_twice_and_a_share_of_it_under_fsdp():
    size = estimate.gpt_neox(layers=2, width=32, vocabulary=300)
    config = study()
    plain = footprint.training_memory(config, config.train, size, 0).state
    assert footprint.training_memory(config, config.train, size, 1000).state == plain + 4000
    shared = replace(config, compute=replace(config.compute, devices=2, strategy="fsdp"))
    assert footprint.training_memory(shared, config.train, size, 0).state == plain / 2


def need(gigabytes: float, what: str = "training") -> footprint.Memory:
    return footprint.Memory(what, 0.8e9 * gigabytes, 0.2e9 * gigabytes)


def test_memory_is_missing_exactly_where_more_is_needed_than_there_is():
    config = study()

    @settings(deadline=None, max_examples=50)
    @given(st.floats(0.1, 100), st.floats(0.1, 100))
    def holds(wanted: float, there: float) -> None:
        total = int(there * 1e9)
        told = checks.fits(need(wanted), total, total, "RAM", config)
        assert (told.state == "missing") == (need(wanted).total > total)
        if told.state == "ok":
            assert need(wanted).total <= 0.9 * total

    holds()


def test_too_little_memory_says_what_makes_the_step_smaller():
    activations = footprint.Memory("training", 1e9, 9e9)
    plain, checkpointed = study(), study("--compute.gradient_checkpointing=true")
    assert "compute.gradient_checkpointing=true" in told_of(activations, plain)
    assert "compute.accumulate (now 1)" in told_of(activations, checkpointed)
    assert "smaller model" in told_of(need(10), plain)
    assert "load.quantization=int8" in told_of(need(10, "attacks"), plain)


def told_of(memory: footprint.Memory, config: StudyConfig) -> str:
    check = checks.fits(memory, 5_000_000_000, 5_000_000_000, "RAM", config)
    assert check.state == "missing"
    return check.sentence


def test_memory_that_others_use_now_is_a_warning():
    assert checks.fits(need(4), 8_000_000_000, 2_000_000_000, "RAM", study()).state == "warning"


def test_a_model_is_held_against_the_memory_of_the_device_that_takes_it():
    large = estimate.published("pythia-1.4b")
    paper = study("--scale=paper")
    assert checks.memory_check(paper, large, HERE).state == "missing"
    assert checks.memory_check(paper, large, GPU).state == "ok"
    on_cpu = replace(paper, compute=replace(paper.compute, accelerator="cpu"))
    assert checks.memory_check(on_cpu, large, GPU).state == "missing"
    assert checks.memory_check(paper, None, GPU).state == "warning"


@pytest.mark.parametrize(
    ("words", "here", "expected"),
    [
        ([], HERE, "ok"),
        (["--compute.accelerator=gpu"], HERE, "missing"),
        (["--compute.precision=bf16-mixed"], HERE, "warning"),
        (["--compute.precision=bf16-mixed"], GPU, "ok"),
        (["--compute.devices=2"], GPU, "missing"),
    ],
)
def test_the_device_suits_what_is_asked_of_it(words: list[str], here: Machine, expected: str):
    assert checks.device_check(study(*words), None, here).state == expected


def test_an_old_gpu_does_not_multiply_bfloat16():
    old = replace(GPU, accelerators=(Accelerator("V100", 16_000_000_000, False),))
    told = checks.device_check(study("--compute.precision=bf16-mixed"), None, old)
    assert told.state == "warning" and "compute.precision=16-mixed" in told.sentence


def disk(*num_bytes: float | None) -> list[checks.DiskNeed]:
    return [checks.DiskNeed(f"thing {n}", Path(), one) for n, one in enumerate(num_bytes)]


def test_all_that_goes_to_one_disk_is_held_against_it_together():
    assert checks.disk_check(disk(4e9, 4e9), 10_000_000_000).state == "ok"
    assert checks.disk_check(disk(4e9, 5.5e9), 10_000_000_000).state == "warning"
    full = checks.disk_check(disk(4e9, 7e9), 10_000_000_000)
    assert full.state == "missing"
    assert "10 GB free" in full.sentence and "about 11 GB needed" in full.sentence
    assert "MLFLOW_TRACKING_URI" in full.sentence
    assert checks.disk_check(disk(4e9, None), 10_000_000_000).state == "warning"


def test_folders_are_grouped_by_the_disk_that_they_would_be_on(tmp_path: Path):
    needs = [checks.DiskNeed(name, tmp_path / name / "deeper", 1e3) for name in ("a", "b")]
    assert len(checks.disk_checks(needs)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_container_s_limit_is_read_where_there_is_one(tmp_path: Path):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "set").write_text("4096000\n")
    files = (tmp_path / "max", tmp_path / "set", tmp_path / "not there")
    assert machine._limits(files) == [4096000]


def test_this_machine_multiplies_at_a_speed_that_it_can_have():
    speed = machine.operations_per_second(512, 128, 512, "float32")
    assert 1e8 < speed < 1e15


@pytest.mark.parametrize(
    ("num_bytes", "told"), [(50_000, "50 kB"), (83e6, "83 MB"), (45.6e9, "45.6 GB")]
)
def test_bytes_are_spoken_as_people_say_them(num_bytes: float, told: str):
    assert amount(num_bytes) == told


# -- software and store ----------------------------------------------------------------------------


def test_packages_are_held_against_their_pins():
    assert checks.packages_check("# pins\npytest==0.1\n").state == "warning"
    gone = checks.packages_check("no-such-package==1.0\npytest==0.1\n")
    assert gone.state == "missing" and "no-such-package==1.0" in gone.sentence
    pin = torch.__version__.partition("+")[0]
    assert checks.packages_check(f"torch=={pin}\n\njsonargparse[signatures]==4.53.0").state == "ok"


def test_an_interpreter_that_is_too_old_is_missing():
    project = ROOT / "pyproject.toml"
    assert checks.python_check(project).state == "ok"
    assert checks.python_check(project, (3, 10, 9)).state == "missing"


def test_a_database_that_somebody_keeps_locked_is_no_place_for_runs(
    store_uri: str, monkeypatch: pytest.MonkeyPatch
):
    assert checks.store_check(reach.tracking()).state == "ok"
    monkeypatch.setattr(reach, "LOCKED_SECONDS", 0.1)
    with closing(sqlite3.connect(store_uri.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        told = checks.store_check(reach.tracking())
    assert told.state == "missing" and "locked" in told.sentence


@pytest.mark.parametrize("uri", [CLOSED, "postgresql://127.0.0.1:9/runs"])
def test_a_server_that_does_not_answer_is_said_at_once(uri: str):
    begin = time.monotonic()
    told = checks.store_check(reach.tracking(uri))
    assert told.state == "missing" and "MLFLOW_TRACKING_URI" in told.sentence
    assert time.monotonic() - begin < 5


# -- the plan --------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, tuple[int, str]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
    }


def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smoke: list[str]
):
    place = tmp_path / "store"
    place.mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    found = checks.look(study(*smoke))
    assert state(found.checks, "store") == "ok"
    assert len(found.plan.missing) == len(found.plan.runs) > 10
    assert list(place.iterdir()) == []


def test_every_run_of_the_study_belongs_to_one_stage(store: Store, smoke: list[str]):
    config = study(*smoke, "--seeds=[1, 2]", '--arms=["baseline", "monotone", "matched"]')
    found = plan(config, store)
    digests = [one.digest for one in found.runs]
    assert len(set(digests)) == len(digests)
    counts = {stage.name: sum(stage.states.values()) for stage in found.stages()}
    assert sum(counts.values()) == len(digests)
    assert list(counts) == list(STAGES)
    assert counts["0_setup"] == 3  # one corpus, a pretraining for each seed
    assert counts["2_train_baseline"] == 2 and counts["3_train_monotonic"] == 4
    assert counts["7_aggregate"] == 1


def trained(config: StudyConfig, store: Store) -> Any:
    one = narrow(config, TrainConfig, seed=config.seeds[0], constraint=BASELINE)
    return require(TRAIN, one, store=store)


@pytest.fixture
def half_done(store: Store, smoke: list[str]) -> tuple[StudyConfig, Any]:
    """A study of which the corpus, the small model and the baseline stand."""
    config = study(*smoke, "--train.steps=4", "--pretrain.steps=4")
    return config, trained(config, store)


def test_what_stands_is_counted_and_costs_nothing_more(
    half_done: tuple[StudyConfig, Any], store: Store
):
    config, record = half_done
    size = estimate.gpt_neox(layers=2, width=32, vocabulary=512)
    found = plan(config, store, size)
    stages = {stage.name: stage for stage in found.stages(1e9)}
    assert stages["0_setup"].states == {"finished": 2}
    assert stages["2_train_baseline"].states == {"finished": 1}
    assert stages["2_train_baseline"].prices == ()
    assert stages["3_train_monotonic"].states == {"missing": 1}
    # The other arm has a finished sibling of its size, the attacks have none.
    assert stages["3_train_monotonic"].count("finished runs") == 1
    assert stages["6_hotflip"].count("arithmetic") == stages["6_hotflip"].states["missing"]

    # the same plan as the tables make
    top = Question(MONOTONE, config)
    planned = [Planned(Need({}, top), standings([top], store)[0])]
    told = cost.forecast(planned, store)
    assert {one.digest for one in found.missing} == set(told.missing)
    assert told.total().seconds == sum(stage.seconds("finished runs") for stage in stages.values())

    # storage: the finished run's artifacts against what was predicted for it
    folder = record.artifact("config.yaml").parent
    kept = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    question = Question(TRAIN, narrow(config, TrainConfig, seed=42, constraint=BASELINE))
    assert footprint.stored(question, size) == pytest.approx(kept, rel=0.2)

    # a larger model has no sibling here: its time is not that of the small one
    wider = replace(config, model=replace(config.model, width=64))
    prices = {stage.name: stage for stage in plan(wider, store, size).stages(1e9)}
    assert prices["2_train_baseline"].count("finished runs") == 0
    assert prices["2_train_baseline"].count("arithmetic") == 1


def test_nothing_is_written_to_the_store(
    half_done: tuple[StudyConfig, Any],
    store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    config, _ = half_done
    before = contents(tmp_path)
    words = ["--config", str(ROOT / "conf" / "setup.yaml"), *cli.arguments(config)]
    with pytest.raises(SystemExit) as ended:
        cli.launch(SETUP, [*words, "--benchmarks.source=hub", "--model.name=some/model"])
    assert ended.value.code == 1
    assert contents(tmp_path) == before
    assert "missing  model" in capsys.readouterr().out


def test_operations_follow_the_rule_of_six_per_parameter_and_token():
    size = estimate.gpt_neox(layers=6, width=512, vocabulary=50_304)
    config = study("--train.window=128")
    one = narrow(config, TrainConfig, seed=1, constraint=BASELINE)
    steps = replace(one, train=replace(one.train, steps=10_000, validation_windows=1))
    tokens = 10_000 * 16 * 128
    operations = estimate.operations(Question(TRAIN, steps), size)
    assert operations == pytest.approx(6 * size.multiplied * tokens, rel=0.05)
    again = replace(steps, compute=replace(steps.compute, gradient_checkpointing=True))
    more = estimate.operations(Question(TRAIN, again), size)
    assert operations is not None and more == pytest.approx(8 / 6 * operations, rel=0.01)


def test_times_say_where_they_come_from():
    from papertrail.monotone.plan import Price

    told = [Price("finished runs", 45.0, 1.0), Price("arithmetic", 7200.0, 1.0)]
    assert prepare.spoken(told) == "45 s + 2 h*"
    assert prepare.spoken([*told, Price("unknown", 0.0, None)]).endswith("unknown for 1 run")
    assert prepare.spoken([]) == "-"


# -- the command -----------------------------------------------------------------------------------


def test_a_ready_machine_is_exit_code_0_and_a_bad_option_2(
    store_uri: str, tmp_path: Path, smoke: list[str]
):
    told = tmp_path / "told.json"
    ready = setup(*smoke, f"--json={told}", '--benchmarks.tasks=["lambada"]')
    assert ready.returncode == 0, ready.stdout + ready.stderr
    tree = json.loads(told.read_text())
    assert {check["state"] for check in tree["checks"]} <= {"ok", "warning"}
    assert [stage["stage"] for stage in tree["stages"]] == list(STAGES)
    assert all(stage["seconds"]["arithmetic"] > 0 for stage in tree["stages"])
    assert "by arithmetic, as no run of this size has finished" in ready.stdout
    bad = setup(*smoke, '--arms=["monotone"]')
    assert bad.returncode == 2
    assert bad.stderr.startswith("setup: arms: must begin with baseline")
    assert setup(*smoke, "--json=/no/such/folder/told.json").returncode == 2


def test_stage_0_of_the_study_takes_two_seconds_and_no_torch(store_uri: str, smoke: list[str]):
    code = (
        "import sys, time; from papertrail.core.question import cli;"
        "from papertrail.monotone.config import MONOTONE;"
        "from papertrail.monotone.checks import checks;"
        f"config = cli.parse(MONOTONE, {smoke!r})[0]; begin = time.process_time();"
        "found = checks(config);"
        "print(time.process_time() - begin, 'torch' in sys.modules, len(found))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    seconds, torch_loaded, num_checks = done.stdout.split()
    assert float(seconds) < 2 and torch_loaded == "False" and int(num_checks) > 8


def test_the_options_of_setup_are_those_of_the_study_and_three_more():
    ours, theirs = (set(cli.options_of(one)) for one in (SETUP, MONOTONE))
    assert ours - theirs == {"fetch", "json", "tracking"}  # the study has run.tracking
    assert {name for name in theirs - ours if not name.startswith("run.")} == set()
    assert SetupConfig().fetch is False
