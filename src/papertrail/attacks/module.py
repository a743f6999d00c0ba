"""An attack as a Lightning test loop: devices, precision and progress come from the Trainer.

Run it with `Trainer(inference_mode=False).test(module, loader)`: an attack needs gradients. In an
open run every finished batch is a part of it, so a run that was killed repeats none.
Axes: B texts of a batch, N texts, T tokens, V vocabulary, R draws, n budgets.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from papertrail.attacks import rows
from papertrail.attacks.candidates import evaluate_ids
from papertrail.attacks.controls import one_shot, random_flips
from papertrail.attacks.gcg import gcg
from papertrail.attacks.objectives import Objective, fixed_targets, paper_compat
from papertrail.attacks.pgd import Norm, pgd
from papertrail.attacks.prefix import Work, know
from papertrail.attacks.search import Curve, hotflip, query_search
from papertrail.attacks.tokens import round_trips
from papertrail.core import stopping
from papertrail.core.errors import BadInput
from papertrail.core.writing import track
from papertrail.core.writing.parts import Arrays, part

Method = Literal["hotflip", "query", "random", "one_shot", "replay", "gcg", "pgd"]


@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """One attack with its budget."""

    method: Method = "hotflip"
    """`replay` evaluates given versions of the texts, such as another model's adversarial ids."""
    flips: int = 5
    """Positions that may differ from the clean text (all but gcg and pgd)."""
    top_k: int = 24
    """Exact evaluations per flip and beam state (hotflip, query), tokens per position (gcg)."""
    beam: int = 1
    """Flip sequences kept per text (hotflip, query); 1 is greedy."""
    draws: int = 4
    """Independent random attacks per text (random)."""
    steps: int = 40
    """Moves per text (gcg) or per text and radius (pgd)."""
    width: int = 48
    """Exact evaluations per move (gcg)."""
    radii: tuple[int | float, ...] = (0.25, 1.0)
    """Largest displacement of a token, relative to the size of an embedding (pgd)."""
    norm: Norm = "l2"
    """Of a displacement (pgd)."""
    step_size: int | float = 0.2
    """Of a move, relative to the radius (pgd)."""
    protocol: Literal["fixed_targets", "paper_compat"] = "fixed_targets"
    """What may be attacked and what is scored."""
    seed: int = 0
    """Of the random draws; hotflip, one_shot and pgd have none."""
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
        self._found: list[Arrays] = []

    def on_test_start(self) -> None:
        """Starts with no records. BadInput for more than one process: texts are not gathered."""
        if self.trainer.world_size > 1:
            raise BadInput(
                f"trainer.devices: attacks keep their records in one process "
                f"({self.trainer.world_size} given); set trainer.devices=1"
            )
        stopping.take_back()
        self._found = []
        self.model.eval()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """One batch of `text_loader`, unless this run did it before it was killed.

        A request to stop waits for the end of the batch.
        """
        if track.current() is None:
            self._found.append(self._measured(batch))
            return
        name = f"{self.settings.method}-{batch_idx:05d}-{self._fingerprint(batch)}"
        with stopping.between_steps():
            self._found.append(part(name, lambda: self._measured(batch)))

    def records(self) -> pd.DataFrame:
        """One row per text, draw and budget, which is the number of `flips` (0 is the clean text).

        With gcg the budget is the number of moves, with pgd that of the `radius`, from 1. NLLs are
        sums in nats over `num_scored_tokens`; `evaluations` and `gradients` were spent on the text
        up to this budget; `seconds` and `num_oom_retries` are the row's share of its batch's whole
        curve; `round_trip` is missing without a tokenizer or a text. Of pgd also: `radius`, and
        `moved` and `strayed`, the largest displacement of a token that may be attacked and of one
        that may not.
        """
        frame = pd.concat([rows.frame(found) for found in self._found], ignore_index=True)
        return frame.sort_values(["text", "draw", "flips"], ignore_index=True)

    def adversarial_ids(self, draw: int = 0) -> Int[Tensor, "N n T"]:
        """The texts at every budget, in loader order: what `replay` on another model takes."""
        assert self.settings.method != "pgd", "a displaced embedding is no text"
        return torch.cat([torch.from_numpy(found["ids"][draw]) for found in self._found])

    def _measured(self, batch: dict[str, Tensor]) -> Arrays:
        """What the attack did to a batch; its time and memory with it."""
        objective = _objective(self.settings, batch)
        work = Work(self.settings.tokens_at_once)
        start = time.perf_counter()
        if self.settings.method == "pgd":
            found = self._displaced(objective, work)
        else:
            curves = self._attack(objective, batch, work)
            found = rows.of_curves(curves, self._budgets(curves[0].ids.shape[1]))
            found |= self._round_trips(curves, batch["num_tokens"])
        num_rows = found["losses"].shape[0] * len(objective.ids)
        found["seconds"] = np.array((time.perf_counter() - start) / num_rows)
        found["num_oom_retries"] = np.array(work.num_oom_retries / num_rows)
        found["text"] = batch["text"].cpu().numpy()
        found["num_scored"] = objective.num_scored.cpu().numpy()
        return found

    def _budgets(self, count: int) -> list[int]:
        gcg = self.settings.method == "gcg"
        return reported_steps(self.settings.steps) if gcg else list(range(count))

    def _attack(self, objective: Objective, batch: dict[str, Tensor], work: Work) -> list[Curve]:
        s = self.settings
        common: dict[str, Any] = {"work": work, "banned": self.banned}
        random: dict[str, Any] = {"seed": s.seed, "texts": batch["text"].tolist()}
        flips: dict[str, Any] = {"flips": s.flips, "top_k": s.top_k, "beam": s.beam}
        if s.method == "replay":
            ids = batch["attacked"]
            none = torch.zeros_like(ids[..., 0])
            return [Curve(ids, evaluate_ids(self.model, objective, ids, work), none, none)]
        if s.method == "random":
            controls: dict[str, Any] = {"flips": s.flips, "draws": s.draws}
            return random_flips(self.model, objective, **controls, **random, **common)
        if s.method == "one_shot":
            return [one_shot(self.model, objective, flips=s.flips, **common)]
        if s.method == "query":
            return [query_search(self.model, objective, **flips, **random, **common)]
        if s.method == "gcg":
            moves: dict[str, Any] = {"steps": s.steps, "width": s.width, "top_k": s.top_k}
            search = gcg(self.model, objective, **moves, **random, **common)
            return [search.curve(reported_steps(s.steps))]
        return [hotflip(self.model, objective, **flips, **common)]

    def _displaced(self, objective: Objective, work: Work) -> dict[str, np.ndarray]:
        """Embedding space: no ids and no round trip, and the clean loss measured from the ids."""
        s = self.settings
        clean = know(self.model, objective, objective.ids, work).losses
        found = pgd(
            self.model, objective, radii=s.radii, steps=s.steps, step_size=s.step_size,
            norm=s.norm, banned=self.banned, work=work,
        )  # fmt: skip
        return rows.of_ascent(found, s.radii, s.norm, clean, objective.attackable)

    def _round_trips(self, curves: list[Curve], num_tokens: Tensor) -> dict[str, np.ndarray]:
        if self.tokenizer is None:
            return {}
        ids = torch.stack([curve.ids for curve in curves])  # (R, B, n, T)
        lengths = num_tokens[None, :, None].expand(ids.shape[:-1])
        survive = round_trips(self.tokenizer, ids.flatten(0, 2), lengths.flatten())
        return {"round_trip": survive.numpy().reshape(ids.shape[:-1])}

    def _fingerprint(self, batch: dict[str, Tensor]) -> str:
        """Of everything that a batch's result follows from: several attacks may share a run."""
        found = hashlib.sha256(f"{self.settings} {self.tokenizer is None}".encode())
        for values in (self.banned, *batch.values(), *_sampled(self.model)):
            if values is not None:
                found.update(values.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]


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


def reported_steps(steps: int) -> list[int]:
    """Of a search of `steps` moves those after which it is reported: 0, and halvings of them."""
    return [0, *sorted(steps >> k for k in range(steps.bit_length()))]


def _objective(settings: AttackSettings, batch: dict[str, Tensor]) -> Objective:
    protocol = fixed_targets if settings.protocol == "fixed_targets" else paper_compat
    return protocol(batch["ids"], batch["num_tokens"])


def _sampled(model: Any) -> Iterator[Tensor]:
    """64 entries of every weight: no two trained models share them all."""
    for weight in model.parameters():
        flat = weight.detach().flatten()
        yield flat[:: max(1, len(flat) // 64)]
