"""Statistics of weights and activations: golden values, a slow plain loop, and a trained arm."""

import math
import sys
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.compute import Compute
from papertrail.core.storage.store import Store
from papertrail.core.training.fit import trainer_options
from papertrail.monotone.config import STATISTICS
from papertrail.nn import nonnegative
from papertrail.nn.activations import set_activation
from papertrail.nn.branches import Seen, branches, watching
from papertrail.nn.families import constrained_linears
from papertrail.nn.statistics import (
    Activations,
    activation_totals,
    weight_statistics,
    weight_totals,
)

IDS = torch.arange(48).reshape(4, 12) % 50


def neox(hidden_act: str = "gelu") -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=50, hidden_size=16, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=16, hidden_act=hidden_act,
        initializer_range=0.3,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def gpt2() -> GPT2LMHeadModel:
    shape = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**shape))


def opt() -> OPTForCausalLM:
    config = OPTConfig(
        vocab_size=50, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=16, word_embed_proj_dim=16,
    )  # fmt: skip
    return OPTForCausalLM(config)


def llama() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return LlamaForCausalLM(config)


MODELS = {"gpt_neox": neox, "gpt2": gpt2, "opt": opt, "llama": llama}


def made(name: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = MODELS[name]().eval()
    return model


def watched(module: Any, ids: torch.Tensor = IDS, batch: int = 3) -> Any:
    options = trainer_options(Compute(accelerator="cpu"))
    trainer = L.Trainer(**options, logger=False, inference_mode=False)
    trainer.test(module, DataLoader([*torch.split(ids, batch)], batch_size=None), verbose=False)
    return module


def seen_by(model: PreTrainedModel) -> list[Seen]:
    found: list[Seen] = []
    with torch.no_grad(), watching(model, found.append):
        model.base_model(IDS, use_cache=False)
    return found


# -- weights ---------------------------------------------------------------------------------------


def test_statistics_of_a_matrix_made_by_hand_are_exact():
    model = made("gpt_neox")
    W = model.gpt_neox.layers[1].mlp.dense_h_to_4h.weight
    with torch.no_grad():
        W.zero_()
        W[0, 0], W[1, 1], W[2, 2] = 3.0, -4.0, 1e-7
    row = weight_statistics(model, "mlp_in").iloc[1]
    assert (row["depth"], row["matrix"]) == (1, "dense_h_to_4h")
    assert (row["outputs"], row["inputs"]) == (64, 16)
    assert row["least"] == -4 and row["mean"] == pytest.approx(-1 / 1024)
    assert row["fraction_negative"] == 1 / 1024 and row["fraction_dead"] == 1022 / 1024
    assert row["frobenius_norm"] == pytest.approx(5) and row["spectral_norm"] == pytest.approx(4)
    assert row["std"] == pytest.approx(math.sqrt(25 / 1024 - (1 / 1024) ** 2))
    entropy = -(3 / 7 * math.log(3 / 7) + 4 / 7 * math.log(4 / 7))
    assert row["effective_rank"] == pytest.approx(math.exp(entropy), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "scope"),
    [("gpt_neox", "mlp_in_attn_out"), ("gpt2", "mlp_both"), ("opt", "mlp_both"),
     ("llama", "gated_all")],
)  # fmt: skip
def test_statistics_equal_those_of_numpy_matrix_by_matrix_in_every_family(name, scope):
    model = made(name)
    rows = weight_statistics(model, scope)
    for (layer, linear), row in zip(
        constrained_linears(model, scope), rows.to_dict("records"), strict=True
    ):
        assert row["layer"] == layer
        W = linear.weight.detach().numpy().astype(np.float64)
        singular = np.linalg.svd(W, compute_uv=False)
        shares = singular / singular.sum()
        assert row["std"] == pytest.approx(W.std()) and row["mean"] == pytest.approx(W.mean())
        assert row["least"] == W.min() and row["fraction_negative"] == (W < 0).mean()
        assert row["spectral_norm"] == pytest.approx(singular[0])
        assert row["effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_outputs_and_inputs_of_a_transposed_matrix_are_those_of_the_layer():
    rows = weight_statistics(made("gpt2"), "mlp_both")
    assert rows["outputs"].tolist() == [64, 16] * 2 and rows["inputs"].tolist() == [16, 64] * 2


def test_a_constrained_model_has_the_statistics_of_the_plain_model_it_exports():
    model, scope = made("gpt_neox"), "mlp_both"
    nonnegative.constrain(model, scope, "abs")
    held = weight_statistics(model, scope)
    assert (held["fraction_negative"] == 0).all() and (held["least"] > 0).all()
    nonnegative.merge(model)
    pd.testing.assert_frame_equal(held, weight_statistics(model, scope))


def test_totals_are_the_statistics_of_all_weights_in_one_heap():
    model, scope = made("gpt_neox"), "mlp_in_attn_out"  # matrices of unlike size
    with torch.no_grad():
        model.gpt_neox.layers[0].attention.dense.weight.add_(1.0)
    heap = np.concatenate(
        [one.weight.detach().numpy().astype(float).ravel() for _, one in
         constrained_linears(model, scope)]
    )  # fmt: skip
    totals = weight_totals(weight_statistics(model, scope))
    assert totals["num_weights"] == heap.size and totals["least"] == heap.min()
    assert totals["mean"] == pytest.approx(heap.mean())
    assert totals["std"] == pytest.approx(heap.std())
    assert totals["fraction_negative"] == pytest.approx((heap < 0).mean())
    assert totals["frobenius_norm"] == pytest.approx(np.linalg.norm(heap))


# -- branches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_branch_by_its_parts_computes_what_the_model_computes(name):
    model = made(name)
    found = seen_by(model)
    assert [seen.branch.depth for seen in found] == list(range(len(branches(model))))
    for seen in found:
        assert torch.equal(seen.branch(seen.x), seen.y)
        assert torch.equal(seen.branch.activated.forward(seen.x), seen.z)
        assert seen.norm is not None and seen.h is not None
        assert torch.equal(seen.norm.forward(seen.h), seen.x)


def test_a_norm_that_does_not_stand_in_front_of_the_branch_is_not_taken_for_one():
    model = made("gpt_neox")
    for block in model.gpt_neox.layers:
        block.post_attention_layernorm = nn.Identity()
    assert all(seen.norm is None and seen.h is None for seen in seen_by(model))
    rows = watched(Activations(model, 0)).frame()
    assert rows["fraction_of_outputs_falling_behind_norm"].isna().all()
    assert math.isnan(activation_totals(rows)["fraction_of_outputs_falling_behind_norm"])


def test_no_hook_stays_behind_even_when_the_watcher_fails():
    model = made("gpt_neox")

    def fails(seen: Seen) -> None:
        raise KeyError(seen.branch.label)

    with pytest.raises(KeyError), watching(model, fails):
        model(IDS)
    assert not any(module._forward_hooks for module in model.modules())


# -- activations -----------------------------------------------------------------------------------


def test_activation_statistics_equal_those_of_a_plain_loop_in_any_batches():
    model = made("gpt_neox")
    z = [seen.z.double().numpy().reshape(-1, 64) for seen in seen_by(model)]
    for batch in (1, 3, 4):
        rows = watched(Activations(model, 0), batch=batch).frame()
        for row, one in zip(rows.to_dict("records"), z, strict=True):
            assert row["num_pre_activations"] == one.size
            assert row["mean"] == pytest.approx(one.mean(), abs=1e-6)
            assert row["std"] == pytest.approx(one.std(), abs=1e-6)
            assert row["fraction_below_turning_point"] == (one < -0.7517915).mean()
            assert row["fraction_falling"] == row["fraction_below_turning_point"]
            assert row["fraction_inactive"] == (one <= 0).mean()
            assert row["fraction_never_active"] == (one <= 0).all(0).mean()


def with_normal_quantiles(model: PreTrainedModel) -> PreTrainedModel:
    """Pre-activations that are the 64 quantiles of a standard normal, whatever the text."""
    points = (torch.arange(64) + 0.5) / 64
    with torch.no_grad():
        for block in model.gpt_neox.layers:
            block.mlp.dense_h_to_4h.weight.zero_()
            block.mlp.dense_h_to_4h.bias.copy_(torch.special.ndtri(points))
    return model


@pytest.mark.parametrize(
    ("activation", "falling"), [("kept", 14 / 64), ("relu", 0.0), ("gelu_clipped", 0.0)]
)
def test_of_normal_pre_activations_gelu_falls_on_a_share_of_phi_of_its_turning_point(
    activation, falling
):
    """Phi(-0.7518) = 0.2261: of 64 quantiles the 14 lowest. Other activations fall nowhere."""
    model = with_normal_quantiles(made("gpt_neox"))
    set_activation(model, activation)
    rows = watched(Activations(model, 0)).frame()
    assert (rows["fraction_below_turning_point"] == 14 / 64).all()
    assert (rows["fraction_falling"] == falling).all()
    assert (rows["fraction_inactive"] == 0.5).all()
    assert (rows["fraction_never_active"] == 0.5).all()
    assert rows["mean"].abs().max() < 1e-6


def falling_outputs(activation: str, *, held: bool) -> pd.DataFrame:
    model = made("gpt_neox")
    set_activation(model, activation)
    if held:
        nonnegative.constrain(model, "mlp_both", "abs")
    with torch.no_grad():
        for block in model.gpt_neox.layers:
            block.mlp.dense_h_to_4h.bias.fill_(-1.5)
    frame: pd.DataFrame = watched(Activations(model, 0)).frame()
    return frame


@pytest.mark.parametrize("activation", ["relu", "gelu_clipped"])
def test_with_w_at_least_0_and_no_falling_activation_no_output_of_the_branch_falls(activation):
    rows = falling_outputs(activation, held=True)
    assert (rows["fraction_of_outputs_falling"] == 0).all()
    # Published for such branches: 48 %, whatever the activation (LayerNorm keeps no order).
    assert rows["fraction_of_outputs_falling_behind_norm"].between(0.3, 0.7).all()


def test_with_gelu_w_at_least_0_is_not_enough_and_without_it_half_of_all_outputs_fall():
    assert falling_outputs("gelu", held=True)["fraction_of_outputs_falling"].min() > 0.05
    free = falling_outputs("relu", held=False)
    assert free["fraction_of_outputs_falling"].between(0.3, 0.7).all()


def test_ordered_pairs_are_the_same_in_every_run_of_one_seed():
    model = made("gpt_neox")
    first, again, other = (watched(Activations(model, seed)).frame() for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    column = "fraction_of_outputs_falling"
    assert (first[column] != other[column]).any()


# -- the verb --------------------------------------------------------------------------------------


def test_a_trained_arm_is_measured_on_the_weights_that_others_load(store: Store, smoke: list[str]):
    record = require(STATISTICS, cli.parse(STATISTICS, smoke)[0])
    weights = pd.read_parquet(record.artifact("samples/weights.parquet"))
    assert len(weights) == 4 and (weights["least"] >= 0).all()
    assert record.metrics["gate/non_negative"] == 1
    for name in ("std", "effective_rank", "fraction_dead"):
        found = record.metrics[f"weights/layer01/dense_4h_to_h/{name}"]
        assert found == weights.iloc[3][name]
    active = pd.read_parquet(record.artifact("samples/activations.parquet"))
    assert active["num_pre_activations"].tolist() == [4 * 64 * 128] * 2
    mean = active["fraction_falling"].mean()
    assert record.metrics["activations/total/fraction_falling"] == pytest.approx(mean)
    baseline = require(STATISTICS, cli.parse(STATISTICS, [*smoke, "--constraint.kind=none"])[0])
    assert baseline.metrics["weights/total/least"] < 0
    assert "gate/non_negative" not in baseline.metrics
    longer = cli.parse(STATISTICS, [*smoke, "--inspect.window=129"])[0]
    with pytest.raises(BadInput, match=r"model's context \(129\); use at most 128"):
        require(STATISTICS, longer)


def test_no_entry_point_hides_a_module_that_others_import():
    """A script's folder comes first on its path: `statistics.py` there would stop all of them."""
    names = {path.stem for path in (ROOT / "entrypoints").glob("*.py")}
    assert names and not names & sys.stdlib_module_names
