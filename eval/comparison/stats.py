"""Intervals over seeds and paired tests over test images."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_ZERO = 1e-9  # points: a difference that is nothing but rounding


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and label draws, and what is known of its spread."""

    mean: float
    seeds: int
    draws: int
    error: float | None  # standard error; None: one value has no spread
    freedom: int  # of Student's t

    def half_width(self, level: float = 0.95) -> float | None:
        return None if self.error is None else t_quantile((1 + level) / 2, self.freedom) * self.error

    @property
    def n(self) -> str:
        """ "3", or "3×5": seeds, and label draws where there are several."""
        return f"{self.seeds}" if self.draws == 1 else f"{self.seeds}×{self.draws}"


class Difference(NamedTuple):
    """Accuracy of a minus accuracy of b on the same images, in points, with its interval and two-sided p."""

    points: float
    low: float
    high: float
    p: float


def crossed_interval(values: Mapping[tuple[int, int], float]) -> Interval:
    """Of runs by (seed, label draw): what the mean would be for other seeds and other draws, Student's t.

    All seeds are judged on the same draws, so runs are not independent. The variance of the mean is that between the
    seeds' means plus that between the draws' means (two crossed random factors), each divided by their number; what
    neither explains is counted in both, which errs on the wide side. Degrees of freedom as Satterthwaite (1946),
    rounded down. A factor of one level adds nothing: then the interval does not speak of it.
    """
    levels: tuple[dict[int, list[float]], ...] = (defaultdict(list), defaultdict(list))
    for place, value in values.items():
        for factor, level in zip(levels, place, strict=True):
            factor[level].append(value)
    seeds, draws = map(len, levels)
    mean = math.fsum(values.values()) / len(values)
    parts = [(_variance(list(factor.values())) / len(factor), len(factor) - 1) for factor in levels if len(factor) > 1]
    if not parts:
        return Interval(mean, seeds, draws, None, 0)
    variance = math.fsum(part for part, _ in parts)
    weight = math.fsum(part**2 / freedom for part, freedom in parts)
    freedom = int(variance**2 / weight + 1e-9) if weight else sum(freedom for _, freedom in parts)
    return Interval(mean, seeds, draws, math.sqrt(variance), freedom)


def _variance(groups: list[list[float]]) -> float:
    """Of the groups' means."""
    means = [math.fsum(group) / len(group) for group in groups]
    centre = math.fsum(means) / len(means)
    return math.fsum((mean - centre) ** 2 for mean in means) / (len(means) - 1)


def wilson_interval(percent: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share, in percent, that n independent images leave (Wilson 1927), in percent."""
    share, z2 = percent / 100, 1.959964**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return 100 * (middle - half), 100 * (middle + half)


def t_quantile(probability: float, freedom: int) -> float:
    """The t below which Student's distribution of `freedom` degrees has `probability`, in [0.5, 1).

    Bisection on theta = atan(t / sqrt(freedom)), in which the distribution is a finite sum (Abramowitz &
    Stegun 1964, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, math.pi / 2
    while low < (theta := (low + high) / 2) < high:
        if _within(theta, freedom) < 2 * probability - 1:
            low = theta
        else:
            high = theta
    return math.sqrt(freedom) * math.tan(theta)


def _within(theta: float, freedom: int) -> float:
    """P(|T| <= sqrt(freedom) tan(theta)): A(t | nu) of Abramowitz & Stegun."""
    odd = freedom % 2
    term = math.sin(theta) * (math.cos(theta) if odd else 1.0)
    terms = []
    for k in range(1 + odd, freedom, 2):
        terms.append(term)
        term *= math.cos(theta) ** 2 * k / (k + 1)
    total = math.fsum(terms)
    return 2 / math.pi * (theta + total) if odd else total


def paired_bootstrap(
    correct_a: NDArray[Any], correct_b: NDArray[Any], seed: int = 0, samples: int = 10_000
) -> Difference:
    """Resamples the test images, each with both answers: a 95 % percentile interval of the difference.

    p is twice the smaller share of resamples on one side of no difference (Efron & Tibshirani 1993, 16.4),
    the observed sample counted in: it is never below 2 / (samples + 1).

    Args:
        correct_a, correct_b: [n_test], of the same images: right or wrong, or how often over several runs.
    """
    n = len(correct_a)
    # Images of the same difference are interchangeable: a resample is how often each difference occurs.
    values, counts = np.unique(correct_a.astype(np.float64) - correct_b, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=samples)
    return of_resamples(float(counts @ values * (100 / n)), drawn @ values * (100 / n))


def of_resamples(points: float, resampled: NDArray[np.float64]) -> Difference:
    """The observed difference, with the percentiles and the p of what resamples of the test images give, [samples]."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    one_side = int(min((resampled < _ZERO).sum(), (resampled > -_ZERO).sum()))
    return Difference(points, float(low), float(high), min(1.0, 2 * (one_side + 1) / (len(resampled) + 1)))


def resampled_map(
    scores: NDArray[Any], labels: NDArray[Any], seed: int = 0, samples: int = 2_000
) -> NDArray[np.float64]:
    """mAP in percent of each of `samples` resamples of the test images, float64 [samples].

    The resamples are a function of seed and number of images, so that encoders are resampled alike and their
    differences are paired. Equal scores come in together; labels that no image of a resample has are passed over.

    Args:
        scores: [n_test, K]; labels: [n_test, K], 1 where an image has the label.
    """
    n, found = len(scores), []
    order = np.argsort(-scores, axis=0, kind="stable")
    ends = [np.searchsorted(-(s := scores[o, k]), -s, side="right") - 1 for k, o in enumerate(order.T)]
    drawn = np.random.default_rng(seed)
    for _ in range(samples):
        times = np.bincount(drawn.integers(n, size=n), minlength=n)
        each = []
        for k, end in enumerate(ends):
            own = times[order[:, k]]
            positive = own * (labels[order[:, k], k] > 0)
            if total := positive.sum():
                seen = np.maximum(own.cumsum()[end], 1)
                each.append((positive.cumsum()[end] / seen) @ positive / total)
        found.append(100 * float(np.mean(each)) if each else 0.0)
    return np.asarray(found)


def mcnemar(correct_a: NDArray[np.bool_], correct_b: NDArray[np.bool_]) -> float:
    """Exact two-sided p of a and b being right equally often, from where they differ (McNemar 1947)."""
    only_a, only_b = int((correct_a & ~correct_b).sum()), int((correct_b & ~correct_a).sum())
    differ = only_a + only_b
    tail = term = 1
    for k in range(min(only_a, only_b)):
        term = term * (differ - k) // (k + 1)
        tail += term
    return min(1.0, 2 * tail / (1 << differ))
