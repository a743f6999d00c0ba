"""The Lightning module: its loss, optimizer groups, schedule, validation numbers and gradients."""

import math

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from papertrail.core.errors import BadInput
from papertrail.nn.language_model import (
    LanguageModel,
    Optimization,
    Shape,
    build,
    from_shape,
    parameter_groups,
    warmup_decay,
)
from papertrail.nn.nonnegative import constrain, export, free_parameters, least_effective_weight

SHAPE = Shape(layers=2, width=16, heads=2, context=16)
OPTIM = Optimization(lr=1e-2, free_lr=1e-1, weight_decay=0.1, warmup_fraction=0.2)


def ids(rows: int = 12, columns: int = 9, seed: int = 0) -> torch.Tensor:
    """Windows that can be learnt: each token is the one before it plus one."""
    first = torch.randint(40, (rows, 1), generator=torch.Generator().manual_seed(seed))
    return (first + torch.arange(columns)) % 40


def trainer(**changes: object) -> L.Trainer:
    options = {
        "accelerator": "cpu",
        "max_steps": 20,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return L.Trainer(**(options | changes))


def fitted(module: LanguageModel, **changes: object) -> L.Trainer:
    fit = trainer(**changes)
    fit.fit(module, DataLoader(ids(), batch_size=4), DataLoader(ids(5, seed=1), batch_size=2))
    return fit


def test_the_loss_is_the_mean_over_tokens_that_transformers_computes():
    model = from_shape(SHAPE, 40, seed=0)
    ours = LanguageModel(model, OPTIM).nll(ids())
    torch.testing.assert_close(ours, model(ids(), labels=ids()).loss)


def test_gradients_are_those_of_transformers_with_and_without_checkpointing():
    grads = []
    for checkpointing in (False, True):
        module = LanguageModel(from_shape(SHAPE, 40, seed=0), OPTIM, checkpointing).train()
        module.nll(ids()).backward()
        grads.append([p.grad for p in module.parameters()])
    model = from_shape(SHAPE, 40, seed=0)
    model(ids(), labels=ids()).loss.backward()
    for plain, checkpointed, theirs in zip(
        *grads, [p.grad for p in model.parameters()], strict=True
    ):
        torch.testing.assert_close(plain, theirs, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(checkpointed, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("constrained", [False, True])
def test_training_learns_and_validation_counts_every_token(constrained):
    module = LanguageModel(from_shape(SHAPE, 40, seed=0), OPTIM)
    if constrained:
        constrain(module.model, "mlp_both", "abs")
    fit = fitted(module, max_steps=60)
    val = ids(5, seed=1)
    with torch.no_grad():  # batches of 2, 2, 1: a mean over batches would be another number
        expected = module.nll(val).item()
    assert fit.callback_metrics["val/loss"].item() == pytest.approx(expected, rel=1e-5)
    assert fit.callback_metrics["val/perplexity"].item() == pytest.approx(
        math.exp(expected), rel=1e-5
    )
    assert expected < 1.5 < math.log(40)
    if constrained:
        assert least_effective_weight(module.model, "mlp_both") >= 0


def test_validation_weighs_batches_by_the_tokens_that_are_scored():
    module = LanguageModel(from_shape(SHAPE, 40, seed=0), OPTIM)
    batches = [ids(4), torch.zeros(3, 3, dtype=torch.long)]
    numbers = trainer().validate(module, DataLoader(batches, batch_size=None), verbose=False)[0]
    many, few = (module.nll(batch).item() for batch in batches)
    assert numbers["val/loss"] == pytest.approx((32 * many + 6 * few) / 38, rel=1e-6)


def test_every_parameter_is_in_one_group_with_its_own_rate_and_decay():
    model = from_shape(SHAPE, 40, seed=0)
    constrain(model, "mlp_both", "abs")
    decayed, plain, free = parameter_groups(model, OPTIM)
    grouped = [p for group in (decayed, plain, free) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(list(model.parameters()))
    assert {id(p) for p in free["params"]} == {id(p) for p in free_parameters(model).values()}
    assert (free["lr"], free["weight_decay"]) == (0.1, 0.0)
    assert (plain["lr"], plain["weight_decay"]) == (0.01, 0.0)
    assert (decayed["lr"], decayed["weight_decay"]) == (0.01, 0.1)
    assert all(p.ndim == 2 for p in decayed["params"])
    embeddings = model.get_input_embeddings().weight
    assert any(p is embeddings for p in plain["params"])
    assert sum(p.ndim > 1 for p in plain["params"]) == 1


def test_an_unconstrained_model_has_no_group_for_v():
    assert len(parameter_groups(from_shape(SHAPE, 40, seed=0), OPTIM)) == 2


def test_v_learns_at_its_own_rate():
    moved = {}
    for free_lr in (1e-4, 1e-1):
        optim = Optimization(lr=1e-4, free_lr=free_lr, weight_decay=0.0, warmup_fraction=0.0)
        module = LanguageModel(from_shape(SHAPE, 40, seed=0), optim)
        constrain(module.model, "mlp_both", "abs")
        before = {name: V.detach().clone() for name, V in free_parameters(module.model).items()}
        fitted(module, max_steps=3)
        moved[free_lr] = max(
            (V - before[name]).abs().max().item()
            for name, V in free_parameters(module.model).items()
        )
    assert moved[1e-4] < 1e-3 < 1e-1 < moved[1e-1]


@settings(deadline=None)  # a loaded machine is slow, not wrong
@given(st.integers(1, 300), st.floats(0, 1))
def test_the_schedule_rises_once_falls_once_and_never_wastes_a_step(steps, warmup):
    factors = [warmup_decay(step, steps, warmup) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    peak = factors.index(max(factors))
    assert peak in (round(steps * warmup), steps - 1)
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert warmup_decay(steps, steps, warmup) == 0


def test_the_schedule_follows_optimizer_steps_not_epochs():
    seen = []

    class Rates(L.Callback):
        def on_train_batch_start(self, trainer, *_):
            seen.append(trainer.optimizers[0].param_groups[0]["lr"])

    fitted(LanguageModel(from_shape(SHAPE, 40, seed=0), OPTIM), callbacks=[Rates()])
    assert seen == pytest.approx([1e-2 * warmup_decay(step, 20, 0.2) for step in range(20)])


def test_a_seed_fixes_the_weights_and_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    one, same, other = (from_shape(SHAPE, 40, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_build_loads_a_folder_as_float32_and_refuses_a_foreign_tokenizer(tmp_path):
    model = from_shape(SHAPE, 40, seed=0)
    export(model.bfloat16(), tmp_path)
    loaded = build(str(tmp_path), SHAPE, 40, seed=0)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    with pytest.raises(BadInput, match="has 40 embeddings, the tokenizer 41 tokens"):
        build(str(tmp_path), SHAPE, 41, seed=0)


def test_a_model_that_is_not_there_is_refused_in_one_line(tmp_path):
    with pytest.raises(BadInput, match=r"^model: not found \(.*\); [^\n]*$"):
        build(str(tmp_path / "nothing"), SHAPE, 40, seed=0)


def test_a_loaded_model_trains_in_train_mode(tmp_path):
    export(from_shape(SHAPE, 40, seed=0), tmp_path)
    module = LanguageModel(build(str(tmp_path), SHAPE, 40, seed=0), OPTIM)
    assert not module.model.training
    fitted(module, max_steps=1)
    assert module.model.training


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(BadInput, match=r"\(30 / 4\); try 28"):
        Shape(layers=1, width=30, heads=4, context=8)
