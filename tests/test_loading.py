"""Models in 8 and 4 bits: what is lost is small and ordered, and gradients still exist."""

from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import nn
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
    PreTrainedTokenizerFast,
)

from papertrail.nn.loading import load
from papertrail.nn.scoring import span_nll

VOCAB = 120
MODELS = {
    "gpt_neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        )
    ),
    "odd widths": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=36, intermediate_size=100, num_hidden_layers=1,
            num_attention_heads=3, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=2, n_positions=64, bos_token_id=0,
            eos_token_id=0,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            vocab_size=VOCAB, hidden_size=64, ffn_dim=128, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64, word_embed_proj_dim=64,
        )
    ),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=2, max_position_embeddings=64,
        )
    ),
}  # fmt: skip
Bits = Literal["int8", "nf4"]


def exported(name: str, folder: Path) -> PreTrainedModel:
    """A random model in `folder`, with a tokenizer beside it."""
    from tokenizers import Tokenizer, models

    torch.manual_seed(0)
    model: PreTrainedModel = MODELS[name]()
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w0").save_pretrained(folder)
    model.eval()
    return model


def gradient(model: PreTrainedModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of NLL, and their gradient with respect to the input embeddings."""
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    scored = torch.ones_like(ids, dtype=torch.bool)
    scored[:, 0] = False
    nll = span_nll(model, ids, scored, embeds)
    (found,) = torch.autograd.grad(nll.sum(), embeds)
    return nll.detach(), found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("bits", "lost"), [("int8", 0.03), ("nf4", 0.25)])
def test_logits_and_gradients_survive_quantization(
    tmp_path: Path, name: str, bits: Bits, lost: float
):
    plain = exported(name, tmp_path)
    model, _ = load(tmp_path, bits)
    ids = torch.randint(0, VOCAB, (3, 17), generator=torch.Generator().manual_seed(1))
    # First without gradients, as an evaluation does: what that leaves behind must not matter.
    with torch.no_grad():
        before = model(ids).logits
    assert 0 < (before - plain(ids).logits).norm() / plain(ids).logits.norm() < lost
    (nll, found), (theirs, wanted) = gradient(model, ids), gradient(plain, ids)
    assert found.dtype == nll.dtype == torch.float32
    torch.testing.assert_close(nll, theirs, rtol=0.02, atol=0.0)
    cosine = torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0)
    assert 1 - lost < cosine < 1 - 1e-7
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, before)


@pytest.mark.parametrize("bits", ["int8", "nf4"])
def test_only_the_blocks_are_quantized_and_nothing_trains(tmp_path: Path, bits: Bits):
    exported("gpt_neox", tmp_path)
    model, _ = load(tmp_path, bits)
    assert type(model.get_output_embeddings()) is nn.Linear
    assert model.get_input_embeddings().weight.dtype == torch.float32
    linears = [one for one in model.modules() if isinstance(one, nn.Linear)]
    kept = [one for one in linears if one.weight.dtype == torch.float32]
    assert len(linears) == 9 and kept == [model.get_output_embeddings()]
    assert not any(p.requires_grad for p in model.parameters()) and not model.training


def test_4_bits_are_computed_in_float32(tmp_path: Path):
    """The product of a layer is that of its dequantized weight, to float32 precision."""
    from bitsandbytes.functional import dequantize_4bit

    exported("gpt_neox", tmp_path)
    model, _ = load(tmp_path, "nf4")
    layer = model.gpt_neox.layers[0].mlp.dense_h_to_4h
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        torch.testing.assert_close(layer(x), x @ weight.T + layer.bias, rtol=1e-5, atol=1e-6)
    assert len(weight.unique()) > 16  # 16 levels times the scales of the blocks
    assert layer.weight.dtype == torch.uint8 and layer.weight.numel() == 64 * 256 // 2


def test_without_quantization_the_weights_are_those_that_were_exported(tmp_path: Path):
    plain = exported("gpt_neox", tmp_path)
    model, tokenizer = load(tmp_path)
    assert all(
        torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True)
    )
    assert len(tokenizer) == VOCAB and not model.training
