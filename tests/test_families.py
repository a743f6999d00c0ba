"""Each architecture: which matrices a scope is, what activation it has, what an export computes."""

from pathlib import Path

import pytest
import torch
from tiny import CONFIGS, IDS, LAYERS, tiny
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from papertrail.core.errors import BadInput
from papertrail.nn import families
from papertrail.nn.activations import CLIPPED, GeluClipped, set_activation
from papertrail.nn.families import FAMILIES, Family, constrained_linears
from papertrail.nn.language_model import from_pretrained
from papertrail.nn.nonnegative import (
    constrain,
    effective_state_dict,
    export,
    free_parameters,
    least_effective_weight,
    merge,
)
from papertrail.nn.scoring import token_nll

BLOCKS = {
    "gpt_neox": "gpt_neox.layers", "gpt2": "transformer.h", "opt": "model.decoder.layers",
}  # fmt: skip
PLAIN = {
    "gpt_neox": ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "attention.dense"),
    "gpt2": ("mlp.c_fc", "mlp.c_proj", "attn.c_proj"),
    "opt": ("fc1", "fc2", "self_attn.out_proj"),
}
UP, DOWN, GATE = "mlp.up_proj", "mlp.down_proj", "mlp.gate_proj"
GATED = ("llama", "mistral", "qwen2", "qwen3", "gemma")

CASES = [
    (name, scope, inner)
    for name, (first, second, attention) in PLAIN.items()
    for scope, inner in {
        "mlp_in": [first],
        "mlp_both": [first, second],
        "mlp_in_attn_out": [first, attention],
    }.items()
] + [
    (name, scope, inner)
    for name in GATED
    for scope, inner in {"gated_updown": [UP, DOWN], "gated_all": [UP, DOWN, GATE]}.items()
]
WIDEST = [(name, "gated_all" if name in GATED else "mlp_both") for name in CONFIGS]


def test_every_architecture_of_the_table_is_tested_here():
    assert set(CONFIGS) == set(FAMILIES) == set(PLAIN) | set(GATED)


@pytest.mark.parametrize(("name", "scope", "inner"), CASES)
def test_a_scope_constrains_its_matrices_in_every_block_and_nothing_else(name, scope, inner):
    model = tiny(name)
    before = {key: p.clone() for key, p in model.named_parameters()}
    assert any((p < 0).any() for p in before.values())
    names = constrain(model, scope, "abs")
    blocks = BLOCKS.get(name, "model.layers")
    assert names == [f"{blocks}.{depth}.{one}" for depth in range(LAYERS) for one in inner]
    after = effective_state_dict(model)
    for key, old in before.items():
        if key.removesuffix(".weight") in names:
            torch.testing.assert_close(after[key], old.abs().clamp_min(1e-8))
            assert (old < 0).any(), key
        else:
            assert torch.equal(after[key], old), key
    assert least_effective_weight(model, scope) > 0
    assert len(free_parameters(model)) == len(names)


@pytest.mark.parametrize("kind", ["softplus", "sign_frozen", "free", "projected"])
@pytest.mark.parametrize(("name", "scope"), WIDEST)
def test_an_export_computes_exactly_what_the_converted_model_computes(tmp_path, name, scope, kind):
    model = tiny(name)
    set_activation(model, "relu")
    constrain(model, scope, "abs", kind)
    logits = model(IDS).logits
    export(model, tmp_path)
    loaded = from_pretrained(str(tmp_path))
    assert torch.equal(loaded(IDS).logits, logits)
    assert loaded.state_dict().keys() == tiny(name).state_dict().keys()
    merge(model)
    assert torch.equal(model(IDS).logits, logits)


def activations(model: nn.Module) -> list[nn.Module]:
    row = FAMILIES[model.config.model_type]
    return [block.get_submodule(row.activation) for block in model.get_submodule(row.blocks)]


NAMED = [
    (name, activation)
    for name in CONFIGS
    for activation in ("gelu", "relu", "gelu_clipped")
    if (name, activation) != ("gemma", "gelu")
]


@pytest.mark.parametrize(("name", "activation"), NAMED)
def test_an_activation_is_the_same_function_after_export(tmp_path, name, activation):
    model = tiny(name)
    kept = model(IDS).logits
    set_activation(model, activation)
    assert len(activations(model)) == LAYERS
    with torch.no_grad():  # far enough from zero that the three differ
        for _, matrix in constrained_linears(model, next(iter(FAMILIES[name].scopes))):
            matrix.weight.mul_(30)
    logits = model(IDS).logits
    export(model, tmp_path)
    loaded = from_pretrained(str(tmp_path))
    assert torch.equal(loaded(IDS).logits, logits)
    kinds = {"relu": nn.ReLU, "gelu_clipped": GeluClipped, "gelu": type(ACT2FN["gelu"])}
    for module in activations(model) + activations(loaded):
        assert type(module) is kinds[activation]
    assert not torch.equal(kept, logits)


def test_an_activation_that_would_come_back_as_another_is_refused():
    with pytest.raises(BadInput, match=r"gemma checkpoints take gelu for gelu_pytorch_tanh"):
        set_activation(tiny("gemma"), "gelu")


def test_kept_leaves_the_activation_and_its_name_alone():
    model = tiny("llama")
    before = activations(model)
    set_activation(model, "kept")
    assert all(a is b for a, b in zip(before, activations(model), strict=True))
    assert model.config.hidden_act == "silu"


def test_an_export_with_our_activation_fails_by_name_where_transformers_does_not_know_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    model = tiny("gpt2")
    set_activation(model, "gelu_clipped")
    export(model, tmp_path)
    monkeypatch.delitem(ACT2FN, CLIPPED)
    with pytest.raises(KeyError, match=CLIPPED):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(from_pretrained(str(tmp_path))(IDS).logits, model(IDS).logits)


def test_gpt2_keeps_its_matrices_transposed_and_a_search_for_linears_finds_none():
    model = tiny("gpt2")
    named = [module for name, module in model.named_modules() if "c_fc" in name]
    assert named and not any(isinstance(module, nn.Linear) for module in named)
    found = [matrix for _, matrix in constrained_linears(model, "mlp_in")]
    assert found == named and all(type(matrix) is Conv1D for matrix in found)
    assert found[0].weight.shape == (16, 64)


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_scored_is_what_the_model_itself_says(name):
    model, scored = tiny(name), torch.ones_like(IDS, dtype=torch.bool)
    scored[:, 0] = False
    logits = model(IDS).logits[:, :-1]
    expected = nn.functional.cross_entropy(logits.transpose(1, 2), IDS[:, 1:], reduction="none")
    torch.testing.assert_close(token_nll(model, IDS, scored), expected.flatten())


@pytest.mark.parametrize(
    ("name", "scope", "has"),
    [
        ("llama", "mlp_both", "gated_updown, gated_all"),
        ("qwen2", "mlp_in_attn_out", "gated_updown, gated_all"),
        ("gpt2", "gated_all", "mlp_in, mlp_both, mlp_in_attn_out"),
    ],
)
def test_a_scope_that_an_architecture_does_not_have_is_refused_with_those_it_has(name, scope, has):
    match = rf"^constraint\.scope: {name} has none .* \({scope}\); use one of {has}$"
    with pytest.raises(BadInput, match=match):
        constrain(tiny(name), scope, "abs")


KNOWN = r"use one of gemma, gpt2, gpt_neox, llama, mistral, opt, qwen2, qwen3$"


def gptj() -> GPTJForCausalLM:
    config = GPTJConfig(
        vocab_size=9, n_embd=8, n_layer=2, n_head=2, rotary_dim=2, n_positions=8,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPTJForCausalLM(config)


def test_an_unknown_architecture_is_refused_with_the_known_ones(tmp_path: Path):
    with pytest.raises(BadInput, match=rf"\(gptj\); {KNOWN}"):
        constrained_linears(gptj(), "mlp_in")
    gptj().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()  # refused before weights are read
    with pytest.raises(BadInput, match=rf"\(gptj\); {KNOWN}"):
        from_pretrained(str(tmp_path))


def test_an_architecture_whose_logits_are_capped_after_the_head_is_refused(tmp_path: Path):
    config = Gemma2Config(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, head_dim=8,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"\(gemma2\)"):
        from_pretrained(str(tmp_path))


def test_t5_is_refused_with_the_reason(tmp_path: Path):
    config = T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"an encoder-decoder \(t5\); .*pairs of source and target"):
        from_pretrained(str(tmp_path))


def test_a_folder_whose_config_names_no_architecture_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match=r"\(none named\)"):
        from_pretrained(str(tmp_path))


GPTJ = Family(
    blocks="transformer.h",
    mlp_in="mlp.fc_in",
    mlp_out="mlp.fc_out",
    attention_out="attn.out_proj",
    activation="mlp.act",
    activation_option="activation_function",
)


def test_another_family_is_one_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(families.FAMILIES, "gptj", GPTJ)
    model = gptj()
    assert len(constrain(model, "mlp_both", "abs")) == 4
    assert least_effective_weight(model, "mlp_both") > 0
    set_activation(model, "relu")
    assert model.config.activation_function == "relu"


def test_a_row_that_misses_a_matrix_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch):
    wrong = Family(
        blocks="transformer.h", mlp_in="mlp.fc", mlp_out="mlp.fc_out", attention_out="",
        activation="mlp.act", activation_option="activation_function",
    )  # fmt: skip
    monkeypatch.setitem(families.FAMILIES, "gptj", wrong)
    with pytest.raises(BadInput, match=r"transformer\.h\.0\.mlp\.fc should be a linear"):
        constrained_linears(gptj(), "mlp_in")


def test_a_model_without_blocks_is_never_found_non_negative(monkeypatch: pytest.MonkeyPatch):
    model = tiny("gpt2")
    del model.transformer.h[:]
    with pytest.raises(AssertionError, match="empty"):
        least_effective_weight(model, "mlp_in")
    assert isinstance(model, GPT2LMHeadModel)
