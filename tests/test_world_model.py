"""The world model: its loss over unequal rows, which tokens are learnt; and the study's grid."""

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.experiment import narrow
from papertrail.core.question.identity import identify
from papertrail.world import config as world
from papertrail.world.config import WORLD, WORLD_EVALUATE, WORLD_FINETUNE, WORLD_PRETRAIN
from papertrail.world.model import WorldModel, build, learnt, parameter_groups, rate_at, summed_nll
from papertrail.world.options import PAIRS, SETS, TASKS, Schedule, Transformer
from papertrail.world.schemas import EvaluateConfig, StudyConfig
from papertrail.world.spelling import EOS, PAD

EQUALS, VOCABULARY = 4, 30
TINY = Transformer(layers=2, width=16, heads=2, hidden=32)


def rows(num: int = 24, seed: int = 0) -> torch.Tensor:
    """Rows of 3 to 20 tokens, shortest first; a question, `=`, an answer, <eos>."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 21, (num,), generator=draw).sort().values
    made = torch.randint(5, VOCABULARY, (num, int(lengths.max())), generator=draw)
    for row, length in zip(made, lengths.tolist(), strict=True):
        row[length // 2], row[length - 1], row[length:] = EQUALS, EOS, PAD
    return made


def module(loss: Literal["row", "answer"] = "row", **options: Any) -> WorldModel:
    return WorldModel(build(TINY, VOCABULARY, 0), Schedule(loss=loss, **options), EQUALS)


def one_by_one(model: WorldModel, batch: torch.Tensor) -> torch.Tensor:
    """The same loss, a row at a time, without any padding."""
    found = [
        summed_nll(model.model, row[row != PAD][None], EQUALS, model.schedule.loss) for row in batch
    ]
    return torch.stack([nats for nats, _ in found]).sum() / sum(count for _, count in found)


@pytest.mark.parametrize("loss", ["row", "answer"])
def test_loss_and_gradients_of_a_batch_cut_by_length_are_those_of_its_rows_one_by_one(
    loss: Literal["row", "answer"],
):
    model, grads = module(loss), []
    for nll in (model.nll(rows()), one_by_one(model, rows())):
        model.zero_grad()
        nll.backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(list(model.parameters()))
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


def test_the_loss_of_whole_rows_is_the_one_of_transformers():
    model, batch = module("row"), rows()
    labels = batch.masked_fill(batch == PAD, -100)
    theirs = model.model(batch, attention_mask=(batch != PAD).long(), labels=labels).loss
    torch.testing.assert_close(model.nll(batch), theirs, rtol=1e-5, atol=1e-6)


@given(st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_answers_are_what_follows_the_first_equals_sign(seed: int):
    batch = rows(seed=seed)
    for row, at in zip(batch.tolist(), learnt(batch, EQUALS, "answer").tolist(), strict=True):
        row = [token for token in row if token != PAD]
        first = row.index(EQUALS)
        assert [place + 1 for place, here in enumerate(at) if here] == [*range(first + 1, len(row))]


def test_a_model_starts_with_normal_matrices_zero_biases_and_unit_norms():
    before = torch.random.get_rng_state()
    model = build(Transformer(width=64, heads=4, hidden=256, init_std=0.1), 98, seed=3)
    assert (torch.random.get_rng_state() == before).all(), "the global random state was moved"
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.std().item() == pytest.approx(0.1, rel=0.1), name
        else:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name
    assert (build(TINY, 98, 3).lm_head.weight != build(TINY, 98, 4).lm_head.weight).any()


def test_the_published_shape_has_the_published_number_of_parameters():
    shape = cli.parse(WORLD_PRETRAIN, ["--scale=paper"])[0].model
    assert build(shape, 98, seed=0).num_parameters() == 1_601_920


def test_biases_and_norms_do_not_decay():
    decayed, kept = parameter_groups(build(TINY, 98, 0), Schedule(weight_decay=0.1))
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2} and {p.ndim for p in kept["params"]} == {1}


def test_the_rate_rises_for_as_many_steps_as_asked_and_falls_to_zero():
    schedule = Schedule(warmup=50)
    rates = [rate_at(step, 1000, schedule) for step in range(1001)]
    assert rates.index(max(rates)) == 50 and rates[50] == 1 and rates[1000] == 0
    assert all(a < b for a, b in pairwise(rates[:51]))


# -- the grid --------------------------------------------------------------------------------------


def test_the_pairs_are_all_21_once():
    every = {frozenset((a, b)) for a in TASKS for b in TASKS if a != b}
    assert {frozenset(pair) for pair in PAIRS} == every and len(PAIRS) == 21


def test_three_seeds_are_87_models_and_1305_evaluations():
    study = cli.parse(WORLD, ["--scale=paper"])[0]
    assert study.seeds == (1, 2, 3)
    asked = [question for _, question in world.study_evaluations(study)]
    assert (len(list(world.study_trainings(study))), len(asked)) == (87, 1305)
    assert len({identify(one.experiment, one.config).digest for one in asked[:30]}) == 30


def test_the_base_model_is_asked_once_however_others_are_fine_tuned():
    base = cli.parse(WORLD_EVALUATE, ["--mix.tasks=[]"])[0]
    other = replace(base, finetune=Schedule(lr=0.5))
    assert identify(WORLD_EVALUATE, base) == identify(WORLD_EVALUATE, other)
    tuned = replace(other, mix=replace(base.mix, tasks=("angle",)))
    again = replace(tuned, finetune=base.finetune)
    assert identify(WORLD_EVALUATE, tuned) != identify(WORLD_EVALUATE, again)


def test_a_draw_from_the_seven_sets_is_built_on_those_of_the_same_model():
    config = narrow(StudyConfig(), EvaluateConfig)
    drawn = replace(config, evaluate=replace(config.evaluate, on="multi_task"))
    below = WORLD_EVALUATE.upstream(drawn)
    assert tuple(below) == TASKS == SETS[7:14]
    assert all(replace(one.config, evaluate=drawn.evaluate) == drawn for one in below.values())


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--seeds=[1,1]", "seeds: 1 is there twice"),
        ("--specialists=[angle,angle]", "specialists: angle is there twice"),
        ("--pairs=[[angle,distance],[distance,angle]]", "is there twice"),
    ],
)
def test_a_model_that_is_asked_for_twice_is_refused(typed: str, said: str):
    with pytest.raises(BadInput, match=said):
        list(world.study_trainings(cli.parse(WORLD, [typed])[0]))


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--mix.tasks=[angle,angle]", "mix.tasks: names a task twice"),
        ("--model.width=50", "model.width: must be a multiple of 2 x heads=8 .50.; try .*=48"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(typed: str, said: str):
    with pytest.raises(BadInput, match=said):
        cli.parse(WORLD_FINETUNE, [typed])
