"""Pooling with a gradient that is deterministic on every device."""

import pytest
import torch
from torch.nn import functional as F

from ssl_cls.backbone import BackboneConfig, averaging, build


@pytest.mark.parametrize("shape", [(4, 4), (7, 7), (5, 9), (2, 3)])
@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_averaging_matrices_are_adaptive_pooling(shape: tuple[int, int], side: int) -> None:
    x = torch.randn(3, 5, *shape, dtype=torch.float64)
    rows, columns = (averaging(length, side).double() for length in shape)
    torch.testing.assert_close(rows @ x @ columns.mT, F.adaptive_avg_pool2d(x, side), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("pooling", ["avg", "avg2x2", "avg4x4"])
def test_the_gradient_of_pooled_maps_has_their_layout(pooling: str) -> None:
    """ReLU and its like take twenty times as long where gradient and map differ in layout."""
    network = build(BackboneConfig("resnet_small", pooling), 1, 28).to(memory_format=torch.channels_last)
    seen: list[torch.Tensor] = []
    maps = network.outputs(torch.randn(3, 1, 28, 28), (-1,))[0]
    assert maps.is_contiguous(memory_format=torch.channels_last)
    features = network.pool(maps)
    maps.register_hook(seen.append)  # after the one that pooling adds
    (features * torch.arange(features.shape[1])).sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    plain = maps.detach().contiguous().requires_grad_()
    (network.pool(plain) * torch.arange(features.shape[1])).sum().backward()
    assert torch.equal(seen[0], plain.grad)
