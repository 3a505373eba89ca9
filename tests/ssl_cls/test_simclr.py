"""SimCLR's loss against closed forms (methods.md section 0), lightly's implementation, and the traps of 2.1."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor
from torch.nn import functional as F

from ssl_cls.augment.view import View
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.methods.simclr import SimCLRConfig, nt_xent
from ssl_cls.rng import DrawKey


def views(n: int, dim: int, seed: int = 0) -> Tensor:
    return F.normalize(
        torch.randn(2, n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )


@pytest.mark.parametrize("temperature", [0.1, 0.2, 0.5])
def test_collapsed_embeddings_cost_the_log_of_all_candidates(temperature: float) -> None:
    z = F.normalize(torch.ones(2, 64, 128, dtype=torch.float64), dim=-1)
    assert float(nt_xent(z, temperature)) == pytest.approx(math.log(127), abs=1e-9)


@pytest.mark.parametrize(("temperature", "value"), [(0.1, 0.0057), (0.2, 0.615), (0.5, 2.893)])
def test_perfect_embeddings_keep_the_positive_and_drop_the_self_similarity(temperature: float, value: float) -> None:
    z = torch.eye(64, dtype=torch.float64).expand(2, 64, 64)
    expected = math.log(1 + 126 * math.exp(-1 / temperature))
    assert float(nt_xent(z, temperature)) == pytest.approx(expected, abs=1e-9)
    assert expected == pytest.approx(value, abs=1e-3)


def test_a_loss_below_the_floor_of_a_perfect_encoder_is_impossible() -> None:
    z = torch.eye(512, dtype=torch.float64).expand(2, 512, 512)
    assert float(nt_xent(z, 0.5)) == pytest.approx(4.94, abs=5e-3)


@pytest.mark.parametrize("n", [2, 7, 32])
@pytest.mark.parametrize("dim", [16, 128])
@pytest.mark.parametrize("temperature", [0.07, 0.2, 1.0])
def test_value_and_gradient_agree_with_lightly(n: int, dim: int, temperature: float) -> None:
    z = views(n, dim).requires_grad_()
    theirs = z.detach().clone().requires_grad_()
    loss, reference = nt_xent(z, temperature), NTXentLoss(temperature)(theirs[0], theirs[1])
    loss.backward()
    reference.backward()
    assert float(loss) == pytest.approx(float(reference), rel=1e-6)
    # lightly normalises inside, so its gradient lacks the radial part
    radial = (z.grad * z).sum(-1, keepdim=True) * z
    torch.testing.assert_close(z.grad - radial.detach(), theirs.grad, rtol=1e-6, atol=1e-9)


def test_permuting_images_jointly_changes_nothing_and_one_view_alone_much() -> None:
    z = views(64, 128)
    z = torch.stack((z[0], z[0]))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert float(nt_xent(z[:, order], 0.1)) == pytest.approx(float(nt_xent(z, 0.1)), rel=1e-12)
    assert float(nt_xent(torch.stack((z[0], z[1][order])), 0.1)) > float(nt_xent(z, 0.1)) + 3


def test_two_small_batches_are_not_one_large_one() -> None:
    z = views(64, 128)
    halves = (nt_xent(z[:, :32], 0.5) + nt_xent(z[:, 32:], 0.5)) / 2
    assert float(nt_xent(z, 0.5) - halves) == pytest.approx(math.log(2), abs=0.05)


def tiny() -> tuple[torch.nn.Module, Batch]:
    torch.manual_seed(0)
    method = SimCLRConfig(projector=(32, 16)).build(build(BackboneConfig("resnet_small", "avg2x2"), 1, 28), None)
    images = torch.randn(8, 1, 28, 28)
    return method, Batch({"global": [images, images.flip(3)]}, torch.arange(8), DrawKey(0, 0), None)


def test_what_is_evaluated_is_the_backbone_and_not_the_projection() -> None:
    method, batch = tiny()
    assert method.encoder is method.backbone
    assert method(batch, Clock(0, 10, 10)).embedding.shape == (8, method.backbone.dim)


def test_the_loss_does_not_depend_on_the_scale_of_the_projection() -> None:
    method, batch = tiny()
    embeddings = method.embed(batch, Clock(0, 1, 1))
    scaled = {**embeddings, "z": 3 * embeddings["z"]}
    assert torch.allclose(
        method.loss(embeddings, batch, Clock(0, 1, 1)).loss, method.loss(scaled, batch, Clock(0, 1, 1)).loss
    )


def test_bfloat16_autocast_stays_within_one_percent_and_the_loss_is_float32() -> None:  # X20
    method, batch = tiny()
    exact = method(batch, Clock(0, 1, 1)).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(batch, Clock(0, 1, 1)).loss
    assert rough.dtype == torch.float32
    assert float(rough) == pytest.approx(float(exact), rel=0.01)


def test_batch_norms_of_the_head_are_distinct_modules() -> None:  # X13
    method, _ = tiny()
    norms = [m for m in method.projector if isinstance(m, torch.nn.BatchNorm1d)]
    assert len({id(m) for m in norms}) == len(norms) == 2


def test_views_that_do_not_make_pairs_are_refused() -> None:
    assert SimCLRConfig().check_views((View(count=2),)) is None
    assert SimCLRConfig().check_views((View(), View(solarize=0.2))) is None
    assert "two" in str(SimCLRConfig().check_views((View(count=3),)))
