"""Which samples make up global batch k: a pure function of (k, n, batch size, seed), in O(batch) memory."""

from functools import lru_cache

import torch
from torch import Tensor

from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey, permute

_AT_ONCE = 2**14  # positions permuted together: a permutation is a hundred small operations, whatever its length


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Whole batches in one pass over n samples; the remainder, another one each epoch, is left out.

    Raises:
        UserError: the batch is larger than the data.
    """
    if batch_size > n:
        raise UserError(
            f"a batch of {batch_size} is larger than the data, {n} images", "train.batch_size", f"at most {n}"
        )
    return n // batch_size


def batch_indices(step: int, *, n: int, batch_size: int, seed: int) -> tuple[DrawKey, Tensor]:
    """The key of the epoch that `step` (0-based, over the whole run) is in, and its samples, int64 [B].

    An epoch walks through a permutation of range(n) keyed by (seed, epoch), so no sample comes twice in it.
    Ranks and micro-batches take contiguous parts of the result; how many there are changes nothing.
    """
    steps = steps_per_epoch(n, batch_size)
    epoch, number = divmod(step, steps)
    key, together = DrawKey(seed, epoch), max(1, _AT_ONCE // batch_size)
    first = number - number % together
    samples = _permuted(first * batch_size, min(first + together, steps) * batch_size, n, key)
    return key, samples[(number - first) * batch_size :][:batch_size].clone()


@lru_cache(maxsize=2)
def _permuted(start: int, stop: int, n: int, key: DrawKey) -> Tensor:
    return permute(torch.arange(start, stop), n, key)
