"""The main job at smoke scale on real text: from an empty store to the paper's table.

One module-wide store: everything after the first test reads what it computed.
"""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, executed
from transformers import AutoModelForCausalLM

from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import Missing
from papertrail.core.question import cli
from papertrail.core.reading import query
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.monotone import robustness
from papertrail.monotone.arms import arms
from papertrail.monotone.config import HOTFLIP, PERPLEXITY, TRAIN
from papertrail.monotone.schemas import HotFlipConfig, PerplexityConfig, TrainConfig
from papertrail.monotone.tables import ATTACK_SUCCESS, PERPLEXITY_GAP
from papertrail.tables import grid, order
from papertrail.tables.catalog import rendering

ARMS = ("baseline", "monotone")


@pytest.fixture(scope="module")
def store(module_store: Store) -> Store:
    return module_store


@pytest.fixture(scope="module")
def config(smoke: list[str]) -> HotFlipConfig:
    found = cli.parse(HOTFLIP, smoke)[0]
    assert isinstance(found, HotFlipConfig)
    return found


@pytest.fixture(scope="module")
def record(store: Store, config: HotFlipConfig) -> Record:
    return require(HOTFLIP, config)


@pytest.fixture(scope="module")
def rows(record: Record) -> pd.DataFrame:
    return pd.read_parquet(record.artifact("samples/attacks.parquet"))


def paper(table: Any, smoke: list[str], *more: str) -> Any:
    return cli.parse(rendering(table), [*smoke, f"--name={table.name}", *more])[0]


def test_the_run_holds_both_arms_all_attacks_and_every_budget(
    record: Record, rows: pd.DataFrame, config: HotFlipConfig
):
    assert set(rows["arm"]) == set(ARMS)
    assert set(rows["attack"]) == {"hotflip", "random", "query", "transfer"}
    assert set(rows["flips"]) == set(range(config.attack.flips + 1))
    assert set(rows["text"]) == set(range(config.attack.texts))
    for arm in ARMS:
        for attack in ("hotflip", "random", "query", "transfer"):
            assert f"attack/{arm}/{attack}/success_perplexity" in record.metrics


def test_people_find_both_arms_under_the_names_of_the_runs_about_one(record: Record):
    for arm, behind in (("baseline", "/baseline"), ("monotone", "")):
        assert record.metrics[f"test/perplexity{behind}"] == record.metrics[f"{arm}/perplexity"]
        for key in ("success_perplexity", "rise"):
            own = record.curve(f"attack/{arm}/hotflip/{key}")
            assert record.curve(f"attack/{key}{behind}") == own and len(own) > 2


def test_clean_losses_are_the_same_for_every_attack_on_one_arm(rows: pd.DataFrame):
    spread = rows.groupby(["arm", "text"])["clean_nll"].agg(np.ptp)
    assert (spread < 1e-3).all()
    zero = rows[rows["flips"] == 0]
    assert np.allclose(zero["clean_nll"], zero["attacked_nll"], atol=1e-3)


def test_what_hotflip_found_on_one_arm_is_what_transfer_replays_on_the_other(rows: pd.DataFrame):
    full = rows[rows["flips"] == rows["flips"].max()]
    transfer = full[full["attack"] == "transfer"].groupby("arm")["attacked_nll"].mean()
    white_box = full[full["attack"] == "hotflip"].groupby("arm")["attacked_nll"].mean()
    assert (transfer != white_box).all()


def test_numbers_of_the_run_follow_from_its_rows(record: Record, rows: pd.DataFrame):
    full = rows[(rows["flips"] == rows["flips"].max()) & (rows["attack"] == "hotflip")]
    for arm in ARMS:
        some = full[full["arm"] == arm]
        rise = (some["attacked_nll"] - some["clean_nll"]) / some["num_scored_tokens"]
        assert record.metrics[f"attack/{arm}/hotflip/rise"] == pytest.approx(rise.mean())
        share = (rise > np.log(1.15)).mean()
        assert record.metrics[f"attack/{arm}/hotflip/success_perplexity"] == pytest.approx(share)


def test_random_flips_count_each_text_once_however_many_draws(config: HotFlipConfig):
    rows = pd.DataFrame(
        {"text": [0, 0, 1, 1], "draw": [0, 1, 0, 1], "clean_nll": [1.0] * 4,
         "attacked_nll": [1.0, 3.0, 3.0, 3.0], "num_scored_tokens": [1] * 4}
    )  # fmt: skip
    texts = robustness.per_text(robustness.judged(rows, config.attack))
    assert texts["perplexity"].tolist() == [0.5, 1.0]


def test_the_result_file_has_the_keys_that_the_original_scripts_read(record: Record):
    found = record.json("hotflip_results")
    for arm in ("baseline_pythia", "monotonic_pythia"):
        assert {
            "avg_degradation", "std_degradation", "success_rate", "avg_orig_loss",
            "avg_attack_loss", "num_samples", "num_oom_skipped",
        } <= set(found["results"][arm])  # fmt: skip
    assert "baseline_vs_monotonic" in found["statistical_tests"]
    assert found["attack_config"]["flips"] == 3


def test_the_monotone_arm_is_non_negative_and_the_baseline_is_not(
    record: Record, config: HotFlipConfig
):
    least = {}
    for arm, one in arms(config, TrainConfig).items():
        folder = require(TRAIN, one).artifact("model")
        model = AutoModelForCausalLM.from_pretrained(folder)
        weights = [block.mlp.dense_h_to_4h.weight for block in model.gpt_neox.layers]
        weights += [block.mlp.dense_4h_to_h.weight for block in model.gpt_neox.layers]
        least[arm] = min(weight.min().item() for weight in weights)
    assert least["monotone"] >= 0 > least["baseline"]


def test_both_arms_had_the_same_budget_from_the_same_start(record: Record, config: HotFlipConfig):
    found = [require(TRAIN, one) for one in arms(config, TrainConfig).values()]
    assert len({run.tags["papertrail.parents"] for run in found}) == 1
    assert len({run.metrics["train/tokens"] for run in found}) == 1


def test_the_baseline_does_not_depend_on_options_of_the_monotone_arm(
    record: Record, smoke: list[str]
):
    other = cli.parse(HOTFLIP, [*smoke, "--constraint.init=relu", "--constraint.lr=0.1"])[0]
    states = {arm: standing(TRAIN, one).state for arm, one in arms(other, TrainConfig).items()}
    assert states == {"baseline": "finished", "monotone": "missing"}


def test_a_second_call_answers_from_the_store_without_torch(record: Record, smoke: list[str]):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    code = (
        "import sys; sys.argv = ['hotflip.py', *sys.argv[1:]];"
        "from papertrail.core.question.cli import launch;"
        "from papertrail.monotone.config import HOTFLIP;"
        "launch(HOTFLIP); assert 'torch' not in sys.modules, 'torch was imported'"
    )
    command = [sys.executable, "-c", code, *smoke]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    assert "HotFlip" in first.stdout and record.run_id in first.stdout
    assert "mlflow ui --backend-store-uri" in first.stdout
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert second.stdout == first.stdout


def test_perplexity_is_token_weighted_over_documents(record: Record, config: HotFlipConfig):
    run = require(PERPLEXITY, arms(config, PerplexityConfig)["baseline"])
    documents = pd.read_parquet(run.artifact("samples/documents.parquet"))
    expected = np.exp(documents["nll"].sum() / documents["num_tokens"].sum())
    assert run.metrics["test/perplexity"] == pytest.approx(expected)
    assert run.metrics["test/perplexity"] < run.metrics["test/unigram_perplexity"]


def test_the_export_computes_what_the_checkpoint_computes(record: Record, config: HotFlipConfig):
    """The model that others load against the training state it was made from, to 0.0."""
    from papertrail.monotone.models import starting_point
    from papertrail.nn.nonnegative import constrain

    one = arms(config, TrainConfig)["monotone"]
    run = require(TRAIN, one)
    model = starting_point(one)
    constrain(model, one.constraint.scope, one.constraint.init)
    state = torch.load(run.artifact("checkpoints/last.ckpt"), weights_only=True)["state_dict"]
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items()})
    export = AutoModelForCausalLM.from_pretrained(run.artifact("model"))
    ids = torch.arange(24)[None]
    with torch.no_grad():
        assert (model(ids).logits - export(ids).logits).abs().max().item() == 0.0


# -- tables ----------------------------------------------------------------------------------------


def test_a_table_refuses_holes_and_names_them_with_what_to_do(
    record: Record, smoke: list[str], store: Store
):
    config = paper(PERPLEXITY_GAP, smoke, "--seeds=[42,1]")
    with pytest.raises(Missing, match=r"2 of 4 runs have no result: perplexity \w+ is missing"):
        grid.refuse_holes(PERPLEXITY_GAP, grid.plan(PERPLEXITY_GAP, config, store))


def test_a_plan_gives_the_state_and_a_command_that_means_the_run(
    record: Record, smoke: list[str], store: Store, capsys: pytest.CaptureFixture[str]
):
    import shlex

    config = paper(PERPLEXITY_GAP, smoke, "--seeds=[42,1]")
    planned = grid.plan(PERPLEXITY_GAP, config, store)
    assert [one.standing.state for one in planned] == ["finished"] * 2 + ["missing"] * 2
    grid.print_plan(PERPLEXITY_GAP, planned)
    said = capsys.readouterr().out
    assert "2 finished, 0 running, 0 failed, 2 missing" in said
    words = shlex.split(planned[3].command)
    assert words[:5] == ["mlflow", "run", ".", "-e", "perplexity"]
    typed = [f"--{pair}" for pair in words[6::2]]
    assert cli.parse(PERPLEXITY, typed)[0] == planned[3].need.question.config


def test_every_number_of_the_table_is_that_of_its_run(
    record: Record, smoke: list[str], store: Store
):
    table = order.ordered(ATTACK_SUCCESS, paper(ATTACK_SUCCESS, smoke))
    csv = pd.read_csv(table.artifact("tables/table.csv"), index_col=0)
    for arm in ARMS:
        found = csv.loc[arm, "hotflip"]
        assert found == record.metrics[f"attack/{arm}/hotflip/success_perplexity"]
        assert csv.loc[arm, "hotflip.runs"] == record.run_id
        assert csv.loc[arm, "hotflip.low"] <= found <= csv.loc[arm, "hotflip.high"]
    ratio = csv.loc["monotone", "perplexity"] / csv.loc["baseline", "perplexity"] - 1
    assert float(csv.loc["monotone", "gap"]) == pytest.approx(ratio)


def test_a_rendering_is_a_run_with_all_formats_and_its_provenance(
    record: Record, smoke: list[str], store: Store
):
    table = order.ordered(ATTACK_SUCCESS, paper(ATTACK_SUCCESS, smoke))
    assert table.unusable() == ""
    html = table.artifact("tables/report.html").read_text()
    assert record.url in html and 'class="missing' not in html
    assert r"\toprule" in table.artifact("tables/table.tex").read_text()
    provenance = json.loads(table.artifact("results/provenance.json").read_text())
    assert {one["run_id"] for one in provenance["runs"]} >= {record.run_id}
    assert all(one["state"] == "finished" and one["command"] for one in provenance["runs"])
    again = order.ordered(ATTACK_SUCCESS, paper(ATTACK_SUCCESS, smoke))
    assert again.run_id == table.run_id


def test_a_cell_whose_run_failed_a_gate_is_refused_with_the_reason(
    record: Record, smoke: list[str], store: Store
):
    config = paper(ATTACK_SUCCESS, smoke)
    frame = grid.tidy(grid.plan(ATTACK_SUCCESS, config, store))
    frame.loc[frame["experiment"] == "hotflip", "failed_gates"] = "baseline/white_box: it lost"
    sheet = ATTACK_SUCCESS.draw(frame)
    cell = sheet.cell(0, "hotflip")
    assert cell.state == "refused" and "it lost" in cell.note
    assert sheet.cell(0, "perplexity").state == "ok"


def test_a_missing_seed_is_said_in_the_cell(record: Record, smoke: list[str], store: Store):
    config = paper(PERPLEXITY_GAP, smoke, "--seeds=[42,1]")
    sheet = PERPLEXITY_GAP.draw(grid.tidy(grid.plan(PERPLEXITY_GAP, config, store)))
    assert sheet.cell(0, "perplexity").note == "n = 1 of 2 seeds"


def test_a_frame_of_runs_is_tidy_typed_and_refuses_holes_and_twins(
    record: Record, config: HotFlipConfig
):
    found = query.runs("train", ["constraint.kind", "seed"], ["val/loss"])
    assert found["seed"].tolist() == [42, 42]
    assert set(found["constraint.kind"]) == {"none", "softplus"}
    with pytest.raises(Missing, match=r"holes: .*val/los"):
        query.runs("train", ["constraint.kind"], ["val/los"])
    with pytest.raises(Missing, match=r"duplicates: several runs share \['seed'\]"):
        query.runs("train", ["seed"], ["val/loss"])
    with pytest.raises(Missing, match="no usable run"):
        query.runs("train", ["seed"], ["val/loss"], {"seed": 7})


def test_the_notebook_runs_from_its_first_cell_to_its_last(record: Record):
    assert len(executed("hotflip")["rises"]) == 6


def test_the_published_protocol_runs_too(record: Record, smoke: list[str]):
    config = cli.parse(HOTFLIP, [*smoke, "--attack.protocol=paper_compat"])[0]
    compat = require(HOTFLIP, config)
    assert (
        compat.metrics["attack/baseline/hotflip/rise"]
        != record.metrics["attack/baseline/hotflip/rise"]
    )


def test_a_table_whose_run_was_computed_again_is_drawn_anew_and_says_so(
    record: Record, config: HotFlipConfig, smoke: list[str], capsys: pytest.CaptureFixture[str]
):
    """Last: it leaves a second run of the same identity in the store."""
    before = order.ordered(ATTACK_SUCCESS, paper(ATTACK_SUCCESS, smoke))
    again = require(HOTFLIP, config, "force")
    after = order.ordered(ATTACK_SUCCESS, paper(ATTACK_SUCCESS, smoke))
    assert after.run_id != before.run_id
    assert f"{record.run_id} -> {again.run_id}" in capsys.readouterr().err
    assert order.ordered(ATTACK_SUCCESS, paper(ATTACK_SUCCESS, smoke)).run_id == after.run_id
