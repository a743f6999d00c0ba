"""W = softplus(V): the inverse, the scopes, the check on effective weights, the export."""

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from papertrail.core.errors import BadInput
from papertrail.nn.constraints import LEAST_WEIGHT, NonNegative
from papertrail.nn.families import constrained_linears
from papertrail.nn.nonnegative import (
    constrain,
    conversion,
    effective_state_dict,
    export,
    free_parameters,
    least_effective_weight,
    merge,
)

IDS = torch.arange(24).reshape(2, 12) % 50


def tiny(hidden_act: str = "gelu") -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=16,
        hidden_act=hidden_act,
        use_cache=False,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPTNeoXForCausalLM(config).eval()


@settings(deadline=None)  # a loaded machine is slow, not wrong
@given(st.floats(min_value=-8, max_value=3))
def test_the_inverse_gives_back_every_weight_to_float32_precision(exponent):
    W = torch.tensor([[10**exponent, -(10**exponent)]])
    start = F.softplus(NonNegative("abs").right_inverse(W))
    torch.testing.assert_close(start, W.abs(), rtol=2e-6, atol=0)


def test_the_inverse_of_typical_weights_is_unbiased():
    W = 0.02 * torch.randn(400, 500, generator=torch.Generator().manual_seed(0))
    start = F.softplus(NonNegative("abs").right_inverse(W))
    relative = (start - W.abs()) / W.abs().clamp_min(LEAST_WEIGHT["abs"])
    assert relative.abs().median() < 2e-7
    assert relative.mean().abs() < 1e-6


@pytest.mark.parametrize("weight", [0.0, 1e-30, 80.0, 1e4])
def test_the_inverse_is_finite_at_zero_and_far_out(weight):
    assert NonNegative("abs").right_inverse(torch.full((1, 1), weight)).isfinite().all()


def test_relu_keeps_positive_weights_and_lifts_the_others_to_the_floor():
    W = torch.tensor([[0.5, -0.5, 0.0, -1e-9]])
    start = F.softplus(NonNegative("relu").right_inverse(W))
    torch.testing.assert_close(start, torch.tensor([[0.5, 1e-3, 1e-3, 1e-3]]))


@pytest.mark.parametrize(
    ("scope", "inner"),
    [
        ("mlp_in", ["mlp.dense_h_to_4h"]),
        ("mlp_both", ["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
        ("mlp_in_attn_out", ["mlp.dense_h_to_4h", "attention.dense"]),
    ],
)
def test_a_scope_constrains_its_linears_in_every_block_and_nothing_else(scope, inner):
    model = tiny()
    before = {name: p.clone() for name, p in model.named_parameters()}
    names = constrain(model, scope, "abs")
    assert names == [f"gpt_neox.layers.{i}.{name}" for i in range(3) for name in inner]
    for name, after in effective_state_dict(model).items():
        if name.removesuffix(".weight") in names:
            torch.testing.assert_close(after, before[name].abs())
        else:
            assert torch.equal(after, before[name]), name


def test_a_constrained_model_has_no_negative_weight_and_keeps_none_after_training():
    model = tiny()
    constrain(model, "mlp_both", "relu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.5)
    for _ in range(5):
        model(IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert least_effective_weight(model, "mlp_both") >= 0


def test_the_check_fails_on_one_negative_weight_of_an_unconstrained_layer():
    model = tiny()
    constrain(model, "mlp_in", "abs")
    assert least_effective_weight(model, "mlp_in") > 0
    with torch.no_grad():
        for layer in model.gpt_neox.layers:
            layer.mlp.dense_4h_to_h.weight.abs_()
        model.gpt_neox.layers[2].mlp.dense_4h_to_h.weight[3, 5] = -1e-6
    assert least_effective_weight(model, "mlp_both") == pytest.approx(-1e-6)


def test_the_check_looks_at_what_the_layer_multiplies_with_not_at_v():
    model = tiny()
    constrain(model, "mlp_both", "abs")
    assert min(V.min() for V in free_parameters(model).values()) < 0
    assert least_effective_weight(model, "mlp_both") > 0


def test_with_relu_the_branch_never_falls_while_its_input_rises():
    model = tiny(hidden_act="relu")
    mlp, low = model.gpt_neox.layers[1].mlp, torch.randn(200, 16)
    high = low + torch.rand(200, 16)
    assert (mlp(high) < mlp(low)).any()
    constrain(model, "mlp_both", "abs")
    with torch.no_grad():
        mlp.dense_h_to_4h.bias.normal_()
    assert (mlp(high) >= mlp(low)).all()


def test_free_parameters_are_the_vs_and_only_they():
    model = tiny()
    assert free_parameters(model) == {}
    names = constrain(model, "mlp_both", "abs")
    free = free_parameters(model)
    assert list(free) == [f"{name}.parametrizations.weight.original" for name in names]
    assert {id(V) for V in free.values()} <= {id(p) for p in model.parameters()}


def test_conversion_counts_flipped_weights_without_touching_the_model():
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for _, linear in constrained_linears(model, "mlp_in"):
            linear.weight.fill_(1.0)[:16] = -2.0  # a quarter of the rows
        before = {name: value.clone() for name, value in model.state_dict().items()}
    stats = conversion(model, "mlp_in", "abs")
    assert stats.num_weights == 3 * 64 * 16
    assert stats.fraction_negative == 0.25
    # a quarter moves by 4: sqrt(16/4) over sqrt(4/4 + 3/4)
    assert stats.relative_change == pytest.approx((16 / 7) ** 0.5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("init", ["abs", "relu"])
def test_an_export_computes_exactly_what_the_training_model_computes(tmp_path, init):
    model = tiny()
    constrain(model, "mlp_both", init)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    logits, random_state = model(IDS).logits, torch.get_rng_state()
    export(model, tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert (reloaded(IDS).logits - logits).abs().max().item() == 0.0
    assert not any("parametrizations" in name for name in reloaded.state_dict())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    model(IDS, labels=IDS).loss.backward()
    assert all(V.grad is not None for V in free_parameters(model).values())


def test_an_export_of_an_unconstrained_model_is_the_plain_checkpoint(tmp_path: Path):
    model = tiny()
    export(model, tmp_path)
    assert torch.equal(
        AutoModelForCausalLM.from_pretrained(tmp_path)(IDS).logits, model(IDS).logits
    )


def test_a_merged_model_is_plain_and_computes_the_same():
    model, trained = tiny(), tiny()
    constrain(trained, "mlp_both", "abs")
    constrain(model, "mlp_both", "relu")
    model.load_state_dict(trained.state_dict())
    expected = effective_state_dict(model)
    logits = model(IDS).logits
    merge(model)
    assert torch.equal(model(IDS).logits, logits)
    assert model.state_dict().keys() == tiny().state_dict().keys() == expected.keys()
    assert all(torch.equal(expected[name], value) for name, value in model.state_dict().items())
    assert not any(parametrize.is_parametrized(module) for module in model.modules())
    assert torch.equal(trained(IDS).logits, logits)


def test_half_precision_weights_are_refused_because_v_would_freeze():
    with pytest.raises(BadInput, match=r"bfloat16; load it as float32$"):
        constrain(tiny().bfloat16(), "mlp_both", "abs")
