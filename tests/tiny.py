"""Models of every architecture with random weights, small enough for a test."""

from typing import Any

import torch
from transformers import (
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

VOCAB, WIDTH, LAYERS = 50, 16, 2
IDS = torch.arange(24).reshape(2, 12) % VOCAB

COMMON = {"vocab_size": VOCAB, "use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
SHAPE = {
    "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "max_position_embeddings": 16,
}  # fmt: skip
GROUPED = {**COMMON, **SHAPE, "intermediate_size": 40, "num_key_value_heads": 1, "head_dim": 8}

CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "gpt_neox": (GPTNeoXConfig, {**COMMON, **SHAPE, "intermediate_size": 64}),
    "gpt2": (
        GPT2Config,
        {**COMMON, "n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 16},
    ),
    "opt": (OPTConfig, {**COMMON, **SHAPE, "ffn_dim": 64, "word_embed_proj_dim": 8}),
    "llama": (LlamaConfig, GROUPED),
    "mistral": (MistralConfig, GROUPED),
    "qwen2": (Qwen2Config, GROUPED),
    "qwen3": (Qwen3Config, GROUPED),
    "gemma": (GemmaConfig, GROUPED),
}


def tiny(architecture: str, **changes: Any) -> PreTrainedModel:
    """The same random model each time, in evaluation mode."""
    build, options = CONFIGS[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(build(**(options | changes)))
    return model.eval()
