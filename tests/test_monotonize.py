"""Stage 1: the damage that a conversion does, by hand and at smoke scale, and its controls."""

import copy
import json
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from papertrail.core.answering.require import require
from papertrail.core.errors import BadInput
from papertrail.core.question import cli
from papertrail.core.question.compute import Compute
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.core.training.fit import trainer_options
from papertrail.monotone.config import MONOTONIZE
from papertrail.nn import nonnegative
from papertrail.nn.activations import set_activation
from papertrail.nn.damage import Damage, divergence, exchanged

IDS = torch.randint(50, (5, 12), generator=torch.Generator().manual_seed(0))


def tiny() -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=50, hidden_size=16, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPTNeoXForCausalLM(config).eval()


def converted() -> GPTNeoXForCausalLM:
    model = tiny()
    nonnegative.constrain(model, "mlp_both", "abs")
    nonnegative.merge(model)
    return model


def damage(one: GPTNeoXForCausalLM, other: GPTNeoXForCausalLM) -> Damage:
    module = Damage(one, other)
    options = trainer_options(Compute(accelerator="cpu"))
    trainer = L.Trainer(**options, logger=False, inference_mode=False)
    trainer.test(module, DataLoader([*torch.split(IDS, 2)], batch_size=None), verbose=False)
    return module


def column(module: Damage, name: str) -> dict[str, float]:
    frame = module.frame()
    return dict(zip(frame["state"], frame[name], strict=True))


def plain(model: Any) -> tuple[float, torch.Tensor]:
    """Loss as transformers computes it, and log-probabilities in float64."""
    with torch.no_grad():
        out = model(IDS, labels=IDS)
    return float(out.loss), out.logits[:, :-1].double().log_softmax(-1)


# -- damage by hand --------------------------------------------------------------------------------


def test_loss_and_kl_before_and_after_equal_the_plain_way():
    one, other = tiny(), converted()
    found = damage(one, other)
    (clean, p), (after, q) = plain(one), plain(other)
    loss, kl = column(found, "loss"), column(found, "kl")
    assert loss["before"] == pytest.approx(clean, rel=1e-6)
    assert loss["after"] == pytest.approx(after, rel=1e-6)
    assert kl["after"] == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-4)
    assert kl["before"] == 0 < kl["after"]


def test_a_layer_on_its_own_is_a_model_with_only_that_layer_converted():
    loss = column(damage(tiny(), converted()), "loss")
    for depth in range(3):
        alone = tiny()
        for linear in (alone.gpt_neox.layers[depth].mlp.dense_h_to_4h,
                       alone.gpt_neox.layers[depth].mlp.dense_4h_to_h):  # fmt: skip
            with torch.no_grad():
                linear.weight.abs_()
        assert loss[f"layer{depth:02d}"] == pytest.approx(plain(alone)[0], rel=1e-5)


def test_the_change_of_feed_forward_outputs_is_taken_at_the_inputs_of_the_original():
    one, other = tiny(), converted()
    inputs: dict[int, torch.Tensor] = {}
    for depth, block in enumerate(one.gpt_neox.layers):
        block.mlp.register_forward_pre_hook(
            lambda _, args, depth=depth: inputs.update({depth: args[0]})
        )
    with torch.no_grad():
        one(IDS[:, :-1])
        parts = [
            (other.gpt_neox.layers[d].mlp(x) - one.gpt_neox.layers[d].mlp(x),
             one.gpt_neox.layers[d].mlp(x))
            for d, x in [*inputs.items()]
        ]  # fmt: skip
    found = column(damage(tiny(), converted()), "ffn_change")
    norms = [[float(x.double().norm()) for x in pair] for pair in parts]
    for depth, (change, output) in enumerate(norms):
        assert found[f"layer{depth:02d}"] == pytest.approx(change / output, rel=1e-5)
    total = np.linalg.norm([c for c, _ in norms]) / np.linalg.norm([o for _, o in norms])
    assert found["after"] == pytest.approx(total, rel=1e-5)


def test_converting_nothing_changes_nothing_exactly():
    found = damage(tiny(), tiny())
    assert len(set(column(found, "loss").values())) == 1
    assert set(column(found, "kl").values()) == {0.0}
    assert found.frame()["ffn_change"].fillna(0).eq(0).all()


def test_every_window_has_a_row_in_every_state_and_they_add_up():
    found = damage(tiny(), converted())
    rows = found.windows()
    states = ["before", "layer00", "layer01", "layer02", "after", "restored"]
    assert list(found.frame()["state"]) == states
    assert set(zip(rows["state"], rows["window"], strict=True)) == {
        (state, window) for state in states for window in range(5)
    }
    after = rows[rows["state"] == "after"]
    total = after["nll"].sum() / after["num_tokens"].sum()
    assert column(found, "loss")["after"] == pytest.approx(total)


def test_an_exchanged_block_goes_back_even_when_the_measurement_fails():
    one, other = tiny(), converted()
    own = one.gpt_neox.layers[1]
    with pytest.raises(KeyError), exchanged(one, other, 1):
        assert one.gpt_neox.layers[1] is other.gpt_neox.layers[1]
        raise KeyError
    assert one.gpt_neox.layers[1] is own


def test_kl_is_that_of_many_rows_one_by_one_and_never_negative():
    head = torch.nn.Linear(8, 9000, bias=False)  # few rows at a time
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(300, 8, generator=generator) for _ in range(2))
    with torch.no_grad():
        found = divergence(head, before, after)
        p, q = (head(x).double().log_softmax(-1) for x in (before, after))
    torch.testing.assert_close(found.double(), (p.exp() * (p - q)).sum(-1), rtol=1e-4, atol=1e-6)
    assert (found >= 0).all()


def test_an_activation_alone_is_a_conversion_too():
    other = tiny()
    set_activation(other, "relu")
    found = damage(tiny(), other)
    assert column(found, "ffn_change")["after"] > 0.01


# -- the verb --------------------------------------------------------------------------------------


def asked(smoke: list[str], *more: str) -> Record:
    return require(MONOTONIZE, cli.parse(MONOTONIZE, [*smoke, *more])[0])


FAULTY = "--inspect.windows=3"  # a question of its own: what a fault computed answers no other


def test_the_paper_s_conversion_flips_half_the_weights_and_costs_loss(
    module_store: Store, smoke: list[str]
):
    record = asked(smoke)
    metrics = record.metrics
    assert not record.failed_gates and metrics["gate/non_negative"] == 1
    assert metrics["conversion/fraction_negative"] == pytest.approx(0.5, abs=0.05)
    assert metrics["damage/after/loss"] > metrics["damage/before/loss"] + 0.1
    assert metrics["damage/rise"] == pytest.approx(
        metrics["damage/after/loss"] - metrics["damage/before/loss"]
    )
    assert metrics["damage/after/perplexity"] == pytest.approx(np.exp(metrics["damage/after/loss"]))
    weights = pd.read_parquet(record.artifact("samples/weights.parquet"))
    assert weights.groupby("stage", sort=False)["fraction_negative"].min().gt(0).tolist() == [
        True, False,
    ]  # fmt: skip
    stages = pd.read_parquet(record.artifact("samples/activations.parquet"))["stage"]
    assert stages.tolist() == ["before"] * 2 + ["after"] * 2
    assert record.artifact("figures/layers.png").stat().st_size > 5000


def test_the_result_says_what_the_weights_that_act_are(module_store: Store, smoke: list[str]):
    found = asked(smoke).json("monotonicity_application")
    assert found["all_weights_non_negative"] is True and found["num_matrices"] == 4
    assert np.isfinite(json.loads(json.dumps(found))["least_weight"]["after"])
    assert found["least_weight"]["after"] > 0 > found["least_weight"]["before"]
    assert found["loss"]["after"] > found["loss"]["before"]


def test_a_conversion_that_does_nothing_fails_the_check_that_was_published_vacuous(
    module_store: Store, smoke: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(nonnegative, "constrain", lambda *_: [])
    record = asked(smoke, FAULTY)
    assert "non_negative: the least effective weight of 4 matrices is -" in record.failed_gates
    assert record.json("monotonicity_application")["all_weights_non_negative"] is False


def test_converting_nothing_passes_its_control_exactly(module_store: Store, smoke: list[str]):
    record = asked(smoke, "--constraint.kind=none")
    assert record.metrics["gate/ablating_nothing_changes_nothing"] == 1
    assert record.metrics["damage/after/loss"] == record.metrics["damage/before/loss"]
    assert record.metrics["damage/rise"] == record.metrics["damage/after/kl"] == 0
    assert "gate/non_negative" not in record.metrics


def test_ablating_nothing_fails_where_something_was_changed(
    module_store: Store, smoke: list[str], monkeypatch: pytest.MonkeyPatch
):
    from papertrail.monotone import monotonize

    def touches(model: Any, constraint: Any) -> dict[str, float]:
        with torch.no_grad():
            model.gpt_neox.layers[1].mlp.dense_4h_to_h.bias[0] += 1e-2
        return {}

    monkeypatch.setattr(monotonize, "_convert", touches)
    record = asked(smoke, FAULTY, "--constraint.kind=none")
    assert "ablating_nothing_changes_nothing: loss, predict" in record.failed_gates


def test_relu_init_throws_away_less_than_abs_and_sign_frozen_nothing(
    module_store: Store, smoke: list[str]
):
    rise = {
        name: asked(smoke, *more).metrics["damage/rise"]
        for name, more in {
            "abs": ["--constraint.init=abs"],
            "relu": ["--constraint.init=relu"],
            "signs": ["--constraint.kind=sign_frozen"],
        }.items()
    }
    assert rise["abs"] > rise["relu"] > abs(rise["signs"])
    assert abs(rise["signs"]) < 1e-4
    assert asked(smoke, "--constraint.kind=sign_frozen").metrics["gate/signs_kept"] == 1


def test_free_and_projected_start_where_softplus_does(module_store: Store, smoke: list[str]):
    loss = [
        asked(smoke, f"--constraint.kind={kind}").metrics["damage/after/loss"]
        for kind in ("softplus", "free", "projected")
    ]
    assert loss[1] == loss[2] == pytest.approx(loss[0], rel=1e-5)


def test_matched_converts_nothing_and_is_refused(module_store: Store, smoke: list[str]):
    with pytest.raises(BadInput, match="matched converts nothing; give the arm it is matched to"):
        asked(smoke, "--constraint.kind=matched")


def test_the_pretrained_model_is_left_as_it_was(module_store: Store, smoke: list[str]):
    from papertrail.monotone.models import starting_point

    config = cli.parse(MONOTONIZE, smoke)[0]
    before = copy.deepcopy(starting_point(config).state_dict())
    asked(smoke, "--inspect.windows=2")
    after = starting_point(config).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
