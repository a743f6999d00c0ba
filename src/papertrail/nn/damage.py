"""What the conversion of a model does to its function: loss, predictions and feed-forward outputs.

All at once and one layer at a time. Axes: B windows, T tokens, N predictions, D width,
V vocabulary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from papertrail.nn.branches import Seen, branches, watching
from papertrail.nn.families import blocks
from papertrail.nn.scoring import head_nll, rows_at_once
from papertrail.nn.statistics import evaluated, one_process

BEFORE, AFTER, RESTORED = "before", "after", "restored"


class Damage(L.LightningModule):
    """Compares a model with its converted twin on windows of ids, under `trainer.test`.

    The two share nothing but their shape. A layer on its own is the original model with that block
    of its twin; `restored` is the original once more, when every block is back: the control.
    """

    def __init__(self, original: PreTrainedModel, converted: PreTrainedModel) -> None:
        super().__init__()
        self.original = evaluated(original)
        self.converted = evaluated(converted)
        self._windows: list[pd.DataFrame] = []
        self._changes: dict[str, Tensor] = {}

    def on_test_start(self) -> None:
        """Starts from nothing. BadInput for more than one process."""
        one_process(self.trainer)
        self._windows, self._changes = [], {}

    def test_step(self, ids: Int[Tensor, "B T"], batch_idx: int) -> None:
        """One batch of windows."""
        twins = branches(self.converted)
        with watching(self.original, lambda seen: self._compare(seen, twins[seen.branch.depth])):
            clean = _states(self.original, ids)
        self._record(BEFORE, ids, clean, clean)
        for depth, branch in enumerate(twins):
            with exchanged(self.original, self.converted, depth):
                self._record(branch.label, ids, clean, _states(self.original, ids))
        self._record(AFTER, ids, clean, _states(self.converted, ids))
        self._record(RESTORED, ids, clean, _states(self.original, ids))

    def _compare(self, seen: Seen, twin: Any) -> None:
        """Squared change of a branch's outputs, and their square, at the original's inputs."""
        change = twin(seen.x) - seen.y
        squares = torch.stack([part.double().square().sum() for part in (change, seen.y)])
        label = seen.branch.label
        self._changes[label] = self._changes.get(label, torch.zeros_like(squares)) + squares

    def _record(
        self,
        state: str,
        ids: Int[Tensor, "B T"],
        clean: Float[Tensor, "B T-1 D"],
        states: Float[Tensor, "B T-1 D"],
    ) -> None:
        """The head is the same in both models; what differs is what it is given."""
        head = self.original.get_output_embeddings()  # type: ignore[no-untyped-call]
        targets = ids[:, 1:]
        nll = head_nll(self.original, states.flatten(0, 1), targets.flatten())
        kl = divergence(head, clean.flatten(0, 1), states.flatten(0, 1))
        sums = [part.double().view_as(targets).sum(1).cpu() for part in (nll, kl)]
        found = {"nll": sums[0], "kl": sums[1], "num_tokens": targets.shape[1], "state": state}
        self._windows.append(pd.DataFrame(found))

    def windows(self) -> pd.DataFrame:
        """One row per state and window: `nll` and `kl`, sums in nats over `num_tokens`.

        States: before, one per layer for that layer alone, after, restored.
        """
        found = pd.concat(self._windows, ignore_index=True)
        return found.assign(window=found.groupby("state").cumcount())

    def frame(self) -> pd.DataFrame:
        """One row per state: `loss` and `kl` per token, nats, and where it is one layer or all,
        `ffn_change`: Frobenius norm of the change of feed-forward outputs over theirs."""
        sums = self.windows().groupby("state", sort=False)[["nll", "kl", "num_tokens"]].sum()
        found = pd.DataFrame(
            {"loss": sums["nll"] / sums["num_tokens"], "kl": sums["kl"] / sums["num_tokens"]}
        )
        changes = self._changes | {AFTER: torch.stack([*self._changes.values()]).sum(0)}
        relative = {state: float((one[0] / one[1]).sqrt()) for state, one in changes.items()}
        return found.assign(ffn_change=pd.Series(relative)).reset_index()


@contextmanager
def exchanged(model: PreTrainedModel, twin: PreTrainedModel, depth: int) -> Iterator[None]:
    """Inside the block, `model` has the transformer block of `twin` at `depth`."""
    own = blocks(model)[depth]
    blocks(model)[depth] = blocks(twin)[depth]
    try:
        yield
    finally:
        blocks(model)[depth] = own


def divergence(
    head: nn.Module, before: Float[Tensor, "N D"], after: Float[Tensor, "N D"]
) -> Float[Tensor, " N"]:
    """KL(before || after) of the next-token distributions in nats, some rows at a time."""
    rows = rows_at_once(before.device, head.out_features)  # type: ignore[arg-type]
    parts = []
    for one, other in zip(torch.split(before, rows), torch.split(after, rows), strict=True):
        log_p, log_q = (head(some).float().log_softmax(-1) for some in (one, other))
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return torch.cat(parts)


def _states(model: PreTrainedModel, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T-1 D"]:
    """What the head is given to predict every token but the first."""
    states: Tensor = model.base_model(ids[:, :-1], use_cache=False).last_hidden_state
    return states
