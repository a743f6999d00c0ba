"""Claims about universal triggers, each against a second way of computing the same thing."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from papertrail.attacks import universal
from papertrail.attacks.candidates import embedding_table
from papertrail.attacks.prefix import Work
from papertrail.attacks.trigger_controls import coordinate_search, neutral_trigger
from papertrail.attacks.trigger_losses import (
    clean_losses,
    trigger_gradient,
    trigger_losses,
    whole_texts,
)
from papertrail.attacks.under_trainer import under_trainer
from papertrail.attacks.universal import Climber, Search, best, random_triggers, universal_trigger
from papertrail.core.question.compute import Compute

VOCAB, LENGTH, NUM = 61, 9, 3


def tiny(architecture="neox", vocab=VOCAB, seed=0):
    """A random model with steep weights, so that tokens matter."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    }
    if architecture == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape, num_key_value_heads=2)).eval()
    if architecture == "sliding":
        config = MistralConfig(**shape, num_key_value_heads=2, sliding_window=6)
        return MistralForCausalLM(config).eval()
    return GPTNeoXForCausalLM(GPTNeoXConfig(**shape)).eval()


@pytest.fixture(scope="module")
def model():
    return tiny().requires_grad_(False)


def some_texts(num=NUM, length=LENGTH, vocab=VOCAB, direction="max", seed=1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocab, (num, length), generator=generator)
    return whole_texts(ids, direction=direction)


def plain(model, trigger, text, first_target=1):
    """Summed NLL of a text's tokens from `first_target` on behind a trigger: the definition."""
    ids = torch.tensor([[*trigger, *text]])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0].double().log_softmax(-1)
    places = range(len(trigger) + first_target, ids.shape[1])
    return -sum(float(logp[t - 1, ids[0, t]]) for t in places)


def searched(model, texts, **changes):
    told = {"length": 3, "top_k": 6, "restarts": 2, "sweeps": 4, "seed": 5} | changes
    return Search(model=model, texts=texts, **told)


# What is scored


@pytest.mark.parametrize("architecture", ["neox", "llama", "sliding"])
def test_losses_behind_a_trigger_are_those_of_whole_sequences(architecture):
    model, texts = tiny(architecture), some_texts()
    triggers = torch.tensor([[3, 4, 5, 6], [7, 7, 7, 7], [60, 2, 33, 9]])
    found = trigger_losses(model, texts, triggers)
    expected = [[plain(model, k, b) for b in texts.ids.tolist()] for k in triggers.tolist()]
    assert np.allclose(found, expected, atol=1e-3)


def test_clean_and_attacked_texts_are_scored_on_the_same_tokens(model):
    texts = some_texts()
    expected = [plain(model, [], b) for b in texts.ids.tolist()]
    assert np.allclose(clean_losses(model, texts), expected, atol=1e-3)
    task = texts.behind(torch.tensor([[5, 6], [7, 8]]))
    for row, mask in zip(task.ids, task.scored, strict=True):
        scored = row[mask].tolist()
        assert any(scored == text[1:].tolist() for text in texts.ids)
    assert not task.scored[:, :3].any() and task.targets_are_fixed


def test_padding_behind_a_short_text_changes_nothing(model):
    ids = some_texts().ids
    padded = whole_texts(ids, torch.tensor([LENGTH, 5, 2]))
    found = trigger_losses(model, padded, torch.tensor([[3, 4]]))[0]
    cut = [
        plain(model, [3, 4], row[:n]) for row, n in zip(ids.tolist(), [LENGTH, 5, 2], strict=True)
    ]
    assert np.allclose(found, cut, atol=1e-3)


def test_counting_the_trigger_as_a_target_inflates_the_rise_as_published(model):
    """The fault of the original code: the oddness of the trigger itself is taken for an attack."""
    texts = some_texts(num=8, length=24)
    trigger = random_triggers(torch.arange(VOCAB), 1, 5, seed=0)[0]
    clean = clean_losses(model, texts).numpy() / 23
    honest = trigger_losses(model, texts, torch.tensor([trigger]))[0].numpy() / 23
    rows = texts.ids.tolist()
    faulty = np.array([plain(model, [], [*trigger, *row]) / (4 + 24) for row in rows])
    own = np.array([plain(model, [], [*trigger, row[0]]) for row in rows])
    assert np.allclose(faulty * 28 - honest * 23, own, atol=1e-3)  # what the fault adds
    assert abs((honest - clean).mean()) < abs((faulty - clean).mean())


# The gradient and its candidates


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_gradient_is_autograd_of_the_loss_summed_over_all_texts(direction):
    model, texts = tiny().double().requires_grad_(False), some_texts(direction=direction)
    trigger = torch.tensor([3, 17, 40])
    leaf = embedding_table(model)[trigger].requires_grad_()
    total = 0.0
    for text in texts.ids:
        embeds = torch.cat([leaf, embedding_table(model)[text]])
        logp = model(inputs_embeds=embeds[None]).logits[0].double().log_softmax(-1)
        for t in range(1, LENGTH):
            total = total - logp[len(trigger) + t - 1, text[t]]
    (expected,) = torch.autograd.grad(total, leaf)
    found = trigger_gradient(model, texts, trigger, Work(tokens_at_once=1))
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_candidates_are_the_top_k_of_a_plain_product_with_every_embedding(model, direction):
    """As the reference code of the method scores them, but for the banned and the current ids."""
    texts = some_texts(direction=direction)
    banned = torch.zeros(VOCAB, dtype=torch.bool)
    banned[10:40] = True
    state, position = (3, 44, 5), 1
    gradient = trigger_gradient(model, texts, torch.tensor(state))
    sign = 1 if direction == "max" else -1
    scores = torch.einsum("pd,vd->pv", sign * gradient, embedding_table(model))[position]
    scores[banned] = -math.inf
    scores[state[position]] = -math.inf
    search = searched(model, texts, banned=banned)
    found = universal._ranked(search, embedding_table(model), state, position, gradient)
    assert found == scores.topk(6).indices.tolist()


def test_a_first_order_gain_is_measured_from_the_current_token():
    """In a model that is linear in the trigger the gain is exact, e_cur term and all."""
    from papertrail.attacks.candidates import gains

    generator = torch.Generator().manual_seed(0)
    table, uphill = (
        torch.randn(7, 4, generator=generator),
        torch.randn(1, 1, 4, generator=generator),
    )
    found = gains(uphill, table, torch.tensor([[2]]), torch.ones(1, 1, dtype=torch.bool), None)
    loss = table @ uphill[0, 0]
    expected = (loss - loss[2]).masked_fill(torch.arange(7) == 2, -math.inf)
    assert torch.allclose(found[0, 0], expected, atol=1e-6)


# The search


def all_losses(model, texts, length, vocab):
    every = torch.tensor(list(itertools.product(range(vocab), repeat=length)))
    return trigger_losses(model, texts, every).double().sum(1)


@pytest.mark.parametrize("direction", ["max", "min"])
def test_a_beam_as_wide_as_everything_finds_what_brute_force_finds(direction):
    vocab = 7
    model, texts = tiny(vocab=vocab), some_texts(vocab=vocab, direction=direction)
    losses = all_losses(model, texts, 3, vocab)
    wide = {"top_k": vocab, "beam": vocab**3, "restarts": 1, "sweeps": 1}
    (climb,) = universal_trigger(searched(model, texts, **wide))
    extreme = losses.max() if direction == "max" else losses.min()
    assert climb.text_losses.sum() == pytest.approx(float(extreme), abs=1e-3)
    assert climb.evaluations[-1] == vocab**3, "something was measured twice or not at all"


def plain_climb(search, trigger, length, top_k, sweeps):
    """The greedy search written down as it is told: no memory, no beam, no parts."""
    model, texts, sign = search.model, search.texts, search.texts.sign
    table = embedding_table(model)

    def total(one):
        return sum(plain(model, one, text) for text in texts.ids.tolist())

    trigger, held, swept = list(trigger), total(trigger), 0
    for _ in range(sweeps):
        swept, before = swept + 1, held
        for position in range(length):
            gradient = trigger_gradient(model, texts, torch.tensor(trigger))[position]
            scores = sign * (table - table[trigger[position]]) @ gradient
            scores[trigger[position]] = -math.inf
            tried = [
                [*trigger[:position], token, *trigger[position + 1 :]]
                for token in scores.argsort(descending=True)[:top_k].tolist()
            ]
            losses = [total(one) for one in tried]
            leader = max(range(top_k), key=lambda i: sign * losses[i])
            if sign * losses[leader] > sign * held:
                trigger, held = tried[leader], losses[leader]
        if held == before:
            break
    return tuple(trigger), swept


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_greedy_search_is_the_plain_loop(model, direction):
    texts = some_texts(direction=direction)
    search = searched(model, texts, top_k=4, sweeps=6)
    for climb in universal_trigger(search):
        expected = plain_climb(search, climb.start, 3, 4, 6)
        assert (climb.trigger, climb.sweeps) == expected


def test_a_search_never_gets_worse_and_stops_after_a_sweep_without_gain(model):
    for direction, sign in (("max", 1), ("min", -1)):
        for climb in universal_trigger(searched(model, some_texts(direction=direction), sweeps=50)):
            losses = sign * np.array(climb.losses)
            assert (np.diff(losses) >= -1e-6).all() and losses[-1] > losses[0]
            assert climb.sweeps < 50
            assert climb.losses[-1] == climb.losses[-4], "the last sweep was to bring nothing"
            assert climb.losses[-1] != climb.losses[-7], "the one before it was to bring something"


def test_the_last_sweep_costs_only_what_is_not_known_yet(model):
    """Once around from the last gain, everything was tried on this very trigger before."""
    (climb,) = universal_trigger(searched(model, some_texts(), restarts=1, sweeps=50))
    gained = max(i for i in range(1, len(climb.losses)) if climb.losses[i] != climb.losses[i - 1])
    assert climb.evaluations[-1] == climb.evaluations[gained + 3]
    assert climb.num_gradients == len(set(climb.losses[:-1]))


def test_max_and_min_pull_apart(model):
    high, low = (
        best(search, universal_trigger(search))
        for search in (searched(model, some_texts(direction=d)) for d in ("max", "min"))
    )
    assert high.losses[-1] > high.losses[0] and low.losses[-1] < low.losses[0]
    assert high.start != high.trigger


def test_banned_ids_are_written_by_no_search_and_no_control(model):
    banned = torch.zeros(VOCAB, dtype=torch.bool)
    banned[20:] = True
    search = searched(model, some_texts(), banned=banned)
    climbs = universal_trigger(search)
    written = [one.trigger for one in (*climbs, *coordinate_search(search, climbs))]
    written += [climb.start for climb in climbs] + [neutral_trigger(search.texts.ids, banned, 4)]
    written += random_triggers(search.allowed, 9, 4, seed=3)
    assert max(max(one) for one in written) < 20


def test_the_best_restart_wins_and_restarts_do_not_depend_on_how_many_there_are(model):
    texts = some_texts()
    three = universal_trigger(searched(model, texts, restarts=3))
    two = universal_trigger(searched(model, texts, restarts=2))
    assert [c.trigger for c in three[:2]] == [c.trigger for c in two]
    assert len({c.start for c in three}) == 3
    winner = best(searched(model, texts), three)
    assert winner.losses[-1] == max(c.losses[-1] for c in three)
    low = searched(model, some_texts(direction="min"))
    assert best(low, three).losses[-1] == min(c.losses[-1] for c in three)


def outcome(climbs):
    return [(c.start, c.trigger, c.evaluations, c.num_gradients, c.sweeps) for c in climbs]


@pytest.mark.parametrize(("tokens_at_once", "beam"), [(1, 1), (40, 2), (100_000, 2)])
def test_results_do_not_depend_on_how_rows_are_cut_into_chunks(model, tokens_at_once, beam):
    search = searched(model, some_texts(), beam=beam, sweeps=2, restarts=1, top_k=4)
    climbs = universal_trigger(search)
    cut = replace(search, tokens_at_once=tokens_at_once)
    assert outcome(universal_trigger(cut)) == outcome(climbs)
    assert outcome(coordinate_search(cut, climbs)) == outcome(coordinate_search(search, climbs))


def test_out_of_memory_halves_the_chunk_and_drops_nothing(model, monkeypatch):
    search = searched(model, some_texts(num=5), restarts=1)
    expected = universal_trigger(search)
    forward = type(model.base_model).forward

    def small(self, input_ids=None, inputs_embeds=None, **rest):
        given = input_ids if input_ids is not None else inputs_embeds
        if given.shape[0] * given.shape[1] > 50:
            raise torch.OutOfMemoryError("as many tokens as this machine holds")
        return forward(self, input_ids=input_ids, inputs_embeds=inputs_embeds, **rest)

    monkeypatch.setattr(type(model.base_model), "forward", small)
    (climb,) = universal_trigger(search)
    assert outcome([climb]) == outcome(expected) and climb.num_oom_retries > 0
    assert len(climb.text_losses) == 5


# Controls


@pytest.mark.parametrize("beam", [1, 2])
def test_the_control_spends_exactly_the_evaluations_of_the_search(model, beam):
    search = searched(model, some_texts(), beam=beam)
    climbs = universal_trigger(search)
    control = coordinate_search(search, climbs)
    assert [c.evaluations[-1] for c in control] == [c.evaluations[-1] for c in climbs]
    assert [c.start for c in control] == [c.start for c in climbs]
    assert all(c.num_gradients == 0 for c in control)
    assert all(c.trigger != c.start for c in control)


def test_every_step_of_the_control_tries_as_many_new_triggers_as_one_of_the_search(model):
    search = searched(model, some_texts(), restarts=1, sweeps=3, top_k=20, length=2)
    climbs = universal_trigger(search)
    (control,) = coordinate_search(search, climbs)
    new = np.diff(control.evaluations)
    assert len(new) > 2 and (new[:-1] == 20).all() and 0 < new[-1] <= 20


def test_a_control_that_has_measured_everything_around_it_stops():
    model, texts = tiny(vocab=4), some_texts(vocab=4)
    search = searched(model, texts, restarts=1, length=2, top_k=4)
    (climb,) = universal_trigger(search)
    greedy = replace(climb, evaluations=(1000,))
    (control,) = coordinate_search(search, [greedy])
    assert control.evaluations[-1] <= 16


def test_the_neutral_trigger_is_the_commonest_token_that_may_be_written():
    ids = torch.tensor([[9, 9, 9, 4], [4, 5, 6, 5]])
    banned = torch.arange(VOCAB) == 9
    assert neutral_trigger(ids, None, 2) == (9, 9)
    assert neutral_trigger(ids, banned, 3) == (4, 4, 4)


def test_the_gradient_finds_more_than_random_draws_with_the_same_evaluations(model):
    texts = some_texts(num=4, length=12)
    search = searched(model, texts, restarts=4, top_k=5, sweeps=2)
    climbs = universal_trigger(search)
    control = coordinate_search(search, climbs)
    mean = [np.mean([c.losses[-1] for c in some]) for some in (climbs, control)]
    assert mean[0] > mean[1]


# Going on


class Kept(dict):
    """Finished steps as a killed run finds them; `die_at` is the step at which it is killed."""

    def __init__(self, die_at=10**9):
        super().__init__()
        self.die_at, self.computed = die_at, 0

    def __call__(self, name, compute):
        if name not in self:
            if len(self) == self.die_at:
                raise KeyboardInterrupt
            self.computed += 1
            self[name] = {key: np.array(value) for key, value in compute().items()}
        return self[name]


@pytest.mark.parametrize("beam", [1, 2])
def test_a_search_goes_on_behind_any_step_as_if_it_had_not_been_stopped(model, beam, monkeypatch):
    search = searched(model, some_texts(), sweeps=2, beam=beam, top_k=3)
    whole = Kept()
    climbs = universal_trigger(replace(search, keep=whole))
    control = coordinate_search(replace(search, keep=whole), climbs)
    for die_at in range(1, len(whole), 5):
        kept = Kept(die_at)
        with pytest.raises(KeyboardInterrupt):
            coordinate_search(
                replace(search, keep=kept), universal_trigger(replace(search, keep=kept))
            )
        kept.die_at, kept.computed = 10**9, 0
        again = universal_trigger(replace(search, keep=kept))
        assert outcome(again) == outcome(climbs)
        assert outcome(coordinate_search(replace(search, keep=kept), again)) == outcome(control)
        assert kept.computed == len(whole) - die_at, "a finished step was done again"
        assert [c.text_losses.tolist() for c in again] == [c.text_losses.tolist() for c in climbs]


@pytest.mark.parametrize("beam", [1, 2])
def test_nothing_is_measured_twice_in_a_climb(model, beam):
    kept = Kept()
    search = searched(model, some_texts(), beam=beam, restarts=1, sweeps=3, keep=kept)
    (climb,) = universal_trigger(search)
    (control,) = coordinate_search(search, [climb])
    for name, one in (("gradient-0", climb), ("random-0", control)):
        rows = np.concatenate([a["measured"] for key, a in kept.items() if key.startswith(name)])
        assert len(np.unique(rows, axis=0)) == len(rows) == one.evaluations[-1]


def test_a_gradient_is_not_taken_again_for_a_state_that_stayed(model):
    def nothing(climber, position):
        climber.gradient(climber.states[0])
        return [[]]

    climber = Climber(searched(model, some_texts()), "idle", (3, 4, 5), nothing)
    for _ in range(3):
        climber.step()
    assert climber.result().num_gradients == 1


# Under Lightning


def test_a_job_runs_where_the_trainer_says_with_gradients_and_frozen_parameters():
    model, texts = tiny(), some_texts()
    trigger = torch.tensor([3, 4])

    def job(there, tensors):
        assert not any(p.requires_grad for p in there.parameters())
        return trigger_gradient(there, whole_texts(tensors["ids"]), trigger)

    found = under_trainer(Compute(accelerator="cpu"), model, {"ids": texts.ids}, job)
    assert torch.equal(found, trigger_gradient(model, texts, trigger))
