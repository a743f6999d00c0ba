"""Models that are trained together, as one stack, come out as if each had been trained alone."""

from copy import deepcopy

import pytest
import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW
from transformers import Qwen2ForCausalLM

from papertrail.world.model import build, parameter_groups, rate_at, summed_nll
from papertrail.world.options import Schedule, Transformer
from papertrail.world.spelling import PAD
from papertrail.world.stacked import train_stacked

VOCABULARY, EQUALS = 12, 4
SHAPE = Transformer(layers=2, width=16, heads=2, hidden=24)
SCHEDULES = [
    Schedule(lr=1e-2, warmup=2, loss="row", clip=0.1),
    Schedule(lr=3e-3, warmup=1, loss="answer", weight_decay=0.5),
    Schedule(lr=1e-2, warmup=0, loss="answer", clip=10.0),
]
STEPS = [3, 6, 6]


def batch(model: int, step: int) -> Int[Tensor, "B T"]:
    """Rows of their own number and length for each model."""
    generator = torch.Generator().manual_seed(100 * model + step)
    rows = torch.randint(5, VOCABULARY, (2 + model, 6 + step % 3), generator=generator)
    rows[:, 2] = EQUALS
    rows[0, -1] = PAD
    return rows


def alone(model: Qwen2ForCausalLM, number: int) -> None:
    """Train one model by itself."""
    schedule, steps = SCHEDULES[number], STEPS[number]
    optimizer = AdamW(parameter_groups(model.train(), schedule))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr * rate_at(step, steps, schedule)
        nats, tokens = summed_nll(model, batch(number, step), EQUALS, schedule.loss)
        optimizer.zero_grad()
        (nats / tokens).backward()
        clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()


@pytest.fixture(scope="module")
def trained() -> tuple[list[Qwen2ForCausalLM], list[Qwen2ForCausalLM]]:
    """Three models trained together, and the same three trained one by one."""
    together = [build(SHAPE, VOCABULARY, seed) for seed in range(3)]
    single = deepcopy(together)
    train_stacked(
        together, lambda step: [batch(n, step) for n in range(3)], SCHEDULES, STEPS, EQUALS
    )
    for number, model in enumerate(single):
        alone(model, number)
    return together, single


@pytest.mark.parametrize("number", range(3))
def test_a_model_of_a_stack_comes_out_as_if_it_were_trained_alone(
    trained: tuple[list[Qwen2ForCausalLM], list[Qwen2ForCausalLM]], number: int
):
    together, single = (models[number] for models in trained)
    start = build(SHAPE, VOCABULARY, number)
    for name, expected in single.named_parameters():
        torch.testing.assert_close(together.get_parameter(name), expected, rtol=1e-3, atol=2e-5)
        assert not torch.allclose(start.get_parameter(name), expected, atol=1e-3), name


def test_the_models_own_their_weights_again(
    trained: tuple[list[Qwen2ForCausalLM], list[Qwen2ForCausalLM]],
):
    together, _ = trained
    places = [p.untyped_storage().data_ptr() for model in together for p in model.parameters()]
    assert len(set(places)) == len(places)
    assert all(p.grad is None for model in together for p in model.parameters())
