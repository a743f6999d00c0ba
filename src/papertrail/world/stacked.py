"""Many small models of one shape trained as one: a batched pass for all, an optimizer for each.

A small model leaves a GPU idle; stacked, its kernels do the work of all. The parameters of each
model are views into the stack, so clipping, AdamW and its schedule are those of `world.model`.

Axes: M models, B rows, T tokens, V vocabulary.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy, pad
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from transformers import Qwen2ForCausalLM

from papertrail.world.model import learnt, parameter_groups, rate_at
from papertrail.world.options import Schedule
from papertrail.world.spelling import PAD

Batches = Callable[[int], Sequence[Int[Tensor, "B T"]]]
"""Optimizer step, from 0 -> rows for each model, of unequal numbers and lengths if need be."""


def train_stacked(
    models: Sequence[Qwen2ForCausalLM],
    batches: Batches,
    schedules: Sequence[Schedule],
    steps: Sequence[int],
    equals: int,
) -> list[list[float]]:
    """Train models of one shape together, each for its own number of optimizer steps.

    Leaves the weights in the models, equal to those of training them one by one up to rounding, and
    gives the loss of every step of each, in nats. `equals` is the token between a question and its
    answer.
    """
    assert len(models) == len(schedules) == len(steps), "a schedule and a length for each model"
    learners = [_Learner(*one) for one in zip(models, schedules, steps, strict=True)]
    for begin, end in pairwise([0, *sorted(set(steps))]):
        _train(learners, batches, begin, end, equals)
    return [torch.stack(one.losses).tolist() for one in learners]


class _Learner:
    """One of the models, with its own optimizer."""

    def __init__(self, model: Qwen2ForCausalLM, schedule: Schedule, steps: int) -> None:
        self.model, self.schedule, self.steps = model.train(), schedule, steps
        self.optimizer = AdamW(parameter_groups(model, schedule), fused=True)
        self.rate = LambdaLR(self.optimizer, lambda step: rate_at(step, steps, schedule))
        self.losses: list[Tensor] = []

    def step(self, loss: Float[Tensor, ""]) -> None:
        self.losses.append(loss)  # read at the end: a GPU need not be waited for
        clip_grad_norm_(self.model.parameters(), self.schedule.clip)
        self.optimizer.step()
        self.rate.step()


def _train(
    learners: Sequence[_Learner], batches: Batches, begin: int, end: int, equals: int
) -> None:
    """Steps `begin` to `end` of those that are not done before."""
    at_work = [number for number, one in enumerate(learners) if one.steps > begin]
    chosen = [learners[number] for number in at_work]
    stack = _Stack([one.model for one in chosen])
    for step in range(begin, end):
        found = batches(step)
        rows = _padded([found[number] for number in at_work])
        at = torch.stack(
            [learnt(r, equals, one.schedule.loss) for r, one in zip(rows, chosen, strict=True)]
        )
        for one, loss in zip(chosen, stack.backward(rows, at), strict=True):
            one.step(loss)
    stack.give_back()


class _Stack:
    """Parameters of all models, [M, ...] each; those of a model, and their gradients, are views."""

    def __init__(self, models: Sequence[Qwen2ForCausalLM]) -> None:
        self._models = models
        self._parameters, self._buffers = stack_module_state(list(models))
        self._shape = deepcopy(models[0]).to("meta")  # type: ignore[arg-type]
        for name, whole in self._parameters.items():
            whole.grad = torch.zeros_like(whole)
            for model, own, gradient in zip(models, whole.detach(), whole.grad, strict=True):
                parameter = model.get_parameter(name)
                parameter.data, parameter.grad = own, gradient

    def backward(
        self, rows: Int[Tensor, "M B T"], at: Bool[Tensor, "M B T-1"]
    ) -> Float[Tensor, "M"]:
        """Each model's mean NLL over its marked tokens; its gradients replace the last ones."""
        for whole in self._parameters.values():
            assert whole.grad is not None
            whole.grad.zero_()
        with sdpa_kernel(SDPBackend.MATH):  # vmap would go through the others model by model
            logits = vmap(self._logits)(self._parameters, self._buffers, rows[..., :-1])
        losses = _mean_nll(logits, rows[..., 1:], at)
        losses.sum().backward()  # type: ignore[no-untyped-call]  # none has a part in another's
        return losses.detach()

    def _logits(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], rows: Tensor
    ) -> Tensor:
        words = {"input_ids": rows, "use_cache": False}
        logits: Tensor = functional_call(self._shape, (parameters, buffers), (), words).logits
        return logits

    def give_back(self) -> None:
        """Have the models own their parameters again."""
        for parameter in (p for model in self._models for p in model.parameters()):
            parameter.data, parameter.grad = parameter.data.clone(), None


def _mean_nll(
    logits: Float[Tensor, "M B T V"], truth: Int[Tensor, "M B T"], at: Bool[Tensor, "M B T"]
) -> Float[Tensor, "M"]:
    nats = cross_entropy(logits.float().movedim(-1, 1), truth, reduction="none")
    return (nats * at).sum((1, 2)) / at.sum((1, 2))


def _padded(batches: Sequence[Int[Tensor, "_ _"]]) -> Int[Tensor, "M B T"]:
    rows, tokens = (max(batch.shape[axis] for batch in batches) for axis in (0, 1))
    sizes = [(0, tokens - batch.shape[1], 0, rows - batch.shape[0]) for batch in batches]
    padded = [pad(one, size, value=PAD) for one, size in zip(batches, sizes, strict=True)]
    return torch.stack(padded)
