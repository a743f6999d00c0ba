"""One function of a model and tensors under Lightning: device and precision are the Trainer's."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import lightning as L
from torch import Tensor
from torch.utils.data import DataLoader

from papertrail.core.question.compute import Compute
from papertrail.core.training.fit import trainer_options

R = TypeVar("R")
Tensors = dict[str, Tensor]


def under_trainer(
    compute: Compute, model: Any, tensors: Tensors, job: Callable[[Any, Tensors], R]
) -> R:
    """`job(model, tensors)` on the chosen device, parameters frozen and in evaluation mode.

    Gradients by inputs are allowed.
    """
    module = _Module(model, job)
    trainer = L.Trainer(**trainer_options(compute), logger=False, inference_mode=False)
    # A sequence of one ready batch is a dataset of them.
    loader: DataLoader[Tensors] = DataLoader([tensors], batch_size=None)  # type: ignore[arg-type]
    trainer.test(module, loader, verbose=False)
    return module.results[-1]


class _Module(L.LightningModule, Generic[R]):
    def __init__(self, model: Any, job: Callable[[Any, Tensors], R]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.job = job
        self.results: list[R] = []

    def test_step(self, batch: Tensors, batch_idx: int) -> None:
        self.results.append(self.job(self.model, batch))
