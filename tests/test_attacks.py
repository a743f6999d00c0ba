"""Claims about the attacks, each against a second way of computing the same thing."""

import itertools
import math

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from papertrail.attacks import gates
from papertrail.attacks.candidates import (
    Candidates,
    embedding_table,
    evaluate_ids,
    exact_losses,
    first_order_scores,
    rank,
    top,
)
from papertrail.attacks.controls import one_shot, random_flips
from papertrail.attacks.gcg import gcg
from papertrail.attacks.module import AttackModule, AttackSettings, text_loader
from papertrail.attacks.objectives import fixed_targets, paper_compat, spans
from papertrail.attacks.prefix import Work, know, linearise
from papertrail.attacks.sampling import (
    Seen,
    distinct,
    random_replacements,
    text_generators,
)
from papertrail.attacks.search import hotflip, query_search
from papertrail.attacks.success import successes
from papertrail.attacks.tokens import banned_ids, round_trips
from papertrail.core.errors import BadInput

VOCAB, LENGTH = 199, 14


def tiny(seed=0, architecture="neox"):
    """A random model with steep weights, so that tokens matter."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": VOCAB,
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
        return MistralForCausalLM(
            MistralConfig(**shape, num_key_value_heads=2, sliding_window=32)
        ).eval()
    return GPTNeoXForCausalLM(GPTNeoXConfig(**shape)).eval()


def texts(num=3, length=LENGTH, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCAB, (num, length), generator=generator)


def some_banned():
    banned = torch.zeros(VOCAB, dtype=torch.bool)
    banned[[0, 1]] = True
    banned[50:120] = True
    return banned


def plain_loss(model, ids, scored):
    """Summed NLL of one text from the full logits: the definition, nothing shared."""
    with torch.no_grad():
        logp = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    return -sum(float(logp[t - 1, ids[t]]) for t in scored.nonzero()[:, 0].tolist())


def per_row(model, objective, ids):
    return torch.tensor(
        [plain_loss(model, row, mask) for row, mask in zip(ids, objective.scored, strict=True)]
    )


@pytest.fixture(scope="module")
def model():
    return tiny()


def quiet_lightning(test):
    """Lightning 2.6 under torch 2.13, and its advice on worker processes."""
    for message in ("The 'test_dataloader' does not have many workers", "`isinstance.treespec"):
        test = pytest.mark.filterwarnings(f"ignore:{message}")(test)
    return test


# Objectives


def test_by_default_the_first_half_is_attacked_and_the_second_scored():
    task = fixed_targets(texts(2, 8), torch.tensor([8, 6]))
    assert task.attackable.int().tolist() == [[0, 1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0, 0]]
    assert task.scored.int().tolist() == [[0, 0, 0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1, 0, 0]]
    assert task.targets_are_fixed


def test_the_published_protocol_lets_an_attack_change_its_targets():
    task = paper_compat(texts(2, 8), torch.tensor([8, 6]))
    assert task.attackable.sum(1).tolist() == [8, 6]
    assert task.scored.sum(1).tolist() == [7, 5]
    assert not task.targets_are_fixed


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_text_too_short_for_two_halves_is_refused_by_number(length):
    with pytest.raises(BadInput, match=f"text 1 has {length} tokens"):
        fixed_targets(texts(2, 8), torch.tensor([8, length]))


# First-order scores


def test_first_order_scores_are_the_slope_along_a_flip_in_one_hot_space():
    model = tiny().double()
    ids, table = texts(1), embedding_table(model)
    task = fixed_targets(ids)
    scores = first_order_scores(model, task, ids)

    def loss_at(one_hot):
        logp = model(inputs_embeds=one_hot @ table).logits.double().log_softmax(-1)
        nll = -logp[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        return float((nll * task.scored[:, 1:]).sum())

    one_hot = F.one_hot(ids, VOCAB).double()
    for position, token in [(1, 3), (4, 77), (LENGTH // 2 - 1, 150)]:
        step = torch.zeros_like(one_hot)
        step[0, position] = F.one_hot(torch.tensor(token), VOCAB) - one_hot[0, position]
        with torch.no_grad():
            slope = (loss_at(one_hot + 1e-4 * step) - loss_at(one_hot - 1e-4 * step)) / 2e-4
        assert float(scores[0, position, token]) == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_scores_change_sign_with_the_direction(model):
    ids = texts()
    up = first_order_scores(model, fixed_targets(ids), ids)
    down = first_order_scores(model, fixed_targets(ids, direction="min"), ids)
    finite = up.isfinite()
    assert torch.equal(finite, down.isfinite())
    torch.testing.assert_close(up[finite], -down[finite])


def test_banned_ids_the_current_token_and_other_positions_never_have_a_score(model):
    ids, banned = texts(), some_banned()
    task = fixed_targets(ids)
    allowed = first_order_scores(model, task, ids, banned).isfinite()
    expected = task.attackable[..., None] & ~banned & (F.one_hot(ids, VOCAB) == 0)
    assert torch.equal(allowed, expected)


def test_no_parameter_receives_a_gradient():
    model = tiny()
    task = fixed_targets(texts())
    hotflip(model, task, flips=2, top_k=3)
    assert all(p.requires_grad for p in model.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_the_ranking_equals_a_sort_of_all_scores(model):
    ids, banned, count = texts(), some_banned(), 30
    task = fixed_targets(ids)
    _, gradient = linearise(model, task, ids, Work())
    ranked = rank(gradient, embedding_table(model), task, ids, banned, count)
    scores = first_order_scores(model, task, ids, banned)
    for b in range(len(ids)):
        everything = [
            (-float(scores[b, p, v]), p, v)
            for p, v in itertools.product(range(LENGTH), range(VOCAB))
            if scores[b, p, v].isfinite()
        ]
        best = [(p, v) for _, p, v in sorted(everything)[:count]]
        assert best == list(zip(ranked.position[b].tolist(), ranked.token[b].tolist(), strict=True))


@given(
    st.lists(st.lists(st.sampled_from([-1.0, 0.0, 1.0, -math.inf]), min_size=6, max_size=6)),
    st.integers(1, 8),
)
def test_equal_scores_are_taken_in_order_of_index(rows, count):
    if not rows:
        return
    indices, valid = top(torch.tensor(rows), count)
    for row, got, exists in zip(rows, indices.tolist(), valid.tolist(), strict=True):
        order = sorted((i for i in range(6) if row[i] > -math.inf), key=lambda i: (-row[i], i))
        assert [i for i, there in zip(got, exists, strict=True) if there] == order[:count]


# Exact losses


def random_candidates(task, num, seed=3):
    generator = torch.Generator().manual_seed(seed)
    row, place = task.attackable.nonzero(as_tuple=True)
    pick = torch.randint(len(row), (num,), generator=generator)
    return Candidates(row[pick], place[pick], torch.randint(VOCAB, (num,), generator=generator))


@pytest.mark.parametrize("architecture", ["neox", "llama"])
@pytest.mark.parametrize("protocol", [fixed_targets, paper_compat])
@pytest.mark.parametrize("tokens_at_once", [1, 40, 10_000])
def test_exact_losses_equal_a_naive_loop_with_and_without_a_shared_prefix(
    architecture, protocol, tokens_at_once
):
    model, ids = tiny(architecture=architecture), texts()
    task = protocol(ids, torch.tensor([LENGTH, LENGTH, LENGTH - 3]))
    candidates = random_candidates(task, 25)
    naive = per_row(model, task.rows(candidates.state), candidates.applied_to(ids))
    known = know(model, task, ids, Work())
    assert known.prefix is not None
    work = Work(tokens_at_once)
    plain = exact_losses(model, task, ids, candidates, None, work)
    shared = exact_losses(model, task, ids, candidates, known, work)
    num_scored = task.num_scored[candidates.state]
    torch.testing.assert_close(plain / num_scored, (naive / num_scored).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(shared / num_scored, plain / num_scored, atol=1e-5, rtol=0)


def test_a_shared_prefix_runs_fewer_tokens_and_equal_candidates_run_once(model):
    ids = texts(1)
    task, tokens = fixed_targets(ids), []
    hook = model.base_model.embed_in.register_forward_hook(
        lambda _module, args, _out: tokens.append(args[0].numel())
    )
    late = torch.tensor([LENGTH // 2 - 1] * 4)
    candidates = Candidates(torch.zeros(4, dtype=torch.long), late, torch.tensor([5, 6, 5, 6]))
    known = know(model, task, ids, Work())
    tokens.clear()
    exact_losses(model, task, ids, candidates, known)
    shared = sum(tokens)
    tokens.clear()
    exact_losses(model, task, ids, candidates)
    hook.remove()
    assert sum(tokens) == 2 * (LENGTH - 1)
    assert shared == 2 * (LENGTH - LENGTH // 2)


def test_out_of_memory_halves_the_chunk_and_drops_nothing(model):
    ids = texts()
    task = fixed_targets(ids)
    candidates = random_candidates(task, 30)
    expected = exact_losses(model, task, ids, candidates)

    def small_memory(_module, args):
        if args[0].shape[0] > 4:
            raise torch.OutOfMemoryError("out of memory")

    hook = model.base_model.embed_in.register_forward_pre_hook(small_memory)
    work = Work(tokens_at_once=10_000)
    losses = exact_losses(model, task, ids, candidates, work=work)
    hook.remove()
    torch.testing.assert_close(losses, expected)
    assert work.num_oom_retries == 3  # 30 -> 15 -> 7 -> 3 rows, and it stays there


def test_memory_that_cannot_hold_one_text_is_an_error(model):
    def no_memory(_module, _args):
        raise torch.OutOfMemoryError("out of memory")

    hook = model.base_model.embed_in.register_forward_pre_hook(no_memory)
    ids = texts()
    with pytest.raises(BadInput, match=r"one text does not fit .* shorten the texts"):
        exact_losses(model, fixed_targets(ids), ids, random_candidates(fixed_targets(ids), 3))
    hook.remove()


def test_evaluating_ids_equals_a_naive_loop(model):
    ids = texts()
    versions = torch.stack([ids, texts(seed=9), ids], 1)
    task = fixed_targets(ids, torch.tensor([LENGTH, LENGTH - 1, LENGTH - 4]))
    losses = evaluate_ids(model, task, versions)
    for n in range(3):
        expected = per_row(model, task, versions[:, n]).float()
        torch.testing.assert_close(losses[:, n], expected, rtol=1e-5, atol=1e-4)


# Search


def reference_greedy(model, task, b, flips, top_k, banned):
    """HotFlip for one text, as the paper tells it: no batches, no cache, no sharing."""
    ids, history, tried = task.ids[b].clone(), [plain_loss(model, task.ids[b], task.scored[b])], 0
    for _ in range(flips):
        open_places = task.attackable[b] & (ids == task.ids[b])
        scores = first_order_scores(model, task.rows(torch.tensor([b])), ids[None], banned)[
            0
        ].masked_fill(~open_places[:, None], -torch.inf)
        order = scores.flatten().argsort(descending=True)[tried : tried + top_k].tolist()
        found = []
        for place, token in (divmod(i, VOCAB) for i in order):
            changed = ids.clone()
            changed[place] = token
            found.append((plain_loss(model, changed, task.scored[b]), changed))
        loss, changed = max(found, key=lambda pair: pair[0])
        if loss > history[-1]:
            ids, tried = changed, 0
            history.append(loss)
        else:
            tried += top_k
            history.append(history[-1])
    return history


@pytest.mark.parametrize("top_k", [1, 6])
def test_greedy_hotflip_equals_an_unbatched_reference(model, top_k):
    task, banned = fixed_targets(texts(5)), some_banned()
    curve = hotflip(model, task, flips=4, top_k=top_k, banned=banned)
    for b in range(5):
        expected = reference_greedy(model, task, b, 4, top_k, banned)
        assert curve.losses[b].tolist() == pytest.approx(expected, rel=1e-5)


def test_with_every_candidate_evaluated_one_flip_is_the_global_optimum(model):
    ids = texts(2, 8)
    task = fixed_targets(ids)
    curve = hotflip(model, task, flips=1, top_k=3 * VOCAB)
    for b in range(2):
        every = torch.stack(
            [
                ids[b].index_fill(0, torch.tensor(p), v)
                for p, v in itertools.product((1, 2, 3), range(VOCAB))
            ]
        )
        best = evaluate_ids(model, task.rows(torch.tensor([b])), every[None]).max()
        assert float(curve.losses[b, 1]) == pytest.approx(float(best), rel=1e-6)
    assert curve.evaluations[:, 1].tolist() == [3 * (VOCAB - 1)] * 2


@pytest.mark.parametrize("direction", ["max", "min"])
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("search", [hotflip, query_search])
def test_more_budget_never_makes_an_attack_weaker(model, search, beam, direction):
    task = fixed_targets(texts(4), direction=direction)
    curve = search(model, task, flips=5, top_k=4, beam=beam)
    assert (task.sign * curve.losses.diff(dim=1) >= 0).all()
    assert (task.sign * (curve.losses[:, -1] - curve.losses[:, 0]) > 0).all()


@pytest.mark.parametrize("protocol", [fixed_targets, paper_compat])
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("search", [hotflip, query_search])
def test_an_attack_keeps_its_budget_its_positions_and_the_ban(model, search, beam, protocol):
    task, banned = protocol(texts(4), torch.tensor([LENGTH, LENGTH, 6, 9])), some_banned()
    curve = search(model, task, flips=5, top_k=4, beam=beam, banned=banned)
    changed = curve.ids != task.ids[:, None]  # (B, n, T)
    assert (changed.sum(-1) <= torch.arange(6)).all()
    assert not (changed & ~task.attackable[:, None]).any()
    assert not (banned[curve.ids] & changed).any()


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("search", [hotflip, query_search])
def test_the_losses_of_a_curve_are_those_of_its_ids(model, search, beam):
    task = paper_compat(texts(4))
    curve = search(model, task, flips=4, top_k=4, beam=beam)
    for n in range(5):
        expected = per_row(model, task, curve.ids[:, n]).float()
        torch.testing.assert_close(curve.losses[:, n], expected, rtol=1e-5, atol=1e-5)


def test_a_beam_equals_greedy_at_one_flip_and_with_everything_evaluated_wins_at_two(model):
    task = fixed_targets(texts(2, 8))
    greedy = hotflip(model, task, flips=2, top_k=3 * VOCAB)
    beam = hotflip(model, task, flips=2, top_k=3 * VOCAB, beam=4)
    assert torch.equal(beam.losses[:, 1], greedy.losses[:, 1])
    assert (beam.losses[:, 2] >= greedy.losses[:, 2]).all()


def test_a_beam_evaluates_no_state_twice():
    # A sliding window cannot share prefixes, so every evaluation shows its whole text.
    model, seen, ids = tiny(architecture="sliding"), [], texts(2, 8)

    def note(_module, args):
        if args[0].shape[1] == 7:  # the last token is an input of gradients only
            seen.extend(map(tuple, args[0].tolist()))

    hook = model.base_model.embed_tokens.register_forward_pre_hook(note)
    curve = hotflip(model, fixed_targets(ids), flips=3, top_k=5, beam=4)
    hook.remove()
    assert len(seen) == len(set(seen)) == int(curve.evaluations[:, -1].sum()) > 40


def test_both_searches_get_the_same_number_of_distinct_evaluations(model):
    task = fixed_targets(texts(4))
    white = hotflip(model, task, flips=4, top_k=6, banned=some_banned())
    query = query_search(model, task, flips=4, top_k=6, banned=some_banned())
    assert torch.equal(white.evaluations, query.evaluations)
    assert white.evaluations[0].tolist() == [0, 6, 12, 18, 24]
    assert not query.gradients.any()


def test_a_text_with_fewer_positions_than_flips_stays_where_it_got(model):
    task = fixed_targets(texts(2), torch.tensor([4, LENGTH]))
    for curve in (
        hotflip(model, task, flips=3, top_k=300),
        query_search(model, task, flips=3, top_k=300),
        one_shot(model, task, flips=3),
        *random_flips(model, task, flips=3, draws=2),
    ):
        assert (curve.ids[0, 1:] == curve.ids[0, 1]).all()
        assert (curve.ids[0] != task.ids[0]).sum(-1).max() <= 1


@pytest.mark.parametrize("search", [hotflip, query_search])
def test_texts_of_different_lengths_do_not_disturb_each_other(model, search):
    # Some texts stay while only shorter ones move on: one candidate per flip often does not help.
    ids, lengths = texts(8), torch.tensor([LENGTH, 5, 8, 6, 9, 12, 7, 10])
    together = search(model, fixed_targets(ids, lengths), flips=4, top_k=1)
    kept = (together.losses.diff(dim=1) == 0).any(0) & (together.losses.diff(dim=1) > 0).any(0)
    assert kept.any()
    for b, length in enumerate(lengths.tolist()):
        task = fixed_targets(ids[b : b + 1, :length])
        options = {} if search is hotflip else {"texts": [b]}
        alone = search(model, task, flips=4, top_k=1, **options)
        assert torch.equal(alone.ids, together.ids[b : b + 1, :, :length])
        torch.testing.assert_close(alone.losses[0], together.losses[b], rtol=1e-5, atol=1e-5)


def test_nothing_is_looked_at_twice():
    ids = texts(2, 8)
    seen, text = Seen(ids), torch.arange(2)

    def looked_at(*triples, at_most=9):
        found = seen.unseen(Candidates(*torch.tensor(triples).T), text, ids, at_most)
        return list(zip(found.state.tolist(), found.position.tolist(), found.token.tolist()))  # noqa: B905

    assert looked_at((0, 1, 0), (0, 1, 0), (1, 1, 0)) == [(0, 1, 0), (1, 1, 0)]
    clean = (0, 2, int(ids[0, 2]))
    assert looked_at((0, 1, 0), clean, (0, 2, 1), (0, 3, 1), at_most=1) == [(0, 2, 1)]
    assert looked_at((0, 2, 1), (0, 3, 1)) == [(0, 3, 1)]


@given(st.integers(1, 12), st.integers(0, 20))
def test_random_replacements_are_as_many_as_asked_for_while_there_are_any(count, seed):
    ids, allowed = torch.tensor([[0, 1, 2, 0, 3]]), torch.tensor([0, 1, 2, 3])
    places = torch.tensor([[False, True, True, True, True]])
    found = random_replacements(ids, places, allowed, count, text_generators(seed, [0]))
    pairs = list(zip(found.position[0].tolist(), found.token[0].tolist(), strict=True))
    assert found.valid.all()
    assert len(set(pairs)) == count  # 4 places x 3 other tokens
    assert all(places[0, p] and ids[0, p] != v for p, v in pairs)


def test_draws_belong_to_the_text_and_the_seed_not_to_the_batch(model):
    task = fixed_targets(texts(4))
    two = task.rows(torch.tensor([2, 3]))
    attack = {"flips": 2, "top_k": 4, "seed": 5}
    together, again = (query_search(model, task, **attack) for _ in range(2))
    apart = query_search(model, two, **attack, texts=[2, 3])
    assert torch.equal(together.ids, again.ids)
    assert torch.equal(together.ids[2:], apart.ids)
    other = query_search(model, task, **(attack | {"seed": 6}))
    assert not torch.equal(together.ids, other.ids)
    (a,), (b,) = (random_flips(model, task, flips=2, draws=1, seed=7) for _ in range(2))
    assert torch.equal(a.ids, b.ids)


def test_hotflip_is_stronger_than_query_search_and_both_than_random_flips(model):
    task = fixed_targets(texts(12))
    white = hotflip(model, task, flips=3, top_k=8).losses[:, -1].mean()
    query = query_search(model, task, flips=3, top_k=8).losses[:, -1].mean()
    random = torch.stack([c.losses[:, -1] for c in random_flips(model, task, flips=3, draws=8)])
    assert white > query > random.mean()


# Controls


def test_random_flips_change_exactly_as_many_tokens_as_allowed_and_never_to_banned_ones(model):
    task, banned = fixed_targets(texts()), some_banned()
    for curve in random_flips(model, task, flips=4, draws=3, banned=banned):
        changed = curve.ids != task.ids[:, None]
        assert (changed.sum(-1) == torch.arange(5)).all()
        assert not (banned[curve.ids] & changed).any()
        assert (changed[:, 1:] | ~changed[:, :-1]).all()  # nested: no flip is taken back
        expected = per_row(model, task, curve.ids[:, 4]).float()
        torch.testing.assert_close(curve.losses[:, 4], expected, rtol=1e-5, atol=1e-5)


def test_the_published_attack_is_one_gradient_and_all_flips_at_once(model):
    ids = texts()
    task = paper_compat(ids)
    curve = one_shot(model, task, flips=3)
    table = model.get_input_embeddings().weight
    for b in range(len(ids)):
        embeds = table[ids[b]][None].detach().requires_grad_()
        model(inputs_embeds=embeds, labels=ids[b][None]).loss.backward()
        gradient = embeds.grad[0]
        expected = ids[b].clone()
        for place in gradient.norm(dim=-1).topk(3).indices:
            expected[place] = (table @ gradient[place]).argmax()
        assert torch.equal(curve.ids[b, 3], expected)
        with torch.no_grad():
            mean = model(input_ids=expected[None], labels=expected[None]).loss
        assert float(curve.losses[b, 3]) / (LENGTH - 1) == pytest.approx(float(mean), rel=1e-5)
    model.zero_grad(set_to_none=True)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(0, 5))
def test_distinct_draws_are_distinct_in_range_and_enough(population, count, seed):
    drawn = distinct(population, count, text_generators(seed, [0])[0]).tolist()
    assert len(drawn) == len(set(drawn)) == min(population, count)
    assert all(0 <= value < population for value in drawn)


def test_every_text_and_every_seed_has_draws_of_its_own():
    generators = text_generators(0, range(20)) + text_generators(1, range(20))
    assert len({int(torch.randint(1 << 60, (), generator=g)) for g in generators}) == 40


# Coordinate search


def test_coordinate_search_returns_the_best_version_it_held(model):
    ids = texts(2)
    task, banned = spans(ids, range(3, 7), range(10, 14)), some_banned()
    found = gcg(model, task, steps=6, width=16, top_k=8, banned=banned)
    torch.testing.assert_close(found.losses, found.history.min(1).values)
    expected = per_row(model, task, found.ids).float()
    torch.testing.assert_close(found.losses, expected, rtol=1e-5, atol=1e-5)
    assert (found.losses < found.history[:, 0]).all()
    assert (found.evaluations <= 6 * 16).all()
    changed = found.ids != ids
    assert not (changed & ~task.attackable).any()
    assert not (banned[found.ids] & changed).any()
    again = gcg(model, task, steps=6, width=16, top_k=8, banned=banned)
    assert torch.equal(found.ids, again.ids)


def test_coordinate_search_uses_only_candidates_that_survive(model):
    task = spans(texts(2), range(3, 7), range(10, 14))
    found = gcg(model, task, steps=4, width=16, top_k=8, survives=lambda ids: (ids % 2 == 0)[:, 3])
    assert ((found.ids[:, 3] % 2 == 0) | (found.ids == task.ids).all(1)).all()
    stuck = gcg(
        model, task, steps=2, width=4, top_k=4, survives=lambda ids: torch.zeros(len(ids)) > 0
    )
    assert torch.equal(stuck.ids, task.ids)
    assert not stuck.evaluations.any()


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_curve_of_a_coordinate_search_is_its_best_version_so_far(model, direction):
    task = fixed_targets(texts(3), direction=direction)
    found = gcg(model, task, steps=12, width=6, top_k=4)
    worsened = (task.sign * found.history.diff(dim=1) < 0).any()
    assert worsened, "it always moves, so a version may be worse than the one before"
    curve = found.curve([0, 1, 5, 12])
    for column, step in enumerate([0, 1, 5, 12]):
        so_far = task.sign * found.history[:, : step + 1]
        torch.testing.assert_close(task.sign * curve.losses[:, column], so_far.max(1).values)
        expected = per_row(model, task, curve.ids[:, column]).float()
        torch.testing.assert_close(curve.losses[:, column], expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(curve.evaluations[:, column], found.evaluations[:, step])
    assert (task.sign * curve.losses.diff(dim=1) >= 0).all()
    assert curve.gradients.tolist() == [[0, 1, 5, 12]] * 3
    assert torch.equal(curve.losses[:, -1], found.losses)


def test_coordinate_search_of_texts_of_different_lengths_is_that_of_each_alone(model):
    ids, lengths = texts(4), torch.tensor([LENGTH, 5, 9, 6])
    together = gcg(model, fixed_targets(ids, lengths), steps=5, width=4, top_k=3, seed=2)
    for b, length in enumerate(lengths.tolist()):
        task = fixed_targets(ids[b : b + 1, :length])
        alone = gcg(model, task, steps=5, width=4, top_k=3, seed=2, texts=[b])
        assert torch.equal(alone.held[0], together.held[b, :, :length])
        torch.testing.assert_close(alone.history[0], together.history[b], rtol=1e-5, atol=1e-5)
        assert torch.equal(alone.evaluations[0], together.evaluations[b])


def test_scoring_tokens_in_pieces_changes_no_coordinate_search(model, monkeypatch):
    task = fixed_targets(texts(3))
    whole = gcg(model, task, steps=3, width=6, top_k=4)
    monkeypatch.setattr("papertrail.attacks.gcg._SCORES_AT_ONCE", 2 * VOCAB)
    assert torch.equal(gcg(model, task, steps=3, width=6, top_k=4).held, whole.held)


def test_coordinate_search_with_many_moves_is_stronger_than_a_few_flips(model):
    task = fixed_targets(texts(8))
    few = hotflip(model, task, flips=1, top_k=8).losses[:, -1]
    assert gcg(model, task, steps=30, width=16, top_k=8).losses.mean() > few.mean()


# Out of memory


def memory_of(model, most_tokens):
    """Have `model` run out of memory beyond so many tokens at once."""

    def check(_module, args, options):
        given = args[0] if args else options.get("input_ids", options.get("inputs_embeds"))
        if given.shape[0] * given.shape[1] > most_tokens:
            raise torch.OutOfMemoryError(f"out of memory with {given.shape[0]} texts")

    return model.base_model.register_forward_pre_hook(check, with_kwargs=True)


@quiet_lightning
@pytest.mark.parametrize(
    "method", ["hotflip", "query", "random", "one_shot", "replay", "gcg", "pgd"]
)
def test_an_attack_in_little_memory_finds_the_same_and_drops_no_text(method):
    settings = AttackSettings(
        method=method, flips=2, top_k=5, steps=2, width=5, radii=(0.3, 0.9), seed=1
    )
    ids, found = texts(5), {}
    replayed = torch.stack([ids, texts(5, seed=8), texts(5, seed=9)], 1)
    for most_tokens in (10_000, 2 * LENGTH):
        model = tiny()
        memory_of(model, most_tokens)
        found[most_tokens] = run(model, settings, ids, replayed, batch_size=5)
    roomy, tight = (module.records() for module in found.values())
    assert roomy["num_oom_retries"].sum() == 0 and tight["num_oom_retries"].sum() >= 1
    exact = ["text", "draw", "flips", "evaluations", "gradients", "num_scored_tokens"]
    assert tight[exact].equals(roomy[exact]) and tight["text"].nunique() == 5
    for column in ("clean_nll", "attacked_nll"):
        assert tight[column].to_numpy() == pytest.approx(roomy[column].to_numpy(), rel=1e-5)
    if method != "pgd":
        ours, theirs = (module.adversarial_ids() for module in found.values())
        assert torch.equal(ours, theirs)


@quiet_lightning
@pytest.mark.parametrize("method", ["hotflip", "gcg", "pgd"])
def test_a_device_that_holds_no_text_at_all_is_an_error_that_says_what_to_do(method):
    model = tiny()
    memory_of(model, 1)
    settings = AttackSettings(method=method, flips=1, top_k=2, steps=1, width=2)
    with pytest.raises(BadInput, match=r"one text does not fit .* load\.quantization=int8"):
        run(model, settings, texts(2))


# Tokens


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet
    )
    inner.train_from_iterator(["the theory of the thing is that they think"] * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|endoftext|>")


def test_special_ids_and_rows_behind_the_tokenizer_are_banned(tokenizer):
    torch.manual_seed(0)
    rows = len(tokenizer) + 5
    config = GPTNeoXConfig(
        vocab_size=rows, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config)
    banned = banned_ids(tokenizer, model)
    assert banned.nonzero()[:, 0].tolist() == [tokenizer.eos_token_id, *range(rows - 5, rows)]
    readable = banned_ids(tokenizer, model, readable=True)
    half_a_character = tokenizer("é")["input_ids"][0]
    assert readable[half_a_character]
    assert not readable[tokenizer("t")["input_ids"][0]]
    assert (readable | ~banned).all()


def test_a_text_round_trips_when_its_string_encodes_to_the_same_ids(tokenizer):
    whole = tokenizer("the theory")["input_ids"]
    letters = [tokenizer(c)["input_ids"][0] for c in "the"]
    width = max(len(whole), len(letters))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in (whole, letters)])
    lengths = torch.tensor([len(whole), len(letters)])
    assert round_trips(tokenizer, ids, lengths).tolist() == [True, False]


# Success and gates


def test_a_success_has_three_definitions():
    clean, num = np.array([20.0, 20.0, 20.0, 20.0, 60.0]), np.full(5, 10)
    rise = np.array([0.0, 1.5, 2.9, 3.1, 6.0])
    found = successes(clean, clean + rise, num)
    assert found["perplexity"].tolist() == [False, True, True, True, True]
    assert found["relative"].tolist() == [False, False, False, True, False]
    assert found["absolute"].tolist() == [False, False, False, False, True]
    lower = successes(clean, clean + rise, num, relative_rise=0.05, absolute_rise=0.1)
    assert lower["relative"].tolist() == [False, True, True, True, True]
    assert lower["absolute"].tolist() == [False, True, True, True, True]


@given(st.floats(0.1, 100), st.floats(0, 100), st.integers(1, 50))
def test_perplexity_success_is_a_rise_of_15_percent_in_perplexity(clean, rise, num):
    ratio = math.exp((clean + rise) / num) / math.exp(clean / num)
    if abs(ratio - 1.15) < 1e-9:
        return
    found = successes(np.array([clean]), np.array([clean + rise]), np.array([num]))
    assert found["perplexity"][0] == (ratio > 1.15)


def test_gates_fail_on_what_a_broken_attack_shows():
    noise = np.random.default_rng(0).normal(0, 0.05, 40)
    weak, strong = 0.1 + noise, 0.4 - noise
    assert gates.white_box_beats_random(strong, weak).passed
    assert not gates.white_box_beats_random(weak, weak).passed  # a tie with chance is no attack
    hardly = weak + noise - noise.mean() + 0.002  # above, by a quarter of its standard error
    assert not gates.white_box_beats_random(hardly, weak).passed
    for holds in (gates.white_box_not_below_query, gates.white_box_not_below_transfer):
        assert holds(strong, weak).passed
        assert holds(weak + noise, weak).passed  # a tie within noise
        assert not holds(weak, strong).passed
    told = gates.white_box_not_below_query(strong, weak).sentence
    assert f"adds {strong.mean():.3f}" in told and "stronger on 40 of 40 texts" in told
    assert gates.success_never_falls_with_budget([0.0, 0.2, 0.2, 0.5]).passed
    fall = gates.success_never_falls_with_budget([0.0, 0.2, 0.1])
    assert not fall.passed
    assert "falls at 2 flips" in fall.sentence
    clean, scored = np.array([[1, 2, 3, 4]]), np.array([[False, False, True, True]])
    moved = np.array([[1, 9, 3, 5]])
    assert gates.fixed_targets(clean, np.array([[1, 9, 3, 4]]), scored).passed
    assert not gates.fixed_targets(clean, moved, scored).passed
    assert not gates.within_budget(clean, moved, ~scored, 2).passed
    assert not gates.within_budget(clean, moved, scored | True, 1).passed
    assert gates.within_budget(clean, moved, scored | True, 2).passed
    assert gates.same_budget(np.array([24, 24]), np.array([24, 30])).passed
    assert not gates.same_budget(np.array([24, 24]), np.array([24, 23])).passed


# The Lightning loop


def run(model, settings, ids, attacked=None, tokenizer=None, batch_size=2):
    module = AttackModule(model, settings, banned=some_banned(), tokenizer=tokenizer)
    trainer = L.Trainer(
        accelerator="cpu",
        inference_mode=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.test(module, text_loader(ids, attacked=attacked, batch_size=batch_size), verbose=False)
    return module


@quiet_lightning
def test_the_trainer_gives_the_records_of_the_bare_search(tokenizer):
    ids, model = texts(3), tiny()
    module = run(model, AttackSettings(flips=2, top_k=4), ids, tokenizer=tokenizer)
    curve = hotflip(model, fixed_targets(ids), flips=2, top_k=4, banned=some_banned())
    records = module.records()
    assert records[["text", "flips"]].to_numpy().tolist() == [[t, f] for t in range(3) for f in range(3)]  # fmt: skip # noqa: E501
    assert records["attacked_nll"].to_numpy() == pytest.approx(curve.losses.flatten().numpy(), rel=1e-5)  # fmt: skip # noqa: E501
    assert (records["num_scored_tokens"] == LENGTH // 2).all()
    assert records["evaluations"].tolist() == [0, 4, 8] * 3
    assert (records["num_oom_retries"] == 0).all() and (records["seconds"] > 0).all()
    assert records["round_trip"].dtype == bool
    assert torch.equal(module.adversarial_ids(), curve.ids)
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


@quiet_lightning
def test_replaying_another_models_attack_gives_its_losses_on_this_one():
    ids, other = texts(3), tiny(seed=4)
    crafted = run(tiny(), AttackSettings(flips=2, top_k=4), ids).adversarial_ids()
    records = run(other, AttackSettings(method="replay"), ids, crafted).records()
    expected = evaluate_ids(other, fixed_targets(ids), crafted).flatten().numpy()
    assert records["attacked_nll"].to_numpy() == pytest.approx(expected, rel=1e-5)


@quiet_lightning
@pytest.mark.parametrize("method", ["query", "random", "one_shot", "gcg", "pgd"])
def test_controls_give_the_same_records_whatever_the_batch(method):
    settings = AttackSettings(method=method, flips=2, top_k=4, draws=2, steps=3, seed=3)
    one, two = (run(tiny(), settings, texts(3), batch_size=n).records() for n in (1, 3))
    kept = ["text", "draw", "flips", "evaluations"]
    assert one[kept].equals(two[kept])
    assert one["attacked_nll"].to_numpy() == pytest.approx(two["attacked_nll"].to_numpy(), rel=1e-5)


# The peer


def test_nanogcg_computes_the_loss_that_we_compute(tokenizer):
    pytest.importorskip("nanogcg", reason="nanogcg is a dev extra installed without dependencies")
    from nanogcg import GCGConfig
    from nanogcg.gcg import GCG

    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=64, initializer_range=0.2,
        )
    ).eval()  # fmt: skip
    before, optim, target = "the theory ", "thing", " of they"
    config = GCGConfig(
        num_steps=1, optim_str_init=optim, search_width=64, topk=64, use_prefix_cache=False,
        allow_non_ascii=True, filter_ids=True, seed=0,
    )  # fmt: skip
    result = GCG(model, tokenizer, config).run(before + "{optim_str}", target)
    torch.use_deterministic_algorithms(False)
    parts = [tokenizer(s)["input_ids"] for s in (before, result.best_string, target)]
    lengths = list(itertools.accumulate(map(len, parts), initial=0))
    ids = torch.tensor([list(itertools.chain(*parts))])
    task = spans(ids, range(*lengths[1:3]), range(*lengths[2:4]))
    ours = evaluate_ids(model, task, ids[:, None]) / task.num_scored
    assert float(ours) == pytest.approx(result.best_loss, abs=1e-4)


@pytest.mark.parametrize("filtered", [True, False])
def test_minimising_as_nanogcg_does_reaches_the_loss_that_it_reaches(tokenizer, filtered):
    """With every single replacement among the candidates, both searches are steepest descent."""
    pytest.importorskip("nanogcg", reason="nanogcg is a dev extra installed without dependencies")
    from nanogcg import GCGConfig
    from nanogcg.gcg import GCG

    torch.manual_seed(0)
    num_tokens, steps = len(tokenizer), 3
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=num_tokens, hidden_size=32, num_hidden_layers=2,
            num_attention_heads=4, intermediate_size=64, initializer_range=0.2,
        )
    ).eval()  # fmt: skip
    before, optim, target = "the theory ", "thing", " of they"
    parts = [tokenizer(s)["input_ids"] for s in (before, optim, target)]
    width = len(parts[1]) * num_tokens
    config = GCGConfig(
        num_steps=steps, optim_str_init=optim, search_width=15 * width, topk=num_tokens,
        use_prefix_cache=False, allow_non_ascii=True, filter_ids=filtered, seed=0,
    )  # fmt: skip
    theirs = GCG(model, tokenizer, config).run(before + "{optim_str}", target)
    torch.use_deterministic_algorithms(False)
    ends = list(itertools.accumulate(map(len, parts), initial=0))
    ids = torch.tensor([list(itertools.chain(*parts))])

    def survives(texts):
        return round_trips(tokenizer, texts[:, ends[1] : ends[2]])

    ours = gcg(
        model, spans(ids, range(*ends[1:3]), range(*ends[2:4])), steps=steps, width=width,
        top_k=num_tokens, survives=survives if filtered else None,
    )  # fmt: skip
    per_token = ours.history[0, 1:] / len(parts[2])
    assert (per_token.diff() < 0).all(), "descent throughout, or the two may part at a minimum"
    assert per_token.tolist() == pytest.approx(theirs.losses, abs=1e-4)
    assert float(ours.losses) / len(parts[2]) == pytest.approx(theirs.best_loss, abs=1e-4)


def test_a_part_of_one_attack_is_never_taken_for_that_of_another():
    """Two arms, two methods and two batches may share a run: each has parts of its own."""
    ids, other_ids = texts(2), texts(2, seed=9)
    other_model = tiny()
    with torch.no_grad():
        for weight in other_model.parameters():
            weight.mul_(1.001)

    def name(model, settings, ids, banned=None):
        batch = next(iter(text_loader(ids)))
        return AttackModule(model, settings, banned)._fingerprint(batch)

    plain = AttackSettings()
    first = name(tiny(), plain, ids)
    assert first == name(tiny(), plain, ids.clone())
    others = [
        name(other_model, plain, ids),
        name(tiny(), plain, other_ids),
        name(tiny(), AttackSettings(flips=4), ids),
        name(tiny(), plain, ids, some_banned()),
        name(tiny().bfloat16(), plain, ids),
    ]
    assert len({first, *others}) == 6
