"""BYOL against closed forms (methods.md section 0), lightly's cosine loss, and the traps of 2.4."""

import math

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor

from ssl_cls.clock import Clock
from ssl_cls.methods.byol import BYOLConfig, regression_loss
from ssl_cls.methods.prediction import mismatched_cosine
from ssl_cls.methods.simsiam import SimSiamConfig, negative_cosine

CLOCK = Clock(0, 10, 10)
CONFIG = BYOLConfig(momentum=0.9, projector=(16, 8), predictor=16)


def vectors(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("angle", "value"), [(0.0, 0.0), (math.pi / 2, 4.0), (math.pi, 8.0), (math.pi / 3, 2.0)])
def test_both_directions_are_summed(miniature, angle: float, value: float) -> None:  # 2.4
    p = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    z = 7 * torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)
    method, batch = miniature(CONFIG)
    out = method.loss({"h": p, "p1": p, "p2": p, "z1": z, "z2": z}, batch, CLOCK)
    assert float(out.loss) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("dim", [2, 128])
def test_value_and_gradient_agree_with_lightly(n: int, dim: int) -> None:
    ours, z = vectors(n, dim, 0).requires_grad_(), vectors(n, dim, 1)
    theirs = ours.detach().clone().requires_grad_()
    loss, reference = regression_loss(ours, z), 2 + 2 * NegativeCosineSimilarity()(theirs, z)
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)


def test_chance_is_the_loss_with_the_targets_of_other_images(miniature) -> None:
    names = ("p1", "p2", "z1", "z2")
    embeddings = {"h": vectors(5, 4, 9), **{name: vectors(5, 16, seed) for seed, name in enumerate(names)}}
    for config, loss_of in (
        (CONFIG, regression_loss),
        (SimSiamConfig(projector=(16, 16), predictor=4), lambda p, z: negative_cosine(p, z) / 2),
    ):
        method, batch = miniature(config)
        others = []
        for shift in range(1, 5):
            p1, p2, z1, z2 = (embeddings[name] for name in names)
            others.append(float(loss_of(p1, z2.roll(shift, 0)) + loss_of(p2, z1.roll(shift, 0))))
        logged = method.loss(embeddings, batch, CLOCK).logs["chance_loss"]
        assert float(logged) == pytest.approx(sum(others) / 4, rel=1e-9)
    assert float(mismatched_cosine(vectors(1, 16, 0), vectors(1, 16, 0))) == pytest.approx(0, abs=1e-12)


def test_it_is_four_plus_four_times_simsiams_loss(miniature) -> None:
    names = ("p1", "p2", "z1", "z2")
    embeddings = {"h": vectors(8, 4, 9), **{name: vectors(8, 16, seed) for seed, name in enumerate(names)}}
    byol, batch = miniature(CONFIG)
    simsiam, _ = miniature(SimSiamConfig(projector=(16, 16), predictor=4))
    losses = [float(method.loss(embeddings, batch, CLOCK).loss) for method in (byol, simsiam)]
    assert losses[0] == pytest.approx(4 + 4 * losses[1], rel=1e-12)


def test_each_prediction_is_of_the_other_view(miniature) -> None:
    method, batch = miniature(CONFIG)
    names = ("p1", "p2", "z1", "z2")
    p1, p2, z1, z2 = (vectors(8, 16, seed).requires_grad_() for seed in range(4))
    method.loss({"h": p1, **dict(zip(names, (p1, p2, z1, z2), strict=True))}, batch, CLOCK).loss.backward()
    expected = p1.detach().clone().requires_grad_()
    regression_loss(expected, z2.detach()).backward()
    torch.testing.assert_close(p1.grad, expected.grad)
    assert p2.grad is not None
    assert z1.grad is None  # the stop-gradient
    assert z2.grad is None


def test_the_target_has_no_predictor(miniature) -> None:  # 2.4
    method, _ = miniature(CONFIG)
    shapes = [tuple(p.shape) for p in method.target.parameters()]
    online = [*method.backbone.parameters(), *method.projector.parameters()]
    assert shapes == [tuple(p.shape) for p in online]


def test_the_target_normalises_with_its_own_batch(miniature) -> None:  # 2.4
    method, batch = miniature(CONFIG)
    view1, view2 = batch.views["global"]
    others = torch.cat((view1[:1], torch.randn(15, 1, 28, 28) + 1))
    with torch.no_grad():
        before = method.embed(batch, CLOCK)["z1"][0]
        after = method.embed(batch._replace(views={"global": [others, view2]}), CLOCK)["z1"][0]
    assert not torch.allclose(before, after)


def test_each_view_has_batch_statistics_of_its_own(miniature) -> None:  # 1.6
    method, batch = miniature(CONFIG)
    view1, view2 = batch.views["global"]
    with torch.no_grad():
        before = method.embed(batch, CLOCK)["p1"]
        after = method.embed(batch._replace(views={"global": [view1, 3 * view2 + 1]}), CLOCK)["p1"]
    assert torch.equal(before, after)
    assert int(method.backbone.model.bn1.num_batches_tracked) == 4


@pytest.mark.parametrize("step", [0, 50, 99])
def test_the_momentum_rises_to_one_by_steps_and_not_by_epochs(miniature, step: int) -> None:  # X8
    method, _ = miniature(BYOLConfig(momentum=0.9, projector=(16, 8), predictor=16))
    with torch.no_grad():
        for p in method.target.parameters():
            p.zero_()
        for p in method.backbone.parameters():
            p.fill_(1.0)
    method.after_step(Clock(step, 100, 10), [])
    moved = next(method.target.parameters()).flatten()[0].item()
    assert 1 - moved == pytest.approx(1 - 0.1 * (1 + math.cos(math.pi * step / 100)) / 2, abs=1e-6)
