"""The matched-perplexity arm: the noise, the search for its scale, and the arm at smoke scale."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from papertrail.core.answering.require import require
from papertrail.core.answering.standing import standing
from papertrail.core.errors import BadInput, Interrupted
from papertrail.core.question import cli
from papertrail.core.reading.record import Record
from papertrail.core.storage.store import Store
from papertrail.data.windows import Corpus
from papertrail.monotone import matched
from papertrail.monotone.config import TRAIN, matched_arms
from papertrail.monotone.schemas import TrainConfig
from papertrail.nn.families import constrained_linears
from papertrail.nn.matching import LARGEST_SCALE, Noise, scale_for


def tiny() -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=50, hidden_size=64, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config).eval()


def noise_on(model: GPTNeoXForCausalLM, seed: int = 0) -> Noise:
    matrices = constrained_linears(model, "mlp_both")
    return Noise({name: linear.weight for name, linear in matrices}, seed)


# -- the noise -------------------------------------------------------------------------------------


def test_noise_of_scale_0_is_the_model_itself_bit_for_bit():
    model = tiny()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    noise = noise_on(model)
    noise.set(0.7)
    assert not torch.equal(model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight,
                           before["gpt_neox.layers.0.mlp.dense_h_to_4h.weight"])  # fmt: skip
    noise.set(0.0)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())


def test_the_noise_of_a_matrix_is_as_large_as_the_scale_says_of_its_standard_deviation():
    model = tiny()
    with torch.no_grad():
        model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.mul_(10).add_(3)
    clean = {name: one.weight.detach().clone() for name, one in
             constrained_linears(model, "mlp_both")}  # fmt: skip
    noise = noise_on(model)
    for scale in (0.5, 2.0):  # each from the clean weights, not from those before
        noise.set(scale)
        for name, linear in constrained_linears(model, "mlp_both"):
            added = linear.weight.detach() - clean[name]
            assert float(added.std()) == pytest.approx(scale * float(clean[name].std()), rel=0.03)
            assert abs(added.mean()) < 0.05 * added.std()


def test_only_the_named_matrices_are_noised():
    model = tiny()
    before = {name: one.clone() for name, one in model.state_dict().items()}
    noise_on(model).set(1.0)
    named = {f"{name}.weight" for name, _ in constrained_linears(model, "mlp_both")}
    changed = {n for n, one in model.state_dict().items() if not torch.equal(one, before[n])}
    assert changed == named


def test_the_direction_is_fixed_by_the_seed_and_differs_between_matrices():
    first, again, other = tiny(), tiny(), tiny()
    again.load_state_dict(first.state_dict())
    other.load_state_dict(first.state_dict())
    for model, seed in ((first, 5), (again, 5), (other, 6)):
        noise_on(model, seed).set(1.0)
    one, two, three = (model.gpt_neox.layers[0].mlp.dense_h_to_4h.weight for model in
                       (first, again, other))  # fmt: skip
    assert torch.equal(one, two) and not torch.equal(one, three)
    random_state = torch.get_rng_state()
    noise_on(first)
    assert torch.equal(torch.get_rng_state(), random_state)
    drawn = noise_on(first)._direction
    left, right = (drawn[f"gpt_neox.layers.{i}.mlp.dense_h_to_4h"].flatten() for i in (0, 1))
    assert abs(torch.corrcoef(torch.stack([left, right]))[0, 1]) < 0.05


# -- the search ------------------------------------------------------------------------------------


@given(
    target=st.floats(min_value=2.01, max_value=9.9),
    steepness=st.floats(min_value=0.05, max_value=30),
)
def test_the_search_ends_within_the_tolerance_and_asks_no_scale_twice(target, steepness):
    asked: list[float] = []

    def nll_at(scale: float) -> float:
        asked.append(scale)
        return 2 + 8 * (1 - math.exp(-((steepness * scale) ** 2)))  # flat, steep, flat

    scale, nll = scale_for(nll_at, 2.0, target, 1e-3)
    assert abs(nll - target) <= 1e-3
    assert scale == asked[-1] and nll == 2 + 8 * (1 - math.exp(-((steepness * scale) ** 2)))
    assert len(asked) == len(set(asked)) < 40


def never(scale: float) -> float:
    raise AssertionError(f"measured at {scale}")


def test_a_target_that_the_clean_model_meets_takes_no_noise_and_no_measurement():
    assert scale_for(never, 3.0, 3.0005, 1e-3) == (0.0, 3.0)
    assert scale_for(never, 3.0, 2.9995, 1e-3) == (0.0, 3.0)


def test_a_model_that_is_worse_already_is_our_error_for_noise_makes_nothing_better():
    with pytest.raises(AssertionError, match="does not make a model better"):
        scale_for(never, 3.0, 2.9, 1e-3)


def test_a_loss_that_no_noise_reaches_is_refused_with_what_was_missing():
    asked: list[float] = []

    def saturates(scale: float) -> float:
        asked.append(scale)
        return 3.0

    with pytest.raises(BadInput, match=r"still 1 nats short at 64 standard deviations"):
        scale_for(saturates, 2.0, 4.0, 1e-3)
    assert max(asked) == LARGEST_SCALE


# -- the arm ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def config(smoke: list[str]) -> TrainConfig:
    found = cli.parse(TRAIN, [*smoke, "--constraint.kind=matched"])[0]
    assert isinstance(found, TrainConfig)
    return found


@pytest.fixture(scope="module")
def record(module_store: Store, config: TrainConfig) -> Record:
    return require(TRAIN, config)


def loss(record: Record, config: TrainConfig, corpus: Corpus) -> float:
    """Of an export, as transformers computes it, on the windows that training validates on."""
    model = AutoModelForCausalLM.from_pretrained(record.artifact("model"))
    schedule = config.train
    ids = corpus.validation_windows("val", schedule.window, schedule.validation_windows)
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


def corpus_of(record: Record, config: TrainConfig) -> Corpus:
    from papertrail.data.config import CORPUS
    from papertrail.monotone.config import corpus_config

    return Corpus.open(require(CORPUS, corpus_config(config)).artifact("corpus"))


def test_the_noised_baseline_is_as_perplexing_as_the_monotone_arm(
    record: Record, config: TrainConfig
):
    corpus = corpus_of(record, config)
    baseline, monotone = (loss(require(TRAIN, one), config, corpus) for one in
                          matched_arms(config).values())  # fmt: skip
    found = loss(record, config, corpus)
    assert abs(found - monotone) <= matched.TOLERANCE_NATS + 1e-5
    assert baseline < monotone - 10 * matched.TOLERANCE_NATS, "the arms do not differ: no test"
    metrics = record.metrics
    assert metrics["matched/perplexity"] == pytest.approx(math.exp(found), rel=1e-5)
    assert metrics["matched/baseline_perplexity"] == pytest.approx(math.exp(baseline), rel=1e-5)
    assert metrics["matched/monotone_perplexity"] == pytest.approx(math.exp(monotone), rel=1e-5)
    assert metrics["matched/noise_scale"] > 0 and metrics["gate/matched"] == 1
    assert not record.failed_gates


def test_it_is_the_baseline_but_for_noise_on_its_feed_forward_matrices(
    record: Record, config: TrainConfig
):
    baseline = require(TRAIN, matched_arms(config)["baseline"])
    ours, theirs = (AutoModelForCausalLM.from_pretrained(one.artifact("model")).state_dict()
                    for one in (record, baseline))  # fmt: skip
    changed = {name for name in theirs if not torch.equal(ours[name], theirs[name])}
    assert changed == {name for name in theirs if ".mlp.dense" in name and "weight" in name}
    scale = record.metrics["matched/noise_scale"]
    for name in changed:
        added = ours[name] - theirs[name]
        assert float(added.std()) == pytest.approx(scale * float(theirs[name].std()), rel=0.05)


def test_it_is_built_on_both_arms(record: Record, config: TrainConfig):
    parents = record.tags["papertrail.parents"].split(",")
    assert {require(TRAIN, one).run_id for one in matched_arms(config).values()} <= set(parents)


def test_a_search_that_was_stopped_goes_on_and_measures_nothing_twice(
    record: Record, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
):
    other = replace(config, seed=7)
    counted, real = [0], matched._nll

    def counting(stop_at: int) -> Callable[..., float]:
        def nll(*args: object) -> float:
            counted[0] += 1
            if counted[0] == stop_at:
                raise Interrupted("SIGTERM")
            return real(*args)  # type: ignore[arg-type]

        return nll

    monkeypatch.setattr(matched, "_nll", counting(4))
    with pytest.raises(Interrupted):
        require(TRAIN, other)
    assert standing(TRAIN, other).state != "finished"
    monkeypatch.setattr(matched, "_nll", counting(0))
    resumed = require(TRAIN, other)
    in_two = counted[0]
    counted[0] = 0
    whole = require(TRAIN, other, "force")
    assert in_two == counted[0] + 1, "only the measurement that was cut short is done again"
    for name in ("matched/noise_scale", "matched/perplexity"):
        assert resumed.metrics[name] == whole.metrics[name]


def test_an_arm_with_nothing_to_match_is_refused_with_both_losses(
    record: Record, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
):
    arms = matched_arms(config)
    swapped = {"baseline": arms["monotone"], "monotone": arms["baseline"]}
    monkeypatch.setattr(matched, "matched_arms", lambda _: swapped)
    with pytest.raises(BadInput, match=r"nothing to match.*nats per token against.*leave matched"):
        require(TRAIN, config, "force")


def test_what_failed_in_an_arm_fails_here(record: Record, config: TrainConfig, module_store: Store):
    arm, tag = require(TRAIN, matched_arms(config)["monotone"]), "papertrail.failed_gates"
    module_store.client.set_tag(arm.run_id, tag, "non_negative: it is -1")
    again = require(TRAIN, config, "force")
    module_store.client.delete_tag(arm.run_id, tag)
    assert again.failed_gates == "monotone_arm: non_negative: it is -1"
