"""When an attack counts as a success, by three definitions from the same NLL sums. No torch here.

Axes: N texts (any shape that broadcasts).
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

RELATIVE_RISE = 0.15
"""15 % more perplexity (0.1398 nats per scored token), or 15 % more NLL as the published code
tests it."""
ABSOLUTE_RISE = 0.5
"""Nats per scored token, perplexity x 1.65: one bar for all models. On a small measured
model random flips stay far below it and greedy flips end above it (0.11 and 0.78 nats; 5 flips in
64 tokens)."""


def successes(
    clean_nll: Float[np.ndarray, "*N"],
    attacked_nll: Float[np.ndarray, "*N"],
    num_scored_tokens: Int[np.ndarray, "*N"],
    relative_rise: float = RELATIVE_RISE,
    absolute_rise: float = ABSOLUTE_RISE,
) -> Mapping[str, Bool[np.ndarray, "*N"]]:
    """Success per text by definition, from NLL sums in nats over the same scored tokens.

    `perplexity`: rise per token > ln(1 + `relative_rise`); `relative`: rise > `relative_rise` of
    the clean NLL (the published rule: the worse the model, the higher its bar); `absolute`: rise
    per token > `absolute_rise` nats. All strict, so no change never counts.
    """
    rise = attacked_nll - clean_nll
    per_token = rise / num_scored_tokens
    return {
        "perplexity": per_token > math.log1p(relative_rise),
        "relative": rise > relative_rise * clean_nll,
        "absolute": per_token > absolute_rise,
    }


def rise_per_token(
    clean_nll: Float[np.ndarray, "*N"],
    attacked_nll: Float[np.ndarray, "*N"],
    num_scored_tokens: Int[np.ndarray, "*N"],
) -> Float[np.ndarray, "*N"]:
    """What the attack added, in nats per scored token."""
    rise: Any = (attacked_nll - clean_nll) / num_scored_tokens
    return rise  # type: ignore[no-any-return]
