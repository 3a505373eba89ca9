"""Which samples make up a batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_cls.data.sampler import batch_indices, steps_per_epoch
from ssl_cls.errors import UserError


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


def test_seeds_and_epochs_give_other_orders() -> None:
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


def test_a_batch_of_everything_is_one_step() -> None:
    _, indices = batch_indices(5, n=64, batch_size=64, seed=0)
    assert sorted(indices.tolist()) == list(range(64))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(UserError, match="a batch of 65 is larger than the data, 64 images") as refused:
        steps_per_epoch(64, 65)
    assert refused.value.where == "train.batch_size"
    assert refused.value.fix
