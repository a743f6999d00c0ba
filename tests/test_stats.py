"""Claims about the statistics, against golden values, formulas and scipy."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from papertrail.core.errors import BadInput
from papertrail.stats.intervals import paired_bootstrap, seed_bootstrap, wilson
from papertrail.stats.paired import holm, mcnemar, mcnemar_p, sign_flip_p, wilcoxon_p

small = st.integers(-5, 5).map(float)


# Wilson


def test_wilson_gives_the_published_values():
    # Newcombe, Statist. Med. 17 (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    published = {(81, 263): (0.2553, 0.3662), (15, 148): (0.0624, 0.1605), (0, 20): (0, 0.1611)}
    for (successes, n), ends in published.items():
        found = wilson(successes, n)
        assert (found.low, found.high) == pytest.approx(ends, abs=5e-5)
        assert found.estimate == successes / n


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_its_formula_and_stays_a_proportion(counts):
    successes, n = counts
    z, share = stats.norm.ppf(0.975), successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-9)
    assert 0 <= found.low <= share <= found.high <= 1
    assert found.high > found.low


@given(st.integers(1, 100), st.integers(0, 100))
def test_wilson_of_failures_mirrors_wilson_of_successes(n, successes):
    assume(successes <= n)
    a, b = wilson(successes, n), wilson(n - successes, n)
    assert a.low == pytest.approx(1 - b.high, abs=1e-9)


def test_a_higher_level_is_wider_and_impossible_counts_are_refused():
    assert wilson(5, 20, 0.99).high > wilson(5, 20, 0.95).high
    for successes, n in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(BadInput, match=f"{successes} successes in {n} trials"):
            wilson(successes, n)


# Bootstrap


def test_the_bootstrap_of_a_normal_sample_is_close_to_the_t_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 200), rng.normal(0, 1, 200)
    found = paired_bootstrap(a, b)
    exact = stats.ttest_rel(a, b).confidence_interval()
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.02)
    assert found.estimate == pytest.approx((a - b).mean())


def test_the_bootstrap_pairs_its_examples():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 100, 50)
    found = paired_bootstrap(difficulty + rng.normal(1, 0.1, 50), difficulty)
    assert 0.9 < found.low < found.high < 1.1


def test_the_bootstrap_takes_other_statistics_and_repeats_itself():
    values = np.array([0.0, 0.0, 1.0, 1.0, 50.0] * 8)
    zero = np.zeros(40)
    once, again = (paired_bootstrap(values, zero, np.median, 999, seed=3) for _ in range(2))
    assert once == again
    assert once.estimate == 1 and once.high <= 1
    assert paired_bootstrap(values, zero, np.mean, 999, seed=3).estimate == 10.4


def test_equal_differences_have_no_spread_and_one_pair_is_not_enough():
    assert paired_bootstrap(np.ones(5), np.zeros(5)) == (1.0, 1.0, 1.0)
    with pytest.raises(BadInput, match="1 pairs"):
        paired_bootstrap(np.ones(1), np.zeros(1))


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        values = rng.exponential(1.0, 40)
        found = paired_bootstrap(values, np.zeros(40), resamples=499, seed=trial)
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.98


def test_resampling_seeds_counts_seeds_and_not_texts():
    rng = np.random.default_rng(0)
    # Three seeds that differ by far more than their texts do.
    differences = [rng.normal(centre, 0.01, 500) for centre in (0.0, 1.0, 2.0)]
    by_seed = seed_bootstrap(differences)
    pooled = np.concatenate(differences)
    by_text = paired_bootstrap(pooled, np.zeros_like(pooled), resamples=999)
    assert by_seed.estimate == pytest.approx(1.0, abs=0.01)
    # 1 of 27 resamples takes the lowest seed three times, so both extremes are inside 95 %.
    assert by_seed.low == pytest.approx(0.0, abs=0.05)
    assert by_seed.high == pytest.approx(2.0, abs=0.05)
    assert by_seed.high - by_seed.low > 10 * (by_text.high - by_text.low)
    with pytest.raises(BadInput, match="one non-empty array per seed"):
        seed_bootstrap([])


def test_within_one_seed_the_texts_are_resampled():
    values = np.random.default_rng(0).normal(0, 1, 400)
    found = seed_bootstrap([values])
    half = 1.96 * values.std() / 20
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.02
    )


# Paired tests


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_twice_the_smaller_binomial_tail(only_a, only_b):
    n, k = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert mcnemar_p(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_counts_discordant_pairs_only():
    a = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
    b = np.array([0, 0, 0, 0, 0, 0, 1, 0, 0, 1], dtype=bool)
    found = mcnemar(a, b)
    assert (found.only_a, found.only_b) == (6, 0)
    assert found.p_value == pytest.approx(2 / 64)
    assert mcnemar(b, a) == (0, 6, found.p_value)
    assert mcnemar(a, a) == (0, 0, 1.0)


@given(st.lists(small, min_size=1, max_size=8))
def test_sign_flips_of_few_examples_are_enumerated(values):
    observed = abs(sum(values))
    flips = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
             for signs in product((1, -1), repeat=len(values))]  # fmt: skip
    expected = sum(f >= observed for f in flips) / len(flips)
    assert sign_flip_p(np.array(values)) == pytest.approx(expected)


def test_sign_flips_of_many_examples_agree_with_scipy_and_are_never_zero():
    values = np.random.default_rng(0).normal(0.25, 1, 60)
    independent = stats.permutation_test(
        (values, np.zeros(60)), lambda a, b: np.mean(a - b), permutation_type="samples",
        n_resamples=4999, rng=np.random.default_rng(1),
    ).pvalue  # fmt: skip
    assert sign_flip_p(values) == pytest.approx(float(independent), abs=0.015)
    assert sign_flip_p(values, seed=4) == sign_flip_p(values, seed=4)
    assert sign_flip_p(np.ones(60)) == 1 / 10_000


def test_under_no_difference_small_p_values_are_as_rare_as_they_say():
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_p(rng.normal(0, 1, 20), resamples=499, seed=i) for i in range(300)])
    assert 0.02 <= (p <= 0.05).mean() <= 0.09


def test_wilcoxon_is_scipys_and_one_without_differences():
    values = np.array([0.5, 1.5, -0.3, 2.2, 0.9, 3.0])
    assert wilcoxon_p(values) == pytest.approx(2 / 64 * 2)  # rank sum 1 of 21: {}, {1}
    assert wilcoxon_p(np.zeros(5)) == 1.0


# Holm


def test_holm_gives_the_textbook_values():
    adjusted = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.5))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    p = np.array(p_values)
    assume(not np.isclose(p * np.arange(1, len(p) + 1)[:, None], alpha, atol=1e-9).any())
    rejected = set()
    for step, i in enumerate(np.argsort(p, kind="stable")):
        if p[i] > alpha / (len(p) - step):
            break
        rejected.add(int(i))
    assert set(np.nonzero(holm(p) <= alpha)[0].tolist()) == rejected


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p_values):
    p = np.array(p_values)
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(p * len(p), 1)).all()
