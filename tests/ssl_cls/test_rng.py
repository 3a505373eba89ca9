"""Random numbers: the published generator, keyed as documented, uniform, a function of the key alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_cls import rng
from ssl_cls.rng import DrawKey

MASK = 2**64 - 1
GAMMA = 0x9E3779B97F4A7C15
INT64 = st.integers(-(2**63), 2**63 - 1)


def splitmix(x: int) -> int:
    """Python integers, from Steele et al. 2014, figure 16."""
    x = (x + GAMMA) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def unsigned(values: torch.Tensor) -> list[int]:
    return [value & MASK for value in values.flatten().tolist()]


def test_mix_gives_the_published_sequence() -> None:
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = [rng._signed(1234567 + k * GAMMA) for k in range(4)]
    assert unsigned(rng._mix(torch.tensor(states))) == published


@given(INT64, st.integers(-3, 10**6), INT64, st.integers(-3, 1000), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_bits_are_a_chained_hash_of_the_key(seed: int, epoch: int, sample: int, view: int, slots: int) -> None:
    state = 0
    for part in (seed, epoch, sample, view):
        state = splitmix(state ^ (part & MASK))
    expected = [splitmix(state ^ slot) for slot in range(slots)]
    assert unsigned(rng.bits(DrawKey(seed, epoch), torch.tensor([sample]), view, slots)) == expected


def test_a_draw_knows_nothing_of_its_batch() -> None:
    index = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    together = rng.uniform(DrawKey(3, 1), index, 2, 7)
    alone = torch.cat([rng.uniform(DrawKey(3, 1), part, 2, 4) for part in index.split(33)])
    assert torch.equal(together[:, :4], alone)


def test_uniform_is_uniform_and_below_one() -> None:
    n = 1 << 18
    drawn = rng.uniform(DrawKey(0, 0), torch.arange(n // 8), 0, 8).flatten().double()
    assert drawn.min() >= 0
    assert drawn.max() < 1
    distance = (drawn.sort().values - (torch.arange(n) + 0.5) / n).abs().max()
    assert distance < 1.95 / math.sqrt(n)  # Kolmogorov-Smirnov at 0.1 %


def test_uniform_reaches_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in ((0, 0.0), (-1, 1 - 2**-24), (-(2**63), 0.5)):
        monkeypatch.setattr(rng, "bits", lambda *_, value=value: torch.tensor([[value]]))
        assert float(rng.uniform(DrawKey(0, 0), torch.arange(1), 0, 1)) == expected


@pytest.mark.parametrize("changed", ["seed", "epoch", "sample", "view", "slot"])
def test_changing_any_part_by_one_changes_half_of_the_bits(changed: str) -> None:
    index = torch.arange(4096) * 2
    here = rng.bits(DrawKey(8, 4), index, 2, 2)
    there = {
        "seed": lambda: rng.bits(DrawKey(9, 4), index, 2, 2),
        "epoch": lambda: rng.bits(DrawKey(8, 5), index, 2, 2),
        "sample": lambda: rng.bits(DrawKey(8, 4), index + 1, 2, 2),
        "view": lambda: rng.bits(DrawKey(8, 4), index, 3, 2),
        "slot": lambda: here.flip(1),
    }[changed]()
    flipped = torch.stack([(here ^ there) >> bit & 1 for bit in range(64)]).double().mean((1, 2))
    assert (flipped - 0.5).abs().max() < 5 * 0.5 / math.sqrt(8192)


def test_permute_is_a_permutation_of_any_range() -> None:
    powers = [2**k + d for k in range(9, 14) for d in (-1, 0, 1)]
    for n in [*range(1, 200), *range(200, 10_001, 457), *powers, 10_000]:
        image = rng.permute(torch.arange(n), n, DrawKey(n, 1))
        assert torch.equal(image.sort().values, torch.arange(n)), n


def test_permute_is_elementwise() -> None:
    whole = rng.permute(torch.arange(999), 999, DrawKey(5, 6))
    chosen = torch.tensor([998, 0, 17, 17])
    assert torch.equal(rng.permute(chosen, 999, DrawKey(5, 6)), whole[chosen])


def test_permute_takes_a_range_that_fits_no_memory() -> None:
    n = 10**12
    image = rng.permute(torch.arange(4096), n, DrawKey(0, 0))
    assert len(image.unique()) == 4096
    assert 0 <= int(image.min()) < int(image.max()) < n
    assert abs(float(image.double().mean()) / n - 0.5) < 5 / math.sqrt(12 * 4096)


@pytest.mark.parametrize("n", [3, 4])
def test_all_orders_are_equally_likely(n: int) -> None:
    trials = 720
    orders = torch.stack([rng.permute(torch.arange(n), n, DrawKey(0, epoch)) for epoch in range(trials)])
    counts = torch.unique(orders, dim=0, return_counts=True)[1].double()
    cells = math.factorial(n)
    chi2 = ((counts - trials / cells) ** 2).sum() / (trials / cells) + (cells - len(counts)) * trials / cells
    assert chi2 < cells - 1 + 5 * math.sqrt(2 * (cells - 1))


def test_every_sample_is_equally_likely_at_every_position() -> None:
    n, trials = 32, 640
    where = torch.stack([rng.permute(torch.arange(n), n, DrawKey(1, epoch)) for epoch in range(trials)])
    counts = torch.nn.functional.one_hot(where, n).sum(0).double()
    chi2, freedom = float(((counts - trials / n) ** 2).sum() / (trials / n)), (n - 1) ** 2
    assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom)
