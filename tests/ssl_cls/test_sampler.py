"""Which samples make up a batch."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_cls.data.sampler import batch_indices, steps_per_epoch
from ssl_cls.data.stream import _Share
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey, permute


@given(st.integers(1, 200), st.data(), st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_an_epoch_takes_whole_batches_and_no_sample_twice(n: int, data: st.DataObject, seed: int) -> None:
    batch_size = data.draw(st.integers(1, n))
    steps = steps_per_epoch(n, batch_size)
    assert steps == n // batch_size
    drawn = torch.cat([batch_indices(s, n=n, batch_size=batch_size, seed=seed)[1] for s in range(steps, 2 * steps)])
    assert len(drawn) == steps * batch_size == len(drawn.unique())
    assert drawn.min() >= 0
    assert drawn.max() < n


def test_the_tail_left_out_differs_from_epoch_to_epoch() -> None:
    n, batch_size = 103, 25
    left_out = []
    for epoch in range(40):
        drawn = torch.cat([batch_indices(epoch * 4 + s, n=n, batch_size=batch_size, seed=0)[1] for s in range(4)])
        left_out += sorted(set(range(n)) - set(drawn.tolist()))
    assert len(set(left_out)) > 60  # 120 draws of 103: 71 on average; a fixed tail would give 3


def test_the_key_names_seed_and_epoch() -> None:
    assert [batch_indices(s, n=10, batch_size=3, seed=7)[0] for s in (0, 2, 3, 8)] == [
        (7, 0),
        (7, 0),
        (7, 1),
        (7, 2),
    ]


def test_seeds_and_epochs_give_other_orders() -> None:  # X16
    first = [
        tuple(batch_indices(100 * epoch, n=1000, batch_size=10, seed=seed)[1].tolist())
        for seed in range(20)
        for epoch in range(20)
    ]
    assert len(set(first)) == 400


def test_a_step_needs_no_other_step_and_no_memory_of_the_data() -> None:
    n = 10**13
    key, indices = batch_indices(10**9, n=n, batch_size=1024, seed=0)
    assert key.epoch == 0
    assert len(indices.unique()) == 1024
    assert indices.max() < n


@pytest.mark.parametrize("batch_size", [1, 96, 4096, 2**15])
def test_an_epoch_is_one_permutation_cut_into_batches(batch_size: int) -> None:
    """Though it is computed in blocks, and in whatever order steps are asked for."""
    n = 100_003
    steps = n // batch_size
    whole = permute(torch.arange(n), n, DrawKey(3, 1))
    for number in (steps - 1, 0, steps // 2, 0):
        key, indices = batch_indices(steps + number, n=n, batch_size=batch_size, seed=3)
        assert key == DrawKey(3, 1)
        assert torch.equal(indices, whole[number * batch_size : (number + 1) * batch_size])


def test_a_batch_of_everything_is_one_step() -> None:
    _, indices = batch_indices(5, n=64, batch_size=64, seed=0)
    assert sorted(indices.tolist()) == list(range(64))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 65 is larger than the data, 64 images") as refused:
        steps_per_epoch(64, 65)
    assert refused.value.where == "train.batch_size"
    assert refused.value.fix


BILLION = """
import resource
import torch
from ssl_cls.data.sampler import batch_indices
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for step in range(0, 240_000, 60_001):
    _, indices = batch_indices(step, n=10**9, batch_size=4096, seed=0)
    assert len(indices.unique()) == 4096 and 0 <= indices.min() and indices.max() < 10**9
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_billion_samples_take_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", BILLION], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50_000  # kilobytes


def test_a_thousand_ranks_share_an_epoch_evenly_and_take_no_sample_twice() -> None:
    """Over a whole epoch, by the shares that streams take: alike in number, disjoint, and nothing else is left out."""
    n, ranks, batch_size, epoch = 200_003, 1024, 8192, 3
    steps = steps_per_epoch(n, batch_size)
    shares = [_Share(n, batch_size, 5, 1, rank, ranks) for rank in range(ranks)]
    everyone = torch.cat([own for share in shares for own in share.indices(epoch * steps)[1]])
    assert torch.equal(everyone, batch_indices(epoch * steps, n=n, batch_size=batch_size, seed=5)[1])
    mine = torch.cat(
        [own for step in range(epoch * steps, (epoch + 1) * steps) for own in shares[700].indices(step)[1]]
    )
    assert len(mine) == steps * batch_size // ranks
    drawn = [
        batch_indices(step, n=n, batch_size=batch_size, seed=5) for step in range(epoch * steps, (epoch + 1) * steps)
    ]
    assert {key.epoch for key, _ in drawn} == {epoch}
    seen = torch.bincount(torch.cat([indices for _, indices in drawn]), minlength=n)
    assert seen.max() == 1
    assert seen.sum() == n - n % batch_size


def test_a_thousand_ranks_of_a_billion_samples_take_spread_and_different_ones() -> None:
    """Steps from all over the epoch: no sample comes twice, and no part of the data is preferred by any rank."""
    n, ranks, batch_size = 10**9, 1024, 65_536
    steps = range(0, steps_per_epoch(n, batch_size), 1000)
    shares = torch.stack([batch_indices(step, n=n, batch_size=batch_size, seed=1)[1].view(ranks, -1) for step in steps])
    assert len(shares.unique()) == shares.numel()
    each = shares.transpose(0, 1).reshape(ranks, -1)
    tenths = torch.stack([torch.bincount(own // (n // 10), minlength=10) for own in each]).double()
    expected = each.shape[1] / 10
    chi_squared = ((tenths - expected) ** 2 / expected).sum(1)  # 9 degrees of freedom: mean 9, deviation 4.2
    assert abs(float(chi_squared.mean()) - 9) < 5 * 4.243 / ranks**0.5
    assert float(chi_squared.max()) < 45  # p = 1e-6 each
