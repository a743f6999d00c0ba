"""A model made worse by Gaussian noise on chosen weights until its loss is what is asked for.

One direction per seed, as long in each matrix as the standard deviation of its entries; only the
scale is searched. Axes: B windows, T tokens.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import lightning as L
import torch
from jaxtyping import Int
from scipy.optimize import brentq
from torch import Tensor
from transformers import PreTrainedModel

from papertrail.core.errors import BadInput
from papertrail.nn.scoring import head_nll

FIRST_SCALE = 0.125
LARGEST_SCALE = 64.0
"""In standard deviations: nothing is left of a matrix long before."""
STEPS = 60


class Point(NamedTuple):
    """A scale of the noise, in standard deviations of each matrix, and the NLL there, nats."""

    scale: float
    nll: float


class Noise:
    """`weights` with W + scale * std(W) * E, E ~ N(0, 1) fixed by `seed`; scale 0 is W itself."""

    def __init__(self, weights: Mapping[str, Tensor], seed: int) -> None:
        self.weights = weights
        self._clean = {name: weight.detach().clone() for name, weight in weights.items()}
        self._direction = dict(self._drawn(seed))

    def _drawn(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        # One generator on the CPU for all matrices, in order: the same noise on every device.
        generator = torch.Generator().manual_seed(seed)
        for name, W in self._clean.items():
            noise = torch.randn(W.shape, generator=generator, dtype=torch.float32)
            yield name, noise.to(W) * W.std()

    @torch.no_grad()
    def set(self, scale: float) -> None:
        """Replace the weights by those at `scale`, whatever they were before."""
        for name, weight in self.weights.items():
            weight.copy_(torch.add(self._clean[name], self._direction[name], alpha=scale))


def scale_for(
    nll_at: Callable[[float], float], clean: float, target: float, tolerance: float
) -> Point:
    """The first scale found at which `nll_at(scale)` is within `tolerance` nats of `target`.

    `clean`, the NLL at scale 0, is below the target or within the tolerance of it. The scale is
    doubled until the NLL passes the target, then narrowed down by Brent's method. Raises BadInput
    where no noise makes the model that bad.
    """
    if abs(clean - target) <= tolerance:
        return Point(0.0, clean)
    assert clean < target, f"noise does not make a model better: {clean} > {target}"
    seen = {0.0: clean}

    def beyond(scale: float) -> float:
        """NLL above the target; exactly 0, where Brent's method ends, within the tolerance."""
        if scale not in seen:
            seen[scale] = nll_at(scale)
        rest = seen[scale] - target
        return 0.0 if abs(rest) <= tolerance else rest

    low, high = _bracket(beyond)
    scale = high if beyond(high) == 0 else brentq(beyond, low, high, xtol=1e-12, maxiter=STEPS)
    return Point(float(scale), seen[float(scale)])


def _bracket(beyond: Callable[[float], float]) -> tuple[float, float]:
    """Two scales, one doubling apart, between which the NLL passes the target."""
    low, high = 0.0, FIRST_SCALE
    while beyond(high) < 0:
        low, high = high, 2 * high
        if high > LARGEST_SCALE:
            raise BadInput(
                f"constraint.scope: noise on these weights alone does not make the baseline as bad "
                f"as the monotone arm (still {-beyond(low):.3g} nats short at {low:g} standard "
                f"deviations); choose a scope of more weights"
            )
    return low, high


class MeanNll(L.LightningModule):
    """Mean NLL in nats of all tokens of windows that have a token before them, under
    `trainer.test`: what training calls its validation loss."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        model.eval()  # type: ignore[no-untyped-call]
        self._sum, self._num = 0.0, 0

    def test_step(self, ids: Int[Tensor, "B T"], _: int) -> None:
        states = self.model.base_model(ids[:, :-1], use_cache=False).last_hidden_state
        nll = head_nll(self.model, states.flatten(0, 1), ids[:, 1:].flatten())
        self._sum, self._num = self._sum + float(nll.double().sum()), self._num + nll.numel()

    def value(self) -> float:
        """Over everything seen since it was made."""
        return self._sum / self._num
