import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as oracle
from sklearn.metrics import average_precision_score

from eval.comparison.stats import crossed_interval, mcnemar, paired_bootstrap, resampled_map, t_quantile


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 14, 30, 101, 1000])
@pytest.mark.parametrize("probability", [0.5, 0.6, 0.9, 0.975, 0.995, 0.9999])
def test_t_quantile_is_scipys(probability: float, freedom: int) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(oracle.t.ppf(probability, freedom), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("over_draws", [False, True])
@given(st.lists(st.floats(0, 100), min_size=2, max_size=12))
def test_interval_over_one_factor_is_scipys(over_draws: bool, values: list[float]) -> None:
    found = crossed_interval({(0, i) if over_draws else (i, 0): value for i, value in enumerate(values)})
    count = len(values)
    assert (found.mean, found.n) == (pytest.approx(np.mean(values)), f"1×{count}" if over_draws else str(count))
    error = float(np.std(values, ddof=1)) / math.sqrt(count)
    assert found.half_width() == pytest.approx(oracle.t.ppf(0.975, count - 1) * error, rel=1e-8, abs=1e-9)


def test_one_run_has_no_interval() -> None:
    found = crossed_interval({(0, 0): 81.5})
    assert (found.mean, found.half_width(), found.n) == (81.5, None, "1")


def test_interval_over_two_factors_by_hand() -> None:
    """Seeds' means 80, 82, 84: variance 4, a third of it; draws' means 81 and 83: variance 2, half of it."""
    found = crossed_interval({(seed, draw): 79 + 2 * seed + 2 * draw for seed in range(3) for draw in range(2)})
    assert (found.mean, found.n, found.freedom) == (82, "3×2", 2)  # (4/3 + 1)^2 / ((4/3)^2 / 2 + 1) = 2.88
    assert found.error == pytest.approx(math.sqrt(4 / 3 + 1))
    assert found.half_width(0.9) == pytest.approx(oracle.t.ppf(0.95, 2) * math.sqrt(4 / 3 + 1))


def test_equal_values_have_no_width() -> None:
    assert crossed_interval(dict.fromkeys([(0, 0), (0, 1), (1, 0), (1, 1)], 70.0)).half_width() == 0


@pytest.mark.parametrize("spread", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0.3, 1, 0.5), (1, 0.2, 2)])
def test_interval_holds_the_truth_when_seeds_share_draws(spread: tuple[float, float, float]) -> None:
    """3 seeds on the same 5 draws. Taken for 15 independent runs, the interval holds it for half of them at worst."""
    rng, trials = np.random.default_rng(0), 1500
    of_seed, of_draw, rest = spread
    held = 0
    for _ in range(trials):
        values = of_seed * rng.normal(size=(3, 1)) + of_draw * rng.normal(size=(1, 5)) + rest * rng.normal(size=(3, 5))
        found = crossed_interval({(s, d): float(values[s, d]) for s in range(3) for d in range(5)})
        held += abs(found.mean) <= found.half_width()
    assert held / trials > 0.93  # 0.95 but for 1,500 trials


@pytest.mark.parametrize("counts", [(0, 0), (1, 0), (0, 6), (7, 7), (40, 75), (300, 290), (2600, 2400)])
def test_mcnemar_is_the_binomial_test(counts: tuple[int, int]) -> None:
    only_a, only_b = counts
    a = np.repeat([True, False, True, False], [only_a, only_b, 5, 3])
    b = np.repeat([False, True, True, False], [only_a, only_b, 5, 3])
    expected = oracle.binomtest(only_a, sum(counts), 0.5).pvalue if sum(counts) else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(b, a) == mcnemar(a, b)


def _answers(only_a: int, only_b: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.ones(n, dtype=bool), np.ones(n, dtype=bool)
    b[:only_a] = False
    a[only_a : only_a + only_b] = False
    return a, b


def test_bootstrap_interval_has_the_closed_form_width() -> None:
    n, only_a, only_b = 10_000, 420, 370
    points, low, high, p = paired_bootstrap(*_answers(only_a, only_b, n), samples=40_000)
    share, balance = (only_a + only_b) / n, (only_a - only_b) / n
    sd = 100 * math.sqrt((share - balance**2) / n)
    assert points == pytest.approx(0.5)
    assert (low, high) == (pytest.approx(0.5 - 1.96 * sd, abs=0.03), pytest.approx(0.5 + 1.96 * sd, abs=0.03))
    assert p == pytest.approx(2 * oracle.norm.sf(0.5 / sd), rel=0.1)


def test_bootstrap_of_equal_answers_is_nothing() -> None:
    a, _ = _answers(3, 5, 100)
    assert paired_bootstrap(a, a) == (0, 0, 0, 1)


def test_bootstrap_of_averaged_runs_knows_their_variance() -> None:
    """Over several runs an image is right a fraction of the time: the width is that of their mean."""
    generator = np.random.default_rng(3)
    a, b = generator.binomial(3, 0.8, 4000) / 3, generator.binomial(3, 0.75, 4000) / 3
    points, low, high, _ = paired_bootstrap(a, b, samples=40_000)
    assert points == pytest.approx(100 * (a - b).mean())
    assert high - low == pytest.approx(2 * 1.96 * 100 * (a - b).std() / math.sqrt(4000), rel=0.03)


def test_bootstrap_is_antisymmetric_in_points_and_a_function_of_its_seed() -> None:
    a, b = _answers(30, 50, 500)
    assert paired_bootstrap(a, b, seed=4) == paired_bootstrap(a, b, seed=4)
    assert paired_bootstrap(a, b, seed=4) != paired_bootstrap(a, b, seed=5)
    ab, ba = paired_bootstrap(a, b, samples=50_000), paired_bootstrap(b, a, samples=50_000)
    assert ab.points == -ba.points
    assert ab.low == pytest.approx(-ba.high, abs=0.2)
    assert ab.p == pytest.approx(ba.p, rel=0.2)


def test_bootstrap_covers_the_truth_as_often_as_it_says() -> None:
    """Of 400 test sets with a known difference 95 % of intervals hold it, within the error of 400 trials."""
    generator = np.random.default_rng(0)
    only_a, only_b, n, trials = 0.06, 0.04, 1000, 400
    held = rejected = 0
    for seed in range(trials):
        fate = generator.random(n)
        a, b = fate >= only_b, (fate < only_b) | (fate >= only_a + only_b)
        _, low, high, _ = paired_bootstrap(a, b, seed, samples=1000)
        held += low <= 100 * (only_a - only_b) <= high
        null_a, null_b = fate >= 0.05, (fate < 0.05) | (fate >= 0.1)
        rejected += paired_bootstrap(null_a, null_b, seed, samples=1000).p <= 0.05
    slack = 3 * math.sqrt(0.95 * 0.05 / trials)
    assert abs(held / trials - 0.95) < slack
    assert abs(rejected / trials - 0.05) < slack


def test_resampled_map_is_scikit_learn_s_of_the_same_resamples() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((60, 5)) < 0.2).astype(np.float32)
    labels[:, 3] = 0
    scores = rng.integers(0, 6, labels.shape).astype(np.float32)  # with ties
    ours, drawn = resampled_map(scores, labels, seed=1, samples=20), np.random.default_rng(1)
    for found in ours:
        chosen = drawn.integers(60, size=60)
        present = labels[chosen].any(0)
        theirs = average_precision_score(labels[chosen][:, present], scores[chosen][:, present])
        assert found == pytest.approx(100 * theirs, abs=1e-6)
