"""What holds the weights: certificates that fail on a wrong line, signs, projection, traps."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import IDS, VOCAB, WIDTH, tiny
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, PreTrainedModel

from papertrail.core.errors import BadInput
from papertrail.monotone.options import Constraint
from papertrail.nn.activations import TURNING_POINT, GeluClipped, set_activation
from papertrail.nn.constraints import LEAST_WEIGHT, NonNegative, SignFrozen, start
from papertrail.nn.families import blocks, constrained_linears
from papertrail.nn.language_model import LanguageModel, Optimization, parameter_groups
from papertrail.nn.nonnegative import (
    constrain,
    conversion,
    effective_state_dict,
    export,
    fraction_crossed,
    free_parameters,
    least_effective_weight,
    merge,
    project,
    signs,
)

OPTIM = Optimization(
    lr=1e-2, free_lr=1e-1, weight_decay=0.1, warmup_fraction=0.0, decay="none"
)  # without decay a step does not depend on how many follow
PLAIN = ("gpt_neox", "gpt2", "opt")


# --- the certificate: with W >= 0 and an activation that never falls, the branch never falls ---


def branch(model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    block = blocks(model)[1]
    if hasattr(block, "mlp"):
        return block.mlp
    return nn.Sequential(block.fc1, block.activation_fn, block.fc2)


def prepared(architecture: str, activation: str) -> PreTrainedModel:
    """Weights and biases as large as trained ones: GELU is then used where it bends."""
    model = tiny(architecture)
    set_activation(model, activation)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_()
            elif any(part in name for part in ("mlp", "fc1", "fc2")):
                p.mul_(10)
    return model


def share_that_falls(function: Callable[[Tensor], Tensor], low: Tensor) -> float:
    """Of the outputs, when one input of each row rises."""
    generator = torch.Generator().manual_seed(3)
    chosen = F.one_hot(torch.randint(WIDTH, (len(low),), generator=generator), WIDTH)
    high = low + 0.2 * torch.rand(len(low), 1, generator=generator) * chosen
    with torch.no_grad():
        return (function(high) < function(low)).double().mean().item()


def inputs(rows: int = 2000) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("kind", ["softplus", "projected"])
@pytest.mark.parametrize("activation", ["relu", "gelu_clipped"])
@pytest.mark.parametrize("name", PLAIN)
def test_with_non_negative_weights_no_output_falls_while_inputs_rise(name, activation, kind):
    model = prepared(name, activation)
    assert share_that_falls(branch(model), inputs()) > 0.2, "nor would it without the constraint"
    constrain(model, "mlp_both", "abs", kind)
    assert share_that_falls(branch(model), inputs()) == 0


@pytest.mark.parametrize("name", PLAIN)
def test_with_gelu_about_half_a_percent_of_the_outputs_do_fall(name):
    model = prepared(name, "gelu")
    constrain(model, "mlp_both", "abs")
    assert least_effective_weight(model, "mlp_both") > 0
    assert 2e-3 < share_that_falls(branch(model), inputs()) < 2.1e-2


@pytest.mark.parametrize("name", PLAIN)
def test_the_certificate_holds_for_any_v_and_without_softplus_it_does_not(name, monkeypatch):
    model = prepared(name, "relu")
    constrain(model, "mlp_both", "abs")
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for V in free_parameters(model).values():
            V.normal_(generator=generator)
    assert share_that_falls(branch(model), inputs()) == 0
    monkeypatch.setattr(NonNegative, "forward", lambda self, V: V)
    assert share_that_falls(branch(model), inputs()) > 0.2


@pytest.mark.parametrize("scope", ["mlp_in", "mlp_in_attn_out"])
def test_a_scope_with_only_the_first_matrix_certifies_the_hidden_units_not_the_branch(scope):
    model = prepared("gpt_neox", "relu")
    constrain(model, scope, "abs")
    mlp = blocks(model)[1].mlp
    assert share_that_falls(lambda x: mlp.act(mlp.dense_h_to_4h(x)), inputs()) == 0
    assert share_that_falls(mlp, inputs()) > 0.2


def test_signs_as_they_were_certify_nothing():
    model = prepared("gpt_neox", "relu")
    constrain(model, "mlp_both", "abs", "sign_frozen")
    assert share_that_falls(branch(model), inputs()) > 0.2


def test_layer_norm_in_front_of_the_branch_undoes_the_certificate():
    model = prepared("gpt_neox", "relu")
    constrain(model, "mlp_both", "abs")
    block = blocks(model)[1]
    behind_norm = share_that_falls(lambda h: block.mlp(block.post_attention_layernorm(h)), inputs())
    assert 0.4 < behind_norm < 0.6


@pytest.mark.parametrize(
    ("scope", "activation", "positive", "certified"),
    [
        ("gated_all", "relu", True, True),
        ("gated_all", "relu", False, False),
        ("gated_all", "gelu_clipped", True, False),
        ("gated_all", "kept", False, False),
        ("gated_updown", "relu", True, False),
    ],
)
def test_a_gated_mlp_is_monotone_only_where_both_factors_are_non_negative(
    scope, activation, positive, certified
):
    model = prepared("llama", activation)
    constrain(model, scope, "abs")
    h = inputs().abs() if positive else inputs()
    if activation == "gelu_clipped":
        h = h / 100  # a gate near zero, where its factor is negative until it has risen
        blocks(model)[1].mlp.gate_proj = Shifted(blocks(model)[1].mlp.gate_proj)
    assert (share_that_falls(branch(model), h) == 0) is certified


class Shifted(nn.Module):
    """A gate with a bias: transformers gives it one where a config asks for it."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(x) - 2.0


def test_clipped_gelu_is_gelu_above_its_minimum_and_the_minimum_below():
    z = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    clipped = GeluClipped()(z)
    above = z >= TURNING_POINT
    assert torch.equal(clipped[above], F.gelu(z[above]))
    assert clipped[~above].unique().tolist() == pytest.approx([-0.16997120747990366], abs=1e-15)
    assert (clipped.diff() >= 0).all()
    assert (
        clipped.min() <= F.gelu(torch.linspace(-1, -0.5, 10**6, dtype=torch.float64)).min() + 1e-15
    )
    assert (F.gelu(z).diff() < 0).any()


# --- what training starts from ---

MATRICES = st.lists(
    st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1e-9, -3e-9]), min_size=1, max_size=6
).map(lambda row: torch.tensor([row]))


@settings(deadline=None)  # a loaded machine is slow, not wrong
@given(MATRICES)
def test_sign_frozen_starts_at_the_weights_themselves_and_a_zero_stays_zero(W):
    frozen = SignFrozen(W)
    begun = frozen(frozen.right_inverse(W))
    torch.testing.assert_close(begun, W, rtol=2e-6, atol=1.01 * LEAST_WEIGHT["abs"])
    torch.testing.assert_close(begun, start(W, "sign_frozen", "abs"), rtol=2e-6, atol=0)
    assert torch.equal(begun == 0, W == 0)


@pytest.mark.parametrize("init", ["abs", "relu"])
@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
def test_the_unconstrained_arms_start_where_the_monotone_one_does(name, init):
    begun = {}
    for kind in ("softplus", "free", "projected"):
        model = tiny(name)
        constrain(model, "mlp_both", init, kind)
        begun[kind] = effective_state_dict(model)
    assert list(begun["free"]) == list(begun["projected"])
    for key, tensor in begun["free"].items():
        assert torch.equal(tensor, begun["projected"][key])
        torch.testing.assert_close(tensor, begun["softplus"][key], rtol=2e-6, atol=0)
    floor = min(begun["free"][f"{key}.weight"].min() for key, _ in linears(name))
    assert floor >= LEAST_WEIGHT[init] * (1 - 1e-6)


def linears(name: str) -> list[tuple[str, nn.Module]]:
    return constrained_linears(tiny(name), "mlp_both")


def test_conversion_is_as_large_as_what_constrain_then_does():
    for kind in ("softplus", "sign_frozen", "free", "projected"):
        for init in ("abs", "relu") if kind != "sign_frozen" else ("abs",):
            model = tiny("gpt2")
            said = conversion(model, "mlp_both", init, kind)
            before = [W.weight.detach().clone() for _, W in constrained_linears(model, "mlp_both")]
            constrain(model, "mlp_both", init, kind)
            after = [W.weight.detach() for _, W in constrained_linears(model, "mlp_both")]
            pairs = list(zip(before, after, strict=True))
            moved = sum((new - old).square().sum() for old, new in pairs)
            whole = sum(old.square().sum() for old in before)
            assert said.relative_change == pytest.approx((moved / whole).sqrt().item(), abs=1e-6)
            assert said.num_weights == sum(old.numel() for old in before)
            assert 0.4 < said.fraction_negative < 0.6
    assert conversion(tiny("gpt2"), "mlp_both", "abs", "sign_frozen").relative_change < 1e-6


def test_sign_frozen_with_another_start_than_the_weights_is_refused():
    with pytest.raises(BadInput, match=r"^constraint\.init: sign_frozen starts at W itself"):
        Constraint(kind="sign_frozen", init="relu")


# --- training ---


def windows(rows: int = 12, columns: int = 9) -> Tensor:
    first = torch.randint(VOCAB, (rows, 1), generator=torch.Generator().manual_seed(0))
    return (first + torch.arange(columns)) % VOCAB


def trainer(steps: int, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
    )  # fmt: skip


def module_of(kind: str, name: str = "gpt_neox", scope: str = "mlp_both") -> LanguageModel:
    model = tiny(name)
    names = constrain(model, scope, "abs", kind)
    optimization = replace(OPTIM, lr=5e-2) if kind == "projected" else OPTIM
    return LanguageModel(model, optimization, projected=names if kind == "projected" else ())


def fitted(module: LanguageModel, steps: int, *callbacks: L.Callback, **options: Any) -> L.Trainer:
    found = trainer(steps, *callbacks)
    validation = DataLoader(windows(2), batch_size=2)
    found.fit(module, DataLoader(windows(), batch_size=4), validation, **options)
    return found


class LeastWeight(L.Callback):
    """The least effective weight after every step, and before the step's projection."""

    def __init__(self) -> None:
        self.after: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: LanguageModel, *_: Any) -> None:
        scope = "gated_all" if module.model.config.model_type == "llama" else "mlp_both"
        self.after.append(least_effective_weight(module.model, scope))


@pytest.mark.parametrize(
    ("name", "scope"), [("gpt_neox", "mlp_both"), ("gpt2", "mlp_both"), ("llama", "gated_all")]
)
def test_projected_weights_are_never_negative_after_a_step_and_would_be_otherwise(name, scope):
    watch = LeastWeight()
    module = module_of("projected", name, scope)
    fitted(module, 8, watch)
    assert len(watch.after) == 8
    assert min(watch.after) == 0.0, "some weight was stopped at zero, and none went below"
    unheld = LeastWeight()
    free = module_of("projected", name, scope)
    free.projected = ()
    fitted(free, 8, unheld)
    assert min(unheld.after) < 0


def test_a_projected_training_goes_on_from_a_checkpoint_exactly(tmp_path: Path):
    whole = module_of("projected")
    fitted(whole, 9)
    first = module_of("projected")
    fitted(first, 3).save_checkpoint(tmp_path / "three.ckpt")
    saved = torch.load(tmp_path / "three.ckpt", weights_only=True)["state_dict"]
    held = {key: W for key, W in saved.items() if "mlp" in key and key.endswith("weight")}
    assert min(W.min() for W in held.values()) == 0
    second = module_of("projected")
    fitted(second, 9, ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    for key, tensor in second.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[key]), key
    assert not all(
        torch.equal(tensor, first.state_dict()[key]) for key, tensor in second.state_dict().items()
    )


def test_projection_is_the_nearest_non_negative_matrix():
    W = nn.Parameter(torch.tensor([[1.5, -2.0], [-0.0, 0.25]]))
    project([W])
    assert torch.equal(W, torch.tensor([[1.5, 0.0], [0.0, 0.25]]))
    assert W.requires_grad and W.grad is None


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
def test_sign_frozen_weights_keep_their_signs_however_hard_they_are_trained(name):
    module = module_of("sign_frozen", name)
    before = signs(tiny(name), "mlp_both")
    began = effective_state_dict(module.model)
    fitted(module, 8)
    assert fraction_crossed(module.model, "mlp_both", before) == 0
    assert least_effective_weight(module.model, "mlp_both") < 0
    moved = effective_state_dict(module.model)
    names = [f"{key}.weight" for key, _ in linears(name)]
    assert all((moved[key] - began[key]).abs().max() > 1e-3 for key in names)


def test_free_weights_cross_zero_which_is_what_sign_frozen_forbids():
    module = module_of("free")
    fitted(module, 8)
    before = signs(tiny("gpt_neox"), "mlp_both")
    assert 0.1 < fraction_crossed(module.model, "mlp_both", before) < 0.9
    assert least_effective_weight(module.model, "mlp_both") < 0


def test_a_sign_frozen_training_goes_on_from_a_checkpoint_exactly(tmp_path: Path):
    whole = module_of("sign_frozen")
    fitted(whole, 6)
    fitted(module_of("sign_frozen"), 3).save_checkpoint(tmp_path / "three.ckpt")
    second = module_of("sign_frozen")
    fitted(second, 6, ckpt_path=tmp_path / "three.ckpt", weights_only=True)
    theirs = effective_state_dict(whole.model)
    for key, tensor in effective_state_dict(second.model).items():
        assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "opt"])
@pytest.mark.parametrize("kind", ["softplus", "sign_frozen"])
def test_v_is_never_decayed_and_has_a_rate_of_its_own(kind, name):
    model = tiny(name)
    constrain(model, "mlp_both", "abs", kind)
    groups = parameter_groups(model, OPTIM)
    free = {id(V) for V in free_parameters(model).values()}
    assert len(free) == 4
    (own,) = [group for group in groups if {id(p) for p in group["params"]} & free]
    assert {id(p) for p in own["params"]} == free
    assert (own["lr"], own["weight_decay"]) == (OPTIM.free_lr, 0.0)
    counted = [id(p) for group in groups for p in group["params"]]
    assert sorted(counted) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "llama"])
@pytest.mark.parametrize("kind", ["free", "projected"])
def test_weights_without_a_v_are_ordinary_matrices_with_the_ordinary_rate(kind, name):
    model = tiny(name)
    scope = "gated_all" if name == "llama" else "mlp_both"
    names = constrain(model, scope, "abs", kind)
    assert free_parameters(model) == {}
    decayed, _ = parameter_groups(model, OPTIM)
    assert (decayed["lr"], decayed["weight_decay"]) == (OPTIM.lr, OPTIM.weight_decay)
    theirs = {id(p) for p in decayed["params"]}
    assert all(id(model.get_parameter(f"{one}.weight")) in theirs for one in names)


# --- the faults of the original pipeline, and the traps of torch's parametrizations ---


def test_a_check_over_named_parameters_looks_at_nothing_and_ours_does_not():
    model = tiny("gpt_neox")
    names = constrain(model, "mlp_both", "abs")
    by_name = dict(model.named_parameters())
    looked_at = [one for one in names if f"{one}.weight" in by_name]
    assert looked_at == [], "which is why such a check reports min = inf and passes"
    with torch.no_grad():  # break the constraint itself: V stays what it is
        parametrize.remove_parametrizations(model.get_submodule(names[2]), "weight", True)
        model.get_submodule(names[2]).weight[1, 2] = -0.5
    assert least_effective_weight(model, "mlp_both") == -0.5


@pytest.mark.parametrize("layer", [0, 1])
def test_a_weight_that_is_not_a_number_does_not_pass_as_non_negative(layer):
    model = tiny("gpt_neox")
    constrain(model, "mlp_both", "abs", "projected")
    with torch.no_grad():
        blocks(model)[layer].mlp.dense_4h_to_h.weight[0, 0] = torch.nan
    least = least_effective_weight(model, "mlp_both")
    assert not least >= 0
    before = signs(tiny("gpt_neox"), "mlp_both")
    assert fraction_crossed(model, "mlp_both", before) > 0


def test_crossing_is_counted_once_per_weight_and_shrinking_to_zero_is_none():
    model = tiny("gpt2")
    W = constrained_linears(model, "mlp_in")[0][1].weight
    with torch.no_grad():
        W.copy_(torch.ones_like(W))
        W[0, 0] = 0
        before = signs(model, "mlp_in")
        W[0, 1], W[0, 2], W[0, 3] = 0, -1e-9, 5
        W[0, 0] = 1e-9
    total = 2 * W.numel()
    assert fraction_crossed(model, "mlp_in", before) == pytest.approx(2 / total)


def test_save_pretrained_alone_loses_the_trained_weights_and_export_does_not(tmp_path: Path):
    model = tiny("gpt_neox")
    constrain(model, "mlp_both", "abs")
    logits = model(IDS).logits
    model.save_pretrained(tmp_path / "naive")
    with torch.random.fork_rng(devices=[]):
        naive = AutoModelForCausalLM.from_pretrained(tmp_path / "naive")
    assert not torch.allclose(naive(IDS).logits, logits, atol=1e-3)
    export(model, tmp_path / "ours")
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path / "ours")(IDS).logits, logits)


@pytest.mark.parametrize("kind", ["softplus", "sign_frozen"])
@pytest.mark.parametrize("name", ["gpt_neox", "gpt2"])
def test_merging_a_deep_copy_leaves_the_original_whole(name, kind):
    model = tiny(name)
    constrain(model, "mlp_both", "abs", kind)
    logits = model(IDS).logits
    twin = copy.deepcopy(model)
    merge(twin)
    assert torch.equal(twin(IDS).logits, logits)
    assert torch.equal(model(IDS).logits, logits)
    assert len(free_parameters(model)) == 4 and free_parameters(twin) == {}
    model(IDS, labels=IDS).loss.backward()
    assert all(V.grad is not None for V in free_parameters(model).values())
    merge(model)
    assert torch.equal(model(IDS).logits, logits)
    assert {type(m) for m in model.modules()} == {type(m) for m in tiny(name).modules()}


@pytest.mark.parametrize("kind", ["sign_frozen", "free", "projected"])
def test_half_precision_is_refused_whatever_holds_the_weights(kind):
    with pytest.raises(BadInput, match=r"bfloat16; load it as float32$"):
        constrain(tiny("gpt2").bfloat16(), "mlp_both", "abs", kind)
