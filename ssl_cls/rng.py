"""Random numbers without state: each is a hash of what it is for, so nothing has to be saved or replayed.

The hash is splitmix64 (Steele et al., OOPSLA 2014) chained over (seed, epoch, sample, view, slot), in int64 tensor
arithmetic that wraps, which gives the same bits on every device, for any batch, worker or rank.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class DrawKey(NamedTuple):
    """What all the samples of a batch share."""

    seed: int
    epoch: int


def _signed(value: int) -> int:
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


_GAMMA, _C1, _C2 = (_signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _mix(x: Tensor) -> Tensor:
    """splitmix64's step and finaliser on int64; `>>` is arithmetic, so the sign bits it drags in are masked off."""
    x = x + _GAMMA
    x = (x ^ ((x >> 30) & (2**34 - 1))) * _C1
    x = (x ^ ((x >> 27) & (2**37 - 1))) * _C2
    return x ^ ((x >> 31) & (2**33 - 1))


def bits(key: DrawKey, index: Tensor, view: int | Tensor, slots: int) -> Tensor:
    """64 random bits for each sample and slot: int64 [B, slots], for `index` int64 [B], `view` one or int64 [B]."""
    state = torch.zeros((), dtype=torch.int64, device=index.device)
    for part in (key.seed, key.epoch):
        state = _mix(state ^ _signed(part))
    state = _mix(state ^ index)
    state = _mix(state ^ view)
    return _mix(state[:, None] ^ torch.arange(slots, device=index.device))


def uniform(key: DrawKey, index: Tensor, view: int | Tensor, slots: int) -> Tensor:
    """Uniform in [0, 1): float32 [B, slots], 24 random bits each. `view` keeps different uses of a sample apart."""
    return ((bits(key, index, view, slots) >> 40) & (2**24 - 1)).to(torch.float32) * 2.0**-24


def permute(position: Tensor, n: int, key: DrawKey) -> Tensor:
    """The image of each `position` in [0, n) under a keyed permutation of range(n), int64, in O(len(position)) memory.

    A balanced Feistel network over the smallest power of four that holds n (Luby & Rackoff 1988), walked along its
    cycles until it lands inside the range (Black & Rogaway 2002): below 4 rounds of walking on average.
    """
    half = max(1, ((n - 1).bit_length() + 1) // 2)
    mask = 2**half - 1
    rounds = bits(key, torch.arange(8, device=position.device), -1, 1)[:, 0]

    def feistel(x: Tensor) -> Tensor:
        left, right = x >> half, x & mask
        for round_key in rounds:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        joined: Tensor = (left << half) | right
        return joined

    image: Tensor = feistel(position)
    while bool((outside := image >= n).any()):
        image = torch.where(outside, feistel(image), image)
    return image
