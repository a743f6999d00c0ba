"""A causal language model under Lightning: next-token cross entropy, and its optimizer.

Axes: B windows, T tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import (
    AutoModelForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from papertrail.core.errors import BadInput
from papertrail.core.reading import address
from papertrail.nn import activations
from papertrail.nn.families import family
from papertrail.nn.nonnegative import free_parameters, project
from papertrail.nn.scoring import head_nll

TRUSTED: dict[str, Any] = {"trust_remote_code": False, "weights_only": True}
"""A checkpoint is data: safetensors where there are any, else a pickle of tensors alone."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of a model that is trained from scratch."""

    layers: int
    width: int
    heads: int
    context: int
    """Longest window, in tokens."""

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise BadInput(
                f"width: no multiple of heads ({self.width} / {self.heads}); "
                f"try {max(1, self.width // self.heads) * self.heads}"
            )


@dataclass(frozen=True, kw_only=True)
class Optimization:
    """AdamW with a linear warmup, then a linear decay to zero or none at all."""

    lr: float
    free_lr: float
    """Of V in W = softplus(V). A step of V changes a small W by that fraction of itself, so V wants
    a much larger one than the weights beside it."""
    weight_decay: float
    """Of matrices that are neither embeddings nor V: decay would pull V to 0, so W up to ln 2."""
    warmup_fraction: float
    """Of all optimizer steps."""
    decay: Literal["linear", "none"] = "linear"
    betas: tuple[float, float] = (0.9, 0.95)


def from_shape(shape: Shape, vocab_size: int, seed: int) -> GPTNeoXForCausalLM:
    """A Pythia-style GPT-NeoX with random weights; the global random state stays as it was.

    Weights start at std sqrt(2 / 5D) (Nguyen and Salazar 2019, as Pythia does).
    """
    config = GPTNeoXConfig(
        vocab_size=vocab_size,
        hidden_size=shape.width,
        intermediate_size=4 * shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=shape.context,
        initializer_range=(2 / (5 * shape.width)) ** 0.5,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        torch.default_generator.manual_seed(seed)
        return GPTNeoXForCausalLM(config)


def from_pretrained(name: str, revision: str = "main") -> PreTrainedModel:
    """A causal LM by hub id, local folder or models:/NAME@ALIAS, in float32 whatever its
    checkpoint is stored in.

    Master weights are float32; lower precision is the Trainer's autocast. Code that comes with a
    checkpoint is never run, in its pickles neither. Raises BadInput if there is no such model, and
    for an architecture that is not supported, before its weights are read.
    """
    activations.register()
    source = str(address.folder(name)) if address.registered(name) else name
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source, revision=revision)
        family(settings.get("model_type", "none named"))
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, dtype=torch.float32, **TRUSTED
        )
    except OSError as error:
        advice = "give a folder with config.json and weights, or a hub id that this host can reach"
        raise BadInput(f"model: not found ({name}); {advice}") from error
    except UnpicklingError as error:
        raise BadInput(
            f"model: its weights hold more than tensors ({name}); give safetensors, or a "
            "checkpoint that torch.load reads with weights_only"
        ) from error
    return model


def build(name: str, shape: Shape, vocab_size: int, seed: int) -> PreTrainedModel:
    """`nano`: a new model of `shape`; anything else: a hub id or local folder, `shape` unused.

    Raises BadInput for a pretrained model with fewer embeddings than the tokenizer has tokens.
    """
    if name == "nano":
        return from_shape(shape, vocab_size, seed)
    model = from_pretrained(name)
    embeddings = model.get_input_embeddings()
    assert isinstance(embeddings, nn.Embedding), type(embeddings).__name__
    rows = embeddings.num_embeddings
    if rows < vocab_size:
        raise BadInput(
            f"model: {Path(name).name} has {rows} embeddings, the tokenizer {vocab_size} tokens; "
            f"use the tokenizer that belongs to the model"
        )
    return model


class LanguageModel(L.LightningModule):
    """Trains the model that it holds on windows of token ids; clipping and precision: Trainer."""

    def __init__(
        self,
        model: PreTrainedModel,
        optimization: Optimization,
        gradient_checkpointing: bool = False,
        projected: Sequence[str] = (),
    ) -> None:
        """`projected`: the matrices whose weights are set to max(W, 0) after every step."""
        super().__init__()
        self.model = model
        self.optimization = optimization
        self.projected = projected
        if gradient_checkpointing:
            model.activation_checkpointing_enable()
        self._val_nll = torch.zeros((), dtype=torch.float64)
        self._val_tokens = 0

    def nll(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Mean NLL in nats of the T - 1 tokens that have a token before them."""
        hidden = self.model.base_model(ids[:, :-1], use_cache=False).last_hidden_state
        return head_nll(self.model, hidden.flatten(0, 1), ids[:, 1:].flatten()).mean()

    def configure_model(self) -> None:
        """Give each device its share of every block, where the Trainer's strategy has a mesh."""
        if self.device_mesh is None:
            return
        blocks = [one for part in self.modules() if isinstance(part, nn.ModuleList) for one in part]
        for block in blocks:
            fully_shard(block, mesh=self.device_mesh["data_parallel"])
        fully_shard(self, mesh=self.device_mesh["data_parallel"])
        # Not `forward` is called but this, and it is here that the root's weights are gathered.
        register_fsdp_forward_method(self, "nll")

    def on_fit_start(self) -> None:
        # from_pretrained leaves a model in eval mode, and Lightning keeps modes as it finds them
        self.model.train()

    def training_step(self, ids: Int[Tensor, "B T"], _: int) -> Tensor:
        loss = self.nll(ids)
        self.log("train/loss", loss, prog_bar=True, sync_dist=True)  # the mean over devices
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def on_validation_epoch_start(self) -> None:
        self._val_nll = torch.zeros((), dtype=torch.float64, device=self.device)
        self._val_tokens = 0

    def validation_step(self, ids: Int[Tensor, "B T"], _: int) -> None:
        num_scored = ids.shape[0] * (ids.shape[1] - 1)
        self._val_nll += self.nll(ids).double() * num_scored
        self._val_tokens += num_scored

    def on_validation_epoch_end(self) -> None:
        tokens = torch.tensor(self._val_tokens, dtype=torch.float64, device=self.device)
        nll, tokens = (
            self.trainer.strategy.reduce(part, reduce_op="sum") for part in (self._val_nll, tokens)
        )
        # reduced over processes already; sync_dist is then the identity
        self.log("val/loss", nll / tokens, prog_bar=True, sync_dist=True)
        self.log("val/perplexity", (nll / tokens).exp(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer = AdamW(
            parameter_groups(self.model, self.optimization),
            betas=self.optimization.betas,
            # Under autocast Lightning clips no fused optimizer, for it might unscale gradients.
            fused=self.trainer.precision == "32-true" or None,
        )
        if self.projected:
            held = [self.model.get_parameter(f"{name}.weight") for name in self.projected]
            # by the optimizer, not between batches: a checkpoint never sees a negative weight
            optimizer.register_step_post_hook(lambda *_: project(held))
        schedule = LambdaLR(optimizer, lambda step: self._rate(step, steps))
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def _rate(self, step: int, steps: int) -> float:
        """Fraction of the peak learning rate. A constant one does not know how long the run is."""
        warmup = self.optimization.warmup_fraction
        if self.optimization.decay == "none" and step >= round(steps * warmup):
            return 1.0
        return warmup_decay(step, steps, warmup)


def parameter_groups(model: nn.Module, optimization: Optimization) -> list[dict[str, Any]]:
    """Three groups: decayed, not decayed (biases, LayerNorm, embeddings), and V.

    Embedding rows are seen at the rate of their token: decay would shrink the rare ones to nothing.
    """
    free = free_parameters(model)
    embeddings = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
    }
    others = {name: p for name, p in model.named_parameters() if name not in free}
    decayed = {name for name, p in others.items() if p.ndim >= 2 and name not in embeddings}
    groups = [
        {
            "params": [p for name, p in others.items() if name in decayed],
            "lr": optimization.lr,
            "weight_decay": optimization.weight_decay,
        },
        {
            "params": [p for name, p in others.items() if name not in decayed],
            "lr": optimization.lr,
            "weight_decay": 0.0,
        },
        {"params": list(free.values()), "lr": optimization.free_lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def warmup_decay(step: int, steps: int, warmup_fraction: float) -> float:
    """Fraction of the peak learning rate in optimizer step `step` of `steps`, from 0.

    The first step already moves and the last still does: neither end wastes a step at zero.
    """
    warmup = round(steps * warmup_fraction)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return max(0, steps - step) / max(1, steps - warmup)
