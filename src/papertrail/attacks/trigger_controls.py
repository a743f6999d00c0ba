"""What a universal trigger has to beat: random and common tokens, and search without a gradient.

Axes: B texts, T text tokens, P trigger tokens, V vocabulary.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from papertrail.attacks.sampling import text_generators
from papertrail.attacks.universal import Climb, Climber, Search, Trigger

_DRAWS = 1 << 32
"""Random streams of the control; those below belong to the starts of climbs."""
_PER_CLIMB = 1 << 20


def coordinate_search(search: Search, climbs: Sequence[Climb]) -> tuple[Climb, ...]:
    """The gradient-free control: the same climbs with `top_k` random tokens per position.

    Each begins where its counterpart in `climbs` began and measures as many triggers exactly; it
    stops before only where no token around the trigger it holds is new.
    """
    allowed = search.allowed
    found = []
    for number, climb in enumerate(climbs):

        def at_random(climber: Climber, position: int, number: int = number) -> list[list[int]]:
            step = _DRAWS + number * _PER_CLIMB + climber.num_steps
            (generator,) = text_generators(search.seed, [step])
            return [
                _unknown(climber, state, position, allowed, generator) for state in climber.states
            ]

        climber, idle = Climber(search, f"random-{number}", climb.start, at_random), 0
        while len(climber.known) < climb.evaluations[-1] and idle < search.length:
            before = len(climber.known)
            climber.step(at_most=climb.evaluations[-1] - before)
            idle = idle + 1 if len(climber.known) == before else 0
        found.append(climber.result())
    return tuple(found)


def _unknown(
    climber: Climber,
    state: Trigger,
    position: int,
    allowed: Int[Tensor, " A"],
    generator: torch.Generator,
) -> list[int]:
    """`top_k` random tokens that make triggers not measured yet."""
    found: list[int] = []
    for token in allowed[torch.randperm(len(allowed), generator=generator)].tolist():
        if len(found) == climber.search.top_k:
            break
        if (*state[:position], token, *state[position + 1 :]) not in climber.known:
            found.append(token)
    return found


def neutral_trigger(
    ids: Int[Tensor, "B T"], banned: Bool[Tensor, " V"] | None, length: int
) -> Trigger:
    """The commonest token of the texts that may be written, repeated; the lowest id on a tie."""
    counts = ids.flatten().bincount()
    if banned is not None:
        counts = counts.masked_fill(banned[: len(counts)].to(counts.device), 0)
    return (int(counts.argmax()),) * length
