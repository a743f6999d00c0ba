"""A trained model as evaluations and attacks want it: plain or quantized weights, evaluation mode.

Losses are float32 and gradients with respect to input embeddings exist in every case; embeddings,
LayerNorm and the output head are never quantized.
"""

import logging
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from papertrail.core.errors import BadInput
from papertrail.core.reading import address
from papertrail.nn import activations
from papertrail.nn.language_model import TRUSTED

Quantization = Literal["none", "int8", "nf4"]


def load(
    source: str | Path, quantization: Quantization = "none"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model and its tokenizer from the folder of an export or from models:/NAME@ALIAS; its
    parameters frozen if quantized.

    int8: LLM.int8() (Dettmers et al. 2022), which rounds the inputs of a linear layer too; nf4:
    4-bit NormalFloat with double quantization (Dettmers et al. 2023), computed in float32. Raises
    BadInput for a model without a linear layer to quantize.
    """
    activations.register()
    folder = address.folder(str(source)) or source
    options = {} if quantization == "none" else {"quantization_config": _config(quantization)}
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, **TRUSTED, **options
    )
    if quantization != "none":
        _settle(model, quantization)
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False
    )
    model.eval()  # type: ignore[no-untyped-call]
    return model, tokenizer


def _config(quantization: Quantization) -> BitsAndBytesConfig:
    # It warns at every multiplication that float32 inputs pass through float16, as LLM.int8() says.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.float32,
    }
    if quantization == "int8":
        options = {"load_in_8bit": True}
    return BitsAndBytesConfig(**options)  # type: ignore[no-untyped-call]


def _settle(model: PreTrainedModel, quantization: Quantization) -> None:
    """Freeze what integers cannot train, and stay with float32 where the CPU could do less."""
    # here, for it takes seconds that only those pay who ask for it
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt

    layers = [one for one in model.modules() if isinstance(one, (Linear4bit, Linear8bitLt))]
    if not layers:
        raise BadInput(
            f"load.quantization: {type(model).__name__} has no linear layer that bitsandbytes "
            f"quantizes ({quantization}); use none"
        )
    for layer in layers:
        # On a CPU with bfloat16 instructions it would repack the weights at the first forward pass
        # without gradients: for a bfloat16 product, and in an order that a gradient cannot read.
        layer.support_avx512bf16_for_cpu = False
    model.requires_grad_(False)
