"""Universal adversarial triggers: the token sequence that hurts most in front of every text.

After Wallace et al. (arXiv 1908.07125): candidates from one gradient summed over the batch, each
measured exactly, a beam over positions from left to right, restarts from random triggers.
Axes: B texts, P trigger tokens, K triggers, V vocabulary, D width.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from papertrail.attacks.candidates import embedding_table, gains, top
from papertrail.attacks.prefix import Work
from papertrail.attacks.sampling import allowed_ids, text_generators
from papertrail.attacks.trigger_losses import Texts, trigger_gradient, trigger_losses

Arrays = Mapping[str, np.ndarray]
Keep = Callable[[str, Callable[[], Arrays]], Mapping[str, np.ndarray]]
"""Gives what a named piece of work came to: from before a kill if it was done, else by doing it."""
Trigger = tuple[int, ...]

DIGITS = 6
"""Losses per token are compared to a millionth of a nat: below it is how a batch was cut."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a trigger is searched, and on which texts."""

    model: Any
    texts: Texts
    length: int
    """Tokens of the trigger."""
    top_k: int
    """Candidates measured exactly per position and state."""
    beam: int = 1
    """Triggers kept from position to position; 1 is greedy."""
    sweeps: int = 10
    """Passes over all positions at most; a search stops after one without gain."""
    restarts: int = 1
    """Climbs from different random triggers."""
    banned: Bool[Tensor, " V"] | None = None
    """Ids that are never written."""
    seed: int = 0
    """Of the random triggers that climbs start from, and of the control's draws."""
    tokens_at_once: int = 8192
    """Tokens in one forward pass; halved when memory runs out."""
    keep: Keep = lambda name, compute: compute()

    @property
    def allowed(self) -> Int[Tensor, " A"]:
        """The ids that may be written, ascending."""
        return allowed_ids(self.model.get_input_embeddings().weight.shape[0], self.banned)

    def start(self, restart: int) -> Trigger:
        """The random trigger from which this restart begins."""
        return random_triggers(self.allowed, 1, self.length, self.seed, first=restart)[0]

    def per_token(self, text_losses: Float[np.ndarray, " B"]) -> float:
        """Mean NLL per scored token, nats."""
        return float(text_losses.astype(np.float64).sum()) / int(self.texts.scored.sum())

    def score(self, text_losses: Float[np.ndarray, " B"]) -> float:
        """What is to grow, to the digits that count."""
        return round(self.texts.sign * self.per_token(text_losses), DIGITS)


@dataclass(frozen=True, kw_only=True)
class Climb:
    """One search from one random trigger."""

    start: Trigger
    trigger: Trigger
    """The best one."""
    text_losses: Float[np.ndarray, " B"]
    """Summed NLL of every text behind it, nats."""
    losses: tuple[float, ...]
    """Mean NLL per scored token, nats, of the best trigger after 0, 1, 2, ... steps."""
    evaluations: tuple[int, ...]
    """Triggers measured exactly up to there, each on all texts."""
    num_gradients: int
    """Each over all texts."""
    sweeps: int
    """Passes over all positions; a budget may cut the last one short."""
    num_oom_retries: int
    seconds: float


def universal_trigger(search: Search) -> tuple[Climb, ...]:
    """Climb by the gradient from the random trigger of every restart; `best` picks one.

    Per position: the `top_k` tokens of each state by (e_v - e_cur) . g, g being the gradient summed
    over all texts, are measured exactly; the best `beam` of them and of what is held go on. A sweep
    begins with the best alone. Deterministic; nothing is measured twice.
    """
    table = embedding_table(search.model)

    def by_gradient(climber: "Climber", position: int) -> list[list[int]]:
        return [
            _ranked(search, table, state, position, climber.gradient(state))
            for state in climber.states
        ]

    climbs = []
    for restart in range(search.restarts):
        climber = Climber(search, f"gradient-{restart}", search.start(restart), by_gradient)
        for _ in range(search.sweeps):
            before = climber.score
            for _ in range(search.length):
                climber.step()
            if climber.score <= before:
                break
        climbs.append(climber.result())
    return tuple(climbs)


def best(search: Search, climbs: Sequence[Climb]) -> Climb:
    """The climb that got farthest on the texts it was optimised on; the first on a tie."""
    return max(climbs, key=lambda climb: search.score(climb.text_losses))


def random_triggers(
    allowed: Int[Tensor, " A"], num: int, length: int, seed: int, first: int = 0
) -> list[Trigger]:
    """Random triggers number `first`, `first` + 1, ... of this seed, uniformly over `allowed`."""
    return [
        tuple(allowed[torch.randint(len(allowed), (length,), generator=generator)].tolist())
        for generator in text_generators(seed, range(first, first + num))
    ]


class Climber:
    """One climb in progress: the states held, every loss that is known, and what it has cost.

    A step is kept as arrays, so that a search which was killed goes on behind its last step.
    """

    def __init__(
        self,
        search: Search,
        name: str,
        start: Trigger,
        propose: "Callable[[Climber, int], list[list[int]]]",
    ) -> None:
        self.search, self.name, self.propose = search, name, propose
        self.work = Work(search.tokens_at_once)
        self.states = [start]
        self.known: dict[Trigger, np.ndarray] = {}
        self._gradients: dict[Trigger, Tensor] = {}
        self._path: list[tuple[Trigger, int]] = []
        self._num_oom_retries, self._seconds = 0, 0.0
        self._do(lambda: [start])

    @property
    def num_steps(self) -> int:
        """Positions visited."""
        return len(self._path) - 1

    @property
    def score(self) -> float:
        """Of the best state."""
        return self.search.score(self.known[self.states[0]])

    def step(self, at_most: int | None = None) -> None:
        """Try the next position from left to right, with `at_most` new triggers measured."""
        position = self.num_steps % self.search.length
        if position == 0:
            self.states = self.states[:1]
        self._do(lambda: self._tried(position), at_most)

    def gradient(self, state: Trigger) -> Float[Tensor, "P D"]:
        """Of a state that is held; computed once."""
        if state not in self._gradients:
            trigger = torch.tensor(state, device=self.search.texts.ids.device)
            found = trigger_gradient(self.search.model, self.search.texts, trigger, self.work)
            self._gradients[state] = found
        return self._gradients[state]

    def result(self) -> Climb:
        """What the steps so far came to."""
        triggers, evaluations = zip(*self._path, strict=True)
        return Climb(
            start=triggers[0],
            trigger=self.states[0],
            text_losses=self.known[self.states[0]],
            losses=tuple(self.search.per_token(self.known[one]) for one in triggers),
            evaluations=evaluations,
            num_gradients=len(self._gradients),
            sweeps=-(-self.num_steps // self.search.length),
            num_oom_retries=self._num_oom_retries,
            seconds=self._seconds,
        )

    def _tried(self, position: int) -> list[Trigger]:
        proposed = zip(self.states, self.propose(self, position), strict=True)
        return [
            (*state[:position], token, *state[position + 1 :])
            for state, tokens in proposed
            for token in tokens
        ]

    def _do(self, tried: Callable[[], list[Trigger]], at_most: int | None = None) -> None:
        name = f"{self.name}-step-{len(self._path):04d}"
        arrays = self.search.keep(name, lambda: self._measured(tried, at_most))
        self.known |= zip(_triggers(arrays["measured"]), arrays["losses"], strict=True)
        gradients = torch.from_numpy(arrays["gradients"]).to(self.search.texts.ids.device)
        self._gradients |= zip(_triggers(arrays["expanded"]), gradients, strict=True)
        self.states = _triggers(arrays["held"])
        self._num_oom_retries += int(arrays["num_oom_retries"])
        self._seconds += float(arrays["seconds"])
        self._path.append((self.states[0], len(self.known)))

    def _measured(self, tried: Callable[[], list[Trigger]], at_most: int | None) -> Arrays:
        begin, retries, expanded = time.perf_counter(), self.work.num_oom_retries, self._gradients
        old = set(expanded)
        candidates = tried()
        # States differ before this position only, so no two candidates are the same trigger.
        new = [one for one in candidates if one not in self.known][:at_most]
        losses = self._losses(new)
        known = self.known | dict(zip(new, losses, strict=True))
        # Stable: on a tie what is held stays, then what was proposed first comes first.
        pool = [one for one in dict.fromkeys([*self.states, *candidates]) if one in known]
        pool.sort(key=lambda one: -self.search.score(known[one]))
        fresh = [one for one in expanded if one not in old]
        gradients = [expanded[one].cpu().numpy() for one in fresh]
        return {
            "measured": _array(new, self.search.length),
            "losses": losses,
            "held": _array(pool[: self.search.beam], self.search.length),
            "expanded": _array(fresh, self.search.length),
            "gradients": np.stack(gradients) if gradients else np.zeros((0, 0), np.float32),
            "num_oom_retries": np.array(self.work.num_oom_retries - retries),
            "seconds": np.array(time.perf_counter() - begin),
        }

    def _losses(self, new: list[Trigger]) -> Float[np.ndarray, "K B"]:
        texts = self.search.texts
        if not new:
            return np.zeros((0, len(texts.ids)), np.float32)
        triggers = torch.tensor(new, device=texts.ids.device)
        return trigger_losses(self.search.model, texts, triggers, self.work).cpu().numpy()


def _ranked(
    search: Search, table: Tensor, state: Trigger, position: int, gradient: Tensor
) -> list[int]:
    """The `top_k` tokens of largest first-order gain at one position, best first."""
    current = torch.tensor([[state[position]]], device=table.device)
    uphill = search.texts.sign * gradient[None, position : position + 1]
    anywhere = torch.ones_like(current, dtype=torch.bool)
    scores = gains(uphill, table, current, anywhere, search.banned)
    tokens, valid = top(scores[0], search.top_k)
    return tokens[valid].tolist()


def _triggers(ids: np.ndarray) -> list[Trigger]:
    return [tuple(row) for row in ids.tolist()]


def _array(triggers: Iterable[Trigger], length: int) -> Int[np.ndarray, "K P"]:
    return np.array([*triggers], dtype=np.int64).reshape(-1, length)
