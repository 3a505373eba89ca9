"""The supervised loss against closed forms."""

import math

import pytest
import torch

from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.methods.supervised import SupervisedConfig
from ssl_cls.rng import DrawKey

CLOCK = Clock(0, 10, 10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize(("n", "classes"), [(1, 2), (7, 10), (32, 100)])
def test_value_and_gradient_are_those_of_smoothed_cross_entropy(n: int, classes: int, smoothing: float) -> None:
    """(1 - e) of the wanted distribution on the label, e/K on every class (Szegedy et al. 2016, section 7)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.randint(classes, (n,), generator=generator)
    method = SupervisedConfig(label_smoothing=smoothing).build(build(BackboneConfig("resnet_small"), 1, 28), classes)
    batch = Batch({}, torch.arange(n), DrawKey(0, 0), labels)
    wanted = (1 - smoothing) * torch.eye(classes, dtype=torch.float64)[labels] + smoothing / classes
    loss = method.loss({"h": logits, "logits": logits}, batch, CLOCK).loss
    loss.backward()
    assert loss.item() == pytest.approx(-(wanted * logits.detach().log_softmax(1)).sum(1).mean().item(), rel=1e-9)
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(1) - wanted) / n)
    flat = torch.full((n, classes), 3.0, dtype=torch.float64)
    out = method.loss({"h": flat, "logits": flat}, batch, CLOCK)
    assert out.loss.item() == pytest.approx(math.log(classes))
    assert out.logs["chance_loss"].item() == pytest.approx(math.log(classes))
