import numpy as np
import pytest
import torch
from sklearn.metrics import hinge_loss, log_loss
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from eval.tuning.losses import Loss, loss, smoothed

LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 1, 1, 0])
ONE_HOT = F.one_hot(LABELS, 4).double()


def test_each_is_the_one_that_others_compute() -> None:
    assert loss("ce", LOGITS, LABELS).item() == pytest.approx(log_loss(LABELS, LOGITS.softmax(1)))
    each = [log_loss(ONE_HOT[:, k], LOGITS[:, k].sigmoid()) for k in range(4)]
    assert loss("bce", LOGITS, LABELS).item() == pytest.approx(np.mean(each))
    assert loss("mse", LOGITS, LABELS).item() == pytest.approx(((LOGITS - ONE_HOT) ** 2).mean().item())
    assert loss("hinge", LOGITS, LABELS).item() == pytest.approx(hinge_loss(LABELS, LOGITS, labels=range(4)))


def test_focal_loss_is_torchvision_s_where_two_classes_are_a_sigmoid() -> None:
    two = LOGITS[:, :2]
    theirs = sigmoid_focal_loss(two[:, 1] - two[:, 0], (LABELS % 2).double(), alpha=-1, gamma=2, reduction="mean")
    assert loss("focal", two, LABELS % 2).item() == pytest.approx(theirs.item())


def test_closed_forms() -> None:
    zeros = torch.zeros(3, 4)
    labels = torch.tensor([0, 1, 2])
    log4 = torch.log(torch.tensor(4.0)).item()
    expected = {"ce": log4, "bce": log4 / 2, "mse": 0.25, "hinge": 1.0, "focal": 0.75**2 * log4}
    for name, value in expected.items():
        assert loss(name, zeros, labels).item() == pytest.approx(value, abs=1e-6), name  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ce", "bce", "mse", "hinge", "focal"])
def test_a_class_is_the_distribution_that_is_certain_of_it(name: Loss) -> None:
    assert loss(name, LOGITS, ONE_HOT).item() == pytest.approx(loss(name, LOGITS, LABELS).item())


@pytest.mark.parametrize("name", ["ce", "hinge", "focal"])
def test_of_a_mixture_it_is_the_mixture_of_losses(name: Loss) -> None:
    other = LABELS.flip(0)
    mixed = 0.3 * ONE_HOT + 0.7 * F.one_hot(other, 4)
    expected = 0.3 * loss(name, LOGITS, LABELS) + 0.7 * loss(name, LOGITS, other)
    assert loss(name, LOGITS, mixed).item() == pytest.approx(expected.item())


def test_smoothing_is_torch_s() -> None:
    assert smoothed(LABELS, 4, 0.1)[0].tolist() == pytest.approx([0.925, 0.025, 0.025, 0.025])
    soft = F.cross_entropy(LOGITS, smoothed(LABELS, 4, 0.1).double())
    assert loss("ce", LOGITS, LABELS, 0.1).item() == pytest.approx(soft.item(), rel=1e-6)


def test_hinge_knows_the_runner_up_among_equals() -> None:
    assert loss("hinge", torch.tensor([[2.0, 2.0, 0.0]]), torch.tensor([0])).item() == 1.0
    assert loss("hinge", torch.tensor([[3.0, 2.0, 0.0]]), torch.tensor([0])).item() == 0.0
