"""The world model under Lightning: a small Qwen2, its loss on unequal rows, its optimizer.

Axes: B rows, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen2Config, Qwen2ForCausalLM

from papertrail.nn.language_model import warmup_decay
from papertrail.world.mixes import split_by_length
from papertrail.world.options import Schedule, Transformer
from papertrail.world.spelling import BOS, EOS, PAD

LONGEST = 256  # tokens; the published models' context
WASTE = 1.15
"""Padded tokens per real token from which a batch is worth cutting into groups of like length."""
GROUPS = 4


def build(options: Transformer, vocabulary: int, seed: int) -> Qwen2ForCausalLM:
    """A Qwen2 whose matrices and embeddings start at N(0, init_std^2), biases at 0, norms at 1.

    The global random state stays as it was.
    """
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=options.width,
        intermediate_size=options.hidden,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.heads,
        max_position_embeddings=LONGEST,
        initializer_range=options.init_std,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        torch.default_generator.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
        for parameter in (p for p in model.parameters() if p.ndim >= 2):
            nn.init.normal_(parameter, std=options.init_std)  # the row of <pad> as well
    return model


def learnt(rows: Int[Tensor, "B T"], equals: int, loss: str) -> Bool[Tensor, "B T-1"]:
    """Which of the tokens behind the first are learnt: all of a row, or those after its `=`."""
    following = rows[:, 1:]
    if loss == "row":
        return following != PAD
    return (following != PAD) & ((rows[:, :-1] == equals).cumsum(1) > 0)


def logits_before(
    model: Qwen2ForCausalLM, rows: Int[Tensor, "B T"], at: Bool[Tensor, "B T-1"]
) -> Float[Tensor, "N V"]:
    """Logits of the N marked tokens: the head sees no others."""
    hidden = model.base_model(rows[:, :-1], use_cache=False).last_hidden_state
    logits: Tensor = model.lm_head(hidden[at])
    return logits


def summed_nll(
    model: Qwen2ForCausalLM, rows: Int[Tensor, "B T"], equals: int, loss: str
) -> tuple[Float[Tensor, ""], int]:
    """Summed NLL in nats of the tokens that are learnt, and how many they are.

    Right padding: no real token sees it, so no mask is needed.
    """
    at = learnt(rows, equals, loss)
    logits = logits_before(model, rows, at)
    truth = rows[:, 1:][at]
    return cross_entropy(logits.float(), truth, reduction="sum"), len(truth)


class WorldModel(L.LightningModule):
    """Trains the model that it holds; the loss of a batch is the mean over its learnt tokens."""

    def __init__(self, model: Qwen2ForCausalLM, schedule: Schedule, equals: int) -> None:
        """`equals`: the token between a question and its answer."""
        super().__init__()
        self.model = model
        self.schedule = schedule
        self.equals = equals
        self._seen = [0.0, 0.0, 0.0, 0.0]  # nats, tokens, rows answered rightly, rows

    def on_fit_start(self) -> None:
        self.model.train()

    def nll(self, rows: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """Mean NLL of a batch whose rows are sorted by length.

        Cut into groups of like length where padding would cost more than further passes: the same
        mean, of the same tokens.
        """
        parts = [summed_nll(self.model, one, self.equals, self.schedule.loss) for one in _cut(rows)]
        total: Tensor = torch.stack([nats for nats, _ in parts]).sum()
        return total / sum(tokens for _, tokens in parts)

    def training_step(self, rows: Int[Tensor, "B T"], _: int) -> Tensor:
        loss = self.nll(rows)
        self.log("train/loss", loss)
        self.log("train/lr", self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        return loss

    def on_validation_epoch_start(self) -> None:
        self._seen = [0.0, 0.0, 0.0, 0.0]

    def validation_step(self, rows: Int[Tensor, "B T"], _: int) -> None:
        at = learnt(rows, self.equals, self.schedule.loss)
        logits, truth = logits_before(self.model, rows, at), rows[:, 1:][at]
        wrong = torch.zeros_like(at)
        wrong[at] = logits.argmax(-1) != truth
        answers = learnt(rows, self.equals, "answer")
        right = ~(wrong & answers).any(1)
        nats = cross_entropy(logits.float(), truth, reduction="sum")
        found = (float(nats), len(truth), int(right.sum()), len(rows))
        self._seen = [a + b for a, b in zip(self._seen, found, strict=True)]

    def on_validation_epoch_end(self) -> None:
        nats, tokens, right, rows = self._seen
        self.log("val/loss", nats / tokens)
        self.log("val/exact", right / rows)

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer = AdamW(parameter_groups(self.model, self.schedule), fused=_fused(self.trainer))
        rate = LambdaLR(optimizer, lambda step: rate_at(step, steps, self.schedule))
        return [optimizer], [{"scheduler": rate, "interval": "step"}]


def parameter_groups(model: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    """Matrices and embeddings decay; biases and norms do not, as in the published trainings."""
    parameters = list(model.parameters())
    return [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "lr": schedule.lr,
            "weight_decay": schedule.weight_decay,
        },
        {
            "params": [p for p in parameters if p.ndim < 2],
            "lr": schedule.lr,
            "weight_decay": 0.0,
        },
    ]


def rate_at(step: int, steps: int, schedule: Schedule) -> float:
    """Fraction of the peak learning rate in optimizer step `step` of `steps`, from 0."""
    return warmup_decay(step, steps, schedule.warmup / steps)


def _cut(rows: Int[Tensor, "B T"]) -> Sequence[Int[Tensor, "_ _"]]:
    real = int((rows != PAD).sum())
    return split_by_length(rows, GROUPS) if rows.numel() > WASTE * real else [rows]


def _fused(trainer: L.Trainer) -> bool | None:
    # Under autocast Lightning clips no fused optimizer, for it might unscale gradients.
    return trainer.precision == "32-true" or None
