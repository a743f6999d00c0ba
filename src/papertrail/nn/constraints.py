"""What one weight matrix starts from and what then holds it.

Everything is elementwise, so it does not matter that a Linear keeps W as (out, in) and GPT-2's
Conv1D as (in, out).
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Init = Literal["abs", "relu"]
Kind = Literal["softplus", "sign_frozen", "free", "projected"]

LEAST_WEIGHT: dict[Init, float] = {"abs": 1e-8, "relu": 1e-3}
"""What the start never goes below. A step of V multiplies a small W by about exp(step), so a weight
at 1e-8 is dead in practice; that is rare under `abs`, but half of all weights under `relu`."""


class NonNegative(nn.Module):
    """softplus, and the V that it maps back onto |W| (`abs`, the paper) or max(W, 0) (`relu`)."""

    def __init__(self, init: Init) -> None:
        super().__init__()
        self.init = init

    def forward(self, V: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return F.softplus(V)

    def right_inverse(self, W: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return inverse_softplus(start(W.double(), "softplus", self.init)).to(W.dtype)


class SignFrozen(nn.Module):
    """sign(W) softplus(V): magnitudes learn as under softplus, and no weight crosses zero.

    A weight that is exactly zero has no sign to keep and stays zero, as in a pruned model.
    """

    sign: Tensor

    def __init__(self, W: Float[Tensor, "rows columns"]) -> None:
        super().__init__()
        self.register_buffer("sign", W.detach().sign().to(torch.int8))

    def forward(self, V: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return self.sign * F.softplus(V)

    def right_inverse(self, W: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        return inverse_softplus(start(W.double(), "softplus", "abs")).to(W.dtype)


def inverse_softplus(w: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """V = w + log(1 - exp(-w)): unlike log(exp(w) - 1) it neither overflows nor cancels."""
    return w + torch.log(-torch.expm1(-w))


def start(
    W: Float[Tensor, "rows columns"], kind: Kind, init: Init
) -> Float[Tensor, "rows columns"]:
    """The matrix that training starts from: the same for every kind that keeps no signs."""
    positive = (W.abs() if init == "abs" else W).clamp_min(LEAST_WEIGHT[init])
    return W.sign() * positive if kind == "sign_frozen" else positive
