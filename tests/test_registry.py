"""A trained model under a name: what it computes, whose it is, when it is no answer any more."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tiny import IDS, tiny
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from toy import TOY, ToyConfig
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput, Missing
from papertrail.core.question.identity import identify
from papertrail.core.reading import address, query, registry
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store, connect
from papertrail.core.writing import track
from papertrail.monotone.config import TRAIN, data_digests
from papertrail.monotone.models import starting_point
from papertrail.monotone.options import Model
from papertrail.monotone.schemas import TrainConfig
from papertrail.nn import loading, nonnegative
from papertrail.nn.language_model import from_pretrained
from papertrail.records import archive, verdict
from papertrail.records import registry as registering
from papertrail.records.commands import (
    EXPORT,
    IMPORT,
    REGISTER,
    Archive,
    Exporting,
    Invalidation,
    Registration,
)

MODEL = replace(TOY, name="model", verb="test_registry:export")
"""Exports a monotone model with random weights, another one for each seed."""
BORROWER = replace(TOY, name="borrower", verb="test_registry:borrow")
ADDRESS = "models:/toys.model@seed0"


def monotone(seed: int) -> torch.nn.Module:
    model = tiny("gpt_neox")
    nonnegative.constrain(model, "mlp_both", "abs", "softplus")
    for p in model.parameters():
        p.data += seed / 100
    return model


def export(config: ToyConfig) -> None:
    words = {"<end>": 0} | {f"w{n}": n for n in range(1, 50)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<end>")), eos_token="<end>"
    )
    folder = track.run().folder / "model"
    nonnegative.export(monotone(config.seed), folder, tokenizer)  # type: ignore[arg-type]
    track.artifacts(folder, "model")
    if config.do == "fail a gate":
        track.gate("good", False, "it is not")


def borrow(config: ToyConfig) -> None:
    starting_point(train_config(config.text))


def train_config(name: str) -> TrainConfig:
    return replace(TrainConfig(), model=Model(name=name))


def register(**options: object) -> None:
    registering.answer(REGISTER, Registration(**options), None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Named:
    store: Store
    record: Record


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    """The toys are experiments of no study; here they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registering, "experiments", lambda: {"model": MODEL, "toy": TOY})
        yield


def with_a_model(store: Store) -> Named:
    record = require(MODEL, ToyConfig())
    register(run=record.run_id)
    return Named(store, record)


@pytest.fixture
def named(store: Store) -> Named:
    """A store of its own in which one model is registered."""
    return with_a_model(store)


@pytest.fixture(scope="module")
def shared(known: None, module_store: Store) -> Named:
    """One that several tests only read."""
    return with_a_model(module_store)


def test_from_pretrained_alone_loads_it_and_computes_the_same(shared: Named):
    expected = monotone(0)(IDS).logits
    folder = registry.find(ADDRESS).folder
    assert {path.name for path in folder.iterdir()} >= {"config.json", "tokenizer.json"}
    assert [path.name for path in folder.glob("*.safetensors")] == ["model.safetensors"]
    torch.testing.assert_close(
        AutoModelForCausalLM.from_pretrained(folder)(IDS).logits, expected, rtol=0, atol=0
    )
    torch.testing.assert_close(from_pretrained(ADDRESS)(IDS).logits, expected, rtol=0, atol=0)
    model, tokenizer = loading.load(ADDRESS)
    torch.testing.assert_close(model(IDS).logits, expected, rtol=0, atol=0)
    assert tokenizer.vocab_size == 50


def test_mlflow_itself_finds_the_same_files(shared: Named, tmp_path: Path):
    import mlflow

    uri = shared.store.uri
    folder = mlflow.artifacts.download_artifacts(
        ADDRESS, dst_path=str(tmp_path), tracking_uri=uri, registry_uri=uri
    )
    names = {path.name for path in Path(folder).rglob("*") if path.is_file()}
    assert names == set(registry.find(ADDRESS).files)


def test_registering_again_changes_nothing(named: Named, capsys: pytest.CaptureFixture[str]):
    capsys.readouterr()
    register(run=named.record.run_id)
    said = capsys.readouterr()
    assert "version 1" in said.out and "->" not in said.err
    versions = registry.versions_of(named.store, "toys.model")
    assert versions is not None and [int(one.version) for one in versions] == [1]
    assert registry.aliases_of(named.store, "toys.model") == {"seed0": 1, "newest": 1}
    assert named.record.artifact("manifest.json").exists() and not named.record.unusable()


def test_each_seed_is_a_version_and_the_newest_has_an_alias(named: Named):
    other = require(MODEL, ToyConfig(seed=1))
    register(run=other.run_id)
    assert registry.aliases_of(named.store, "toys.model") == {"seed0": 1, "seed1": 2, "newest": 2}
    assert registry.find("models:/toys.model@newest").record.run_id == other.run_id
    assert registry.find("models:/toys.model/1").record.run_id == named.record.run_id
    assert registry.addresses(named.store) == [
        "toys.model@newest", "toys.model@seed0", "toys.model@seed1"
    ]  # fmt: skip


def test_an_alias_is_taken_from_another_run_only_when_told_to(named: Named):
    other = require(MODEL, ToyConfig(text="another"))
    with pytest.raises(BadInput, match=f"seed0 is run {named.record.run_id}; .*move=true"):
        register(run=other.run_id)
    register(run=other.run_id, move=True)
    assert registry.find(ADDRESS).record.run_id == other.run_id


def test_a_moved_alias_is_another_question_and_a_copied_folder_is_not(
    named: Named, text_file: Path, tmp_path: Path
):
    def question(name: str) -> str:
        config = train_config(name)
        return identify(
            TRAIN, replace(config, data=replace(config.data, text=str(text_file)))
        ).digest

    before = question(ADDRESS)
    assert before == question("models:/toys.model/1") == question("models:/toys.model@newest")
    copy = shutil.copytree(registry.find(ADDRESS).folder, tmp_path / "copy")
    assert question(str(copy)) == before
    register(run=require(MODEL, ToyConfig(seed=1)).run_id, alias="seed0", move=True)
    assert question(ADDRESS) != before


def test_a_run_that_begins_with_it_was_built_on_its_run(named: Named):
    record = require(BORROWER, ToyConfig(text=ADDRESS))
    assert record.tags["papertrail.parents"] == named.record.run_id
    verdict.invalidate(None, Invalidation(run=named.record.run_id, reason="wrong"), None)
    assert "was built on" in query.by_id(record.run_id).unusable()


def test_the_model_of_an_invalidated_run_is_no_answer(named: Named):
    verdict.invalidate(None, Invalidation(run=named.record.run_id, reason="wrong data"), None)
    for load in (from_pretrained, address.folder, lambda name: data_digests(train_config(name))):
        with pytest.raises(Missing, match=f"{ADDRESS}: run .* no answer any more.*wrong data"):
            load(ADDRESS)


def test_a_model_whose_file_was_changed_is_no_answer(named: Named):
    path = named.record.artifact("model/config.json")
    path.write_text(path.read_text().replace("gpt_neox", "gpt_nexx"))
    with pytest.raises(Missing, match=r"model/config\.json is gone or changed"):
        from_pretrained(ADDRESS)


@pytest.mark.parametrize(
    "name", ["models:/none@seed0", "models:/toys.model@seed9", "models:/toys.model/9"]
)
def test_what_is_not_registered_is_said_with_what_is(shared: Named, name: str):
    with pytest.raises(BadInput, match=r"toys\.model@newest, toys\.model@seed0") as refused:
        from_pretrained(name)
    assert name in str(refused.value)


@pytest.mark.parametrize("name", ["models:/", "models:/a", "models:/a/b/c", "models:/a@", "models://a@b",
                                  "models:/a@b' OR name='c", "models:/../a@b"])  # fmt: skip
def test_an_address_that_is_none_says_how_one_is_written(shared: Named, name: str):
    with pytest.raises(BadInput, match="write models:/NAME@ALIAS"):
        registry.find(name)


def refused(error: type[Exception], reason: str, **options: object) -> None:
    with pytest.raises(error, match=reason) as found:
        register(**options)
    assert "\n" not in str(found.value)


def test_what_is_no_finished_model_is_not_registered(named: Named):
    gate = require(MODEL, ToyConfig(do="fail a gate", seed=3))
    refused(Missing, "failed good: it is not", run=gate.run_id)
    refused(Missing, "a run of toy exports no model/", run=require(TOY, ToyConfig()).run_id)
    with pytest.raises(RuntimeError):
        require(TOY, ToyConfig(do="raise"))
    (failed,) = [one for one in query.tagged(query.EXPERIMENT, "toy", named.store)
                 if one.status == "FAILED"]  # fmt: skip
    refused(Missing, "not registered, it is FAILED", run=failed.run_id)
    verdict.invalidate(None, Invalidation(run=named.record.run_id, reason="wrong"), None)
    refused(Missing, "not registered, it was invalidated", run=named.record.run_id)
    assert registry.addresses(named.store) == ["toys.model@newest", "toys.model@seed0"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "monotone/nano"}, "try monotone.nano"),
        ({"name": "a:b"}, "try a.b"),
        ({"alias": "latest"}, "MLflow's own"),
        ({"alias": "v3"}, "MLflow's own"),
        ({"alias": "seed.3"}, "try seed-3|MLflow's own"),
    ],
)
def test_names_that_mlflow_refuses_are_refused_first(
    shared: Named, options: dict[str, str], reason: str
):
    refused(BadInput, reason, run=shared.record.run_id, **options)


def test_a_name_says_the_model_once():
    label = TRAIN.label(train_config("nano"))
    assert registering._which(label, "nano") == "monotone mlp_both abs"


def test_it_is_asked_for_by_run_or_by_options(named: Named, monkeypatch: pytest.MonkeyPatch):
    refused(BadInput, "give run=ID, or experiment=NAME")
    refused(BadInput, "not in sqlite", run="0" * 32)
    monkeypatch.setattr(registering, "find", lambda name: MODEL)

    @dataclass(frozen=True, kw_only=True)
    class About(ToyConfig, Registration):
        pass

    registering.answer(REGISTER, About(experiment="model", name="again"), None)
    assert registry.find("models:/again@seed0").record.run_id == named.record.run_id
    with pytest.raises(Missing, match=r"never computed; compute it first: mlflow run \. -e model"):
        registering.answer(REGISTER, About(experiment="model", seed=9), None)


def test_a_model_keeps_its_names_in_an_archive(
    named: Named, migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    archive.export(EXPORT, Exporting(study="toys", folder=str(tmp_path / "toys")), None)
    (tmp_path / "other").mkdir()
    shutil.copy(migrated, tmp_path / "other/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'other/mlflow.db'}")
    for _ in range(2):
        archive.import_(IMPORT, Archive(folder=str(tmp_path / "toys")), None)
        assert registry.aliases_of(connect(), "toys.model") == {"seed0": 1, "newest": 1}
    assert registry.find(ADDRESS).record.run_id != named.record.run_id
    expected = monotone(0)(IDS).logits
    torch.testing.assert_close(from_pretrained(ADDRESS)(IDS).logits, expected, rtol=0, atol=0)
