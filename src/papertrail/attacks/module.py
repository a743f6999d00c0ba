"""An attack as a Lightning test loop: devices, precision and progress come from the Trainer.

Run it with `Trainer(inference_mode=False).test(module, loader)`: an attack needs gradients.
Axes: B texts of a batch, N texts, T tokens, V vocabulary, n = flips + 1 budgets.
"""

import time
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from papertrail.attacks.candidates import evaluate_ids
from papertrail.attacks.controls import one_shot, random_flips
from papertrail.attacks.objectives import Objective, fixed_targets, paper_compat
from papertrail.attacks.prefix import Work
from papertrail.attacks.search import Curve, hotflip, query_search
from papertrail.attacks.tokens import round_trips
from papertrail.core.errors import BadInput

Method = Literal["hotflip", "query", "random", "one_shot", "replay"]


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """One attack with its budget."""

    method: Method = "hotflip"
    """`replay` evaluates given versions of the texts, such as another model's adversarial ids."""
    flips: int = 5
    """Positions that may differ from the clean text."""
    top_k: int = 24
    """Exact evaluations per flip and beam state (hotflip, query)."""
    beam: int = 1
    """Flip sequences kept per text (hotflip, query); 1 is greedy."""
    draws: int = 4
    """Independent random attacks per text (random)."""
    protocol: Literal["fixed_targets", "paper_compat"] = "fixed_targets"
    """What may be attacked and what is scored."""
    seed: int = 0
    """Of the random draws; hotflip and one_shot have none."""
    tokens_at_once: int = 8192
    """Tokens in one forward pass; halved when memory runs out."""


class AttackModule(L.LightningModule):
    """Attacks every text of the loader and keeps one record per text, draw and budget.

    Freezes the parameters of `model` and puts it in eval mode.
    """

    def __init__(
        self,
        model: Any,
        settings: AttackSettings,
        banned: Bool[Tensor, " V"] | None = None,
        tokenizer: Any = None,
    ) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.settings = settings
        self.tokenizer = tokenizer
        self.banned: Tensor | None
        self.register_buffer("banned", banned, persistent=False)
        self._frames: list[pd.DataFrame] = []
        self._ids: list[Tensor] = []

    def on_test_start(self) -> None:
        """Starts with no records. BadInput for more than one process: texts are not gathered."""
        if self.trainer.world_size > 1:
            raise BadInput(
                f"trainer.devices: attacks keep their records in one process "
                f"({self.trainer.world_size} given); set trainer.devices=1"
            )
        self._frames, self._ids = [], []
        self.model.eval()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One batch of `text_loader`."""
        objective = _objective(self.settings, batch)
        work = Work(self.settings.tokens_at_once)
        start = time.perf_counter()
        curves = self._attack(objective, batch, work)
        seconds = (time.perf_counter() - start) / len(objective.ids)
        for draw, curve in enumerate(curves):
            frame = _frame(objective, batch["text"], draw, curve)
            frame["seconds"], frame["num_oom_retries"] = seconds, work.num_oom_retries
            frame["round_trip"] = self._round_trips(curve, batch["num_tokens"])
            self._frames.append(frame)
        self._ids.append(torch.stack([curve.ids for curve in curves], 1).cpu())

    def records(self) -> pd.DataFrame:
        """One row per text, draw and number of flips (0 is the clean text).

        NLLs are sums in nats over `num_scored_tokens`; `evaluations` and `gradients` were spent on
        the text up to this budget; `seconds` is the text's share of its batch's whole curve;
        `num_oom_retries` that of the batch; `round_trip` is missing without a tokenizer.
        """
        frame = pd.concat(self._frames, ignore_index=True)
        return frame.sort_values(["text", "draw", "flips"], ignore_index=True)

    def adversarial_ids(self, draw: int = 0) -> Int[Tensor, "N n T"]:
        """The texts at every budget, in loader order: what `replay` on another model takes."""
        return torch.cat([ids[:, draw] for ids in self._ids])

    def _attack(self, objective: Objective, batch: dict[str, Tensor], work: Work) -> list[Curve]:
        s, model, banned = self.settings, self.model, self.banned
        texts = batch["text"].tolist()
        if s.method == "replay":
            ids = batch["attacked"]
            none = torch.zeros_like(ids[..., 0])
            return [Curve(ids, evaluate_ids(model, objective, ids, work), none, none)]
        if s.method == "random":
            return random_flips(
                model,
                objective,
                flips=s.flips,
                draws=s.draws,
                banned=banned,
                seed=s.seed,
                texts=texts,
                work=work,
            )
        if s.method == "one_shot":
            return [one_shot(model, objective, flips=s.flips, banned=banned, work=work)]
        search: dict[str, Any] = {
            "flips": s.flips,
            "top_k": s.top_k,
            "beam": s.beam,
            "banned": banned,
            "work": work,
        }
        if s.method == "query":
            return [query_search(model, objective, seed=s.seed, texts=texts, **search)]
        return [hotflip(model, objective, **search)]

    def _round_trips(self, curve: Curve, num_tokens: Tensor) -> Any:
        if self.tokenizer is None:
            return pd.NA
        num_budgets = curve.ids.shape[1]
        lengths = num_tokens.repeat_interleave(num_budgets)
        return round_trips(self.tokenizer, curve.ids.flatten(0, 1), lengths).numpy()


class _Texts(Dataset[dict[str, Tensor]]):
    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["text"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: values[row] for name, values in self.columns.items()}


def text_loader(
    ids: Int[Tensor, "N T"],
    num_tokens: Int[Tensor, " N"] | None = None,
    attacked: Int[Tensor, "N n T"] | None = None,
    batch_size: int = 64,
) -> DataLoader[dict[str, Tensor]]:
    """Batches for `AttackModule`: right-padded ids, their lengths, and versions to replay."""
    columns = {"text": torch.arange(len(ids)), "ids": ids}
    columns["num_tokens"] = torch.full_like(ids[:, 0], ids.shape[1])
    if num_tokens is not None:
        columns["num_tokens"] = num_tokens
    if attacked is not None:
        columns["attacked"] = attacked
    return DataLoader(_Texts(columns), batch_size=batch_size)


def _objective(settings: AttackSettings, batch: dict[str, Tensor]) -> Objective:
    protocol = fixed_targets if settings.protocol == "fixed_targets" else paper_compat
    return protocol(batch["ids"], batch["num_tokens"])


def _frame(objective: Objective, text: Tensor, draw: int, curve: Curve) -> pd.DataFrame:
    num_texts, num_budgets = curve.losses.shape

    def per_text(values: Tensor) -> Any:
        return values.cpu().numpy().repeat(num_budgets)

    return pd.DataFrame(
        {
            "text": per_text(text),
            "draw": draw,
            "flips": list(range(num_budgets)) * num_texts,
            "clean_nll": per_text(curve.losses[:, 0].double()),
            "attacked_nll": curve.losses.double().flatten().cpu().numpy(),
            "num_scored_tokens": per_text(objective.num_scored),
            "evaluations": curve.evaluations.flatten().cpu().numpy(),
            "gradients": curve.gradients.flatten().cpu().numpy(),
        }
    )
