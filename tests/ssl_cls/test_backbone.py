"""Pooling with a gradient that is deterministic on every device."""

import pytest
import torch
from torch.nn import functional as F

from ssl_cls.backbone import averaging


@pytest.mark.parametrize("shape", [(4, 4), (7, 7), (5, 9), (2, 3)])
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_averaging_matrices_are_adaptive_pooling(shape: tuple[int, int], side: int) -> None:
    x = torch.randn(3, 5, *shape, dtype=torch.float64)
    rows, columns = (averaging(length, side).double() for length in shape)
    torch.testing.assert_close(rows @ x @ columns.mT, F.adaptive_avg_pool2d(x, side), rtol=1e-6, atol=1e-7)
