"""Claims about gradient ascent in embedding space, each against a second way to the same thing."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attacks import LENGTH, VOCAB, quiet_lightning, run, some_banned, texts, tiny
from torch import nn

from papertrail.attacks.candidates import embedding_table, evaluate_ids
from papertrail.attacks.module import AttackSettings
from papertrail.attacks.objectives import fixed_targets, paper_compat
from papertrail.attacks.pgd import embedding_size, extent, pgd, projected, steepest
from papertrail.attacks.prefix import Work, linearise
from papertrail.attacks.search import hotflip
from papertrail.core.errors import BadInput

NORMS = ("l2", "linf")


@pytest.fixture(scope="module")
def model():
    return tiny()


def embedded_loss(model, embeds, ids, scored):
    """Summed NLL of the scored tokens of one text from its embeddings: the definition."""
    logp = model(inputs_embeds=embeds[None]).logits[0].log_softmax(-1)
    return -sum(logp[t - 1, ids[t]] for t in scored.nonzero()[:, 0].tolist())


def plain_ascent(model, task, b, radii, steps, step_size, norm):
    """The same climb for one text, in plain steps: no batch, no shared head, own projection."""
    ids, scored, open_places = task.ids[b], task.scored[b], task.attackable[b]
    table = model.get_input_embeddings().weight.detach()
    unit = table.norm(dim=1).mean() if norm == "l2" else table.abs().mean()
    clean = table[ids]

    def look(moved):
        moved = moved.clone().requires_grad_()
        loss = embedded_loss(model, moved, ids, scored)
        (gradient,) = torch.autograd.grad(loss, moved)
        return moved.detach(), float(loss.detach()), gradient

    best = look(clean)
    curve = [best[1]]
    for radius in (float(r) * unit for r in radii):
        here = best
        for _ in range(steps):
            moved, _, gradient = here
            target = moved.clone()
            for t in open_places.nonzero()[:, 0].tolist():
                step = gradient[t] / gradient[t].norm() if norm == "l2" else gradient[t].sign()
                away = moved[t] + step_size * radius * task.sign * step - clean[t]
                if norm == "l2" and away.norm() > radius:
                    away = away / away.norm() * radius
                if norm == "linf":
                    away = torch.minimum(torch.maximum(away, -radius), radius)
                target[t] = clean[t] + away
            here = look(target)
            if task.sign * (here[1] - best[1]) > 0:
                best = here
        curve.append(best[1])
    return curve


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("direction", ["max", "min"])
def test_it_equals_a_slow_climb_text_by_text(direction, norm):
    # In double precision, where the two orders of summing cannot part ways over many steps.
    model = tiny().double()
    task = fixed_targets(texts(3), torch.tensor([LENGTH, 9, 11]), direction=direction)
    radii, climb = (0.1, 0.4), {"steps": 5, "step_size": 0.3, "norm": norm}
    found = pgd(model, task, radii=radii, **climb)
    for b in range(3):
        expected = plain_ascent(model, task, b, radii, **climb)
        assert found.losses[b].tolist() == pytest.approx(expected, rel=1e-9)


def test_its_gradient_is_that_of_autograd_at_the_displaced_embeddings(model):
    ids = texts(2)
    task = fixed_targets(ids)
    displacement = 0.3 * torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(0))
    known, gradient = linearise(model, task, ids, Work(), displacement)
    assert known.prefix is None
    for b in range(2):
        embeds = embedding_table(model)[ids[b]] + displacement[b]
        embeds.requires_grad_()
        loss = embedded_loss(model, embeds, ids[b], task.scored[b])
        (expected,) = torch.autograd.grad(loss, embeds)
        assert float(known.losses[b]) == pytest.approx(float(loss.detach()), rel=1e-5)
        torch.testing.assert_close(gradient[b], expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=15)
@given(
    norm=st.sampled_from(NORMS),
    radii=st.lists(st.floats(1e-3, 4), min_size=1, max_size=3, unique=True).map(sorted),
    steps=st.integers(1, 3),
    step_size=st.floats(0.05, 5),
    lengths=st.lists(st.integers(4, LENGTH), min_size=2, max_size=2),
    direction=st.sampled_from(["max", "min"]),
)
def test_it_stays_in_its_ball_leaves_other_tokens_alone_and_larger_balls_are_never_worse(
    norm, radii, steps, step_size, lengths, direction
):
    model = tiny()
    task = fixed_targets(texts(2), torch.tensor(lengths), direction=direction)
    found = pgd(model, task, radii=radii, steps=steps, step_size=step_size, norm=norm)
    far = extent(found.displacement, norm)  # (B, n, T)
    limits = torch.tensor([0.0, *radii])[None, :, None]
    assert (far <= limits * (1 + 1e-5)).all()
    assert not found.displacement.transpose(1, 2)[~task.attackable].any()
    assert (task.sign * found.losses.diff(dim=1) >= 0).all()
    assert (task.sign * (found.losses[:, -1] - found.losses[:, 0]) >= 0).all()


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=3, max_size=3),
    st.floats(0.01, 2),
    st.sampled_from(NORMS),
)
def test_the_projection_is_the_nearest_point_of_the_ball(values, radius, norm):
    point = torch.tensor(values, dtype=torch.double)
    found = projected(point, radius, norm)
    assert extent(found, norm) <= radius * (1 + 1e-9)
    if extent(point, norm) <= radius:
        torch.testing.assert_close(found, point)
    gap = (found - point).norm()
    for direction in torch.eye(3, dtype=torch.double):
        for by in (-1e-3, 1e-3):
            other = found + by * direction
            if extent(other, norm) <= radius:
                assert (other - point).norm() >= gap - 1e-9


@pytest.mark.parametrize("norm", NORMS)
def test_a_step_climbs_most_to_first_order_and_a_flat_token_stays(norm):
    uphill = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    uphill[2] = 0
    step = steepest(uphill, norm)
    assert not step[2].any()
    others = torch.randn(200, 4, generator=torch.Generator().manual_seed(1))
    others = others / extent(others, norm)[:, None]
    for row in (0, 1, 3, 4):
        assert float(extent(step, norm)[row]) == pytest.approx(1)
        assert (others @ uphill[row] <= step[row] @ uphill[row] + 1e-6).all()


def test_without_displacement_it_is_the_clean_text_exactly(model):
    task = fixed_targets(texts(5))
    found = pgd(model, task, radii=(0.5,), steps=2, step_size=0.5)
    assert not found.displacement[:, 0].any()
    assert torch.equal(found.losses[:, 0], linearise(model, task, task.ids, Work())[0].losses)


def test_more_steps_and_larger_radii_raise_the_loss_of_every_text(model):
    task = fixed_targets(texts(4))
    few = pgd(model, task, radii=(0.05, 0.2, 0.8), steps=2, step_size=0.2)
    many = pgd(model, task, radii=(0.05, 0.2, 0.8), steps=20, step_size=0.2)
    assert (few.losses.diff(dim=1) > 0).all()
    assert many.losses[:, -1].mean() > few.losses[:, -1].mean()
    assert few.gradients.tolist() == [[1, 3, 5, 7]] * 4


def test_a_radius_that_reaches_every_token_is_not_below_hotflip(model):
    """The ball then holds every text that a flip can make: a climb that finds less is broken."""
    task, table = fixed_targets(texts(6)), embedding_table(model)
    reach = torch.cdist(table, table).max() / embedding_size(table, "l2")
    flipped = hotflip(model, task, flips=LENGTH, top_k=8)
    moved = pgd(model, task, radii=(0.5, 1.0, float(reach)), steps=40, step_size=0.2)
    assert (moved.losses[:, -1] > flipped.losses[:, -1]).all()


def test_sizes_are_those_of_tokens_that_a_text_may_hold(model):
    table, banned = embedding_table(model).clone(), some_banned()
    expected = torch.stack([row.norm() for row, bad in zip(table, banned, strict=True) if not bad])
    table[banned] = 1e6
    assert float(embedding_size(table, "l2", banned)) == pytest.approx(float(expected.mean()))
    kept = table[~banned]
    assert float(embedding_size(table, "linf", banned)) == pytest.approx(float(kept.abs().mean()))


@pytest.mark.parametrize("radii", [(), (0.0, 1.0), (1.0, 0.5), (0.5, 0.5), (-1.0,)])
def test_radii_that_do_not_rise_are_refused(model, radii):
    with pytest.raises(BadInput, match=r"pgd\.radii: must be above 0 and rise"):
        pgd(model, fixed_targets(texts(1)), radii=radii, steps=1, step_size=0.2)


def test_no_parameter_receives_a_gradient_and_no_keys_are_kept():
    model, asked = tiny(), []
    model.base_model.register_forward_pre_hook(
        lambda _m, _a, options: asked.append(options["use_cache"]), with_kwargs=True
    )
    pgd(model, fixed_targets(texts(2)), radii=(0.5,), steps=2, step_size=0.2)
    assert all(p.grad is None for p in model.parameters())
    assert asked == [False] * 3


def test_half_precision_weights_get_displacements_and_gradients_in_fp32():
    model = tiny().bfloat16()
    found = pgd(model, fixed_targets(texts(2)), radii=(0.5,), steps=2, step_size=0.2)
    assert found.displacement.dtype == found.losses.dtype == torch.float32
    assert (found.losses[:, 1] > found.losses[:, 0]).all()


def test_embeddings_that_a_layer_scales_are_displaced_as_the_model_sees_them(model):
    """Some layers multiply their weight: sizes and radii are of what comes out."""

    class Scaled(nn.Embedding):
        def forward(self, ids):
            return 3 * super().forward(ids)

    other = tiny()
    layer = Scaled(VOCAB, 32)
    with torch.no_grad():
        layer.weight.copy_(other.get_input_embeddings().weight / 3)
    other.set_input_embeddings(layer)
    task, climb = fixed_targets(texts(2)), {"radii": (0.5,), "steps": 3, "step_size": 0.2}
    torch.testing.assert_close(
        pgd(other, task, **climb).losses, pgd(model, task, **climb).losses, rtol=1e-4, atol=1e-4
    )


# The Lightning loop


@quiet_lightning
def test_the_trainer_gives_the_records_of_the_bare_ascent(model):
    ids = texts(3)
    options = AttackSettings(method="pgd", radii=(0.2, 0.8), steps=3, step_size=0.4, norm="linf")
    module = run(tiny(), options, ids, tokenizer=object())
    records = module.records()
    bare = pgd(
        model, fixed_targets(ids), radii=(0.2, 0.8), steps=3, step_size=0.4, norm="linf",
        banned=some_banned(),
    )  # fmt: skip
    assert records["attacked_nll"].to_numpy() == pytest.approx(
        bare.losses.flatten().double().numpy(), rel=1e-5
    )
    assert records["flips"].tolist() == [0, 1, 2] * 3
    assert records["radius"].tolist() == [0.0, 0.2, 0.8] * 3
    assert records["gradients"].tolist() == [1, 4, 7] * 3
    assert records["round_trip"].isna().all() and str(records["round_trip"].dtype) == "boolean"
    assert (records["moved"] <= records["radius"] * (1 + 1e-5)).all()
    assert (records["strayed"] == 0).all() and (records["evaluations"] == 0).all()
    zero = records[records["radius"] == 0]
    assert (zero["attacked_nll"] == zero["clean_nll"]).all()
    with pytest.raises(AssertionError, match="no text"):
        module.adversarial_ids()


@quiet_lightning
def test_the_clean_loss_is_measured_from_the_ids_and_not_from_the_ascent():
    ids = texts(3)
    records = run(tiny(), AttackSettings(method="pgd", radii=(0.5,), steps=1), ids).records()
    clean = evaluate_ids(tiny(), fixed_targets(ids), ids[:, None])[:, 0].repeat_interleave(2)
    assert records["clean_nll"].to_numpy() == pytest.approx(clean.numpy(), rel=1e-6)


def test_under_the_published_protocol_the_labels_stay_those_of_the_clean_text(model):
    task = paper_compat(texts(2))
    found = pgd(model, task, radii=(0.5,), steps=3, step_size=0.3)
    table = embedding_table(model)
    size = embedding_size(table, "l2")
    for b in range(2):
        embeds = table[task.ids[b]] + size * found.displacement[b, 1]
        with torch.no_grad():
            expected = embedded_loss(model, embeds, task.ids[b], task.scored[b])
        assert float(found.losses[b, 1]) == pytest.approx(float(expected), rel=1e-5)
        assert math.isfinite(float(expected))
