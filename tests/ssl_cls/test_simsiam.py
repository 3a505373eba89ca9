"""SimSiam against closed forms (methods.md section 0), lightly's cosine loss, and the traps of 2.5."""

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls import health, optim
from ssl_cls.clock import Clock
from ssl_cls.methods.heads import mlp
from ssl_cls.methods.simsiam import SimSiamConfig, negative_cosine
from ssl_cls.optim import OptimConfig

CLOCK = Clock(0, 10, 10)
CONFIG = SimSiamConfig(projector=(16, 16), predictor=4)


def vectors(n: int, dim: int, seed: int) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_loss_is_the_mean_of_both_directions_from_minus_1_to_1(miniature) -> None:
    method, batch = miniature(CONFIG)
    x, y = torch.eye(2, dtype=torch.float64).split(1)
    for p, z, value in ((x, 5 * x, -1.0), (x, y, 0.0), (x, -x, 1.0)):
        out = method.loss({"h": p, "p1": p, "p2": p, "z1": z, "z2": z}, batch, CLOCK)
        assert float(out.loss) == pytest.approx(value, abs=1e-12)
    one_way = method.loss({"h": x, "p1": x, "p2": x, "z1": y, "z2": x}, batch, CLOCK)
    assert float(one_way.loss) == pytest.approx(-0.5)


@pytest.mark.parametrize("n", [1, 7, 64])
@pytest.mark.parametrize("dim", [2, 128])
def test_value_and_gradient_agree_with_lightly(n: int, dim: int) -> None:
    ours, z = vectors(n, dim, 0).requires_grad_(), vectors(n, dim, 1)
    theirs = ours.detach().clone().requires_grad_()
    loss, reference = negative_cosine(ours, z), NegativeCosineSimilarity()(theirs, z)
    loss.backward()
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-12)


def test_the_gradient_stops_at_the_target(miniature) -> None:  # 2.5
    method, batch = miniature(CONFIG)
    p1, p2, z1, z2 = (vectors(8, 16, seed).requires_grad_() for seed in range(4))
    method.loss({"h": p1, "p1": p1, "p2": p2, "z1": z1, "z2": z2}, batch, CLOCK).loss.backward()
    assert z1.grad is None
    assert z2.grad is None
    for p, other in ((p1, z2), (p2, z1)):
        expected = p.detach().clone().requires_grad_()
        (-F.cosine_similarity(expected, other.detach()).mean() / 2).backward()
        torch.testing.assert_close(p.grad, expected.grad)


def test_the_scale_of_predictions_and_projections_does_not_matter(miniature) -> None:  # 2.5: cosine, not MSE
    method, batch = miniature(CONFIG)
    embeddings = method.embed(batch, CLOCK)
    scaled = {name: 3 * x for name, x in embeddings.items()}
    torch.testing.assert_close(method.loss(embeddings, batch, CLOCK).loss, method.loss(scaled, batch, CLOCK).loss)


def test_heads_are_the_papers(miniature) -> None:  # 2.5
    method, _ = miniature(SimSiamConfig())
    last = method.projector[-1]
    assert isinstance(last, nn.BatchNorm1d)
    assert last.weight is None  # affine=False
    widths = [m.out_features for m in method.predictor if isinstance(m, nn.Linear)]
    assert widths == [512, 2048]  # a bottleneck
    assert isinstance(method.predictor[-1], nn.Linear)  # no batch norm on its output
    assert method.predictor[-1].bias is not None


def test_the_predictors_rate_is_constant_and_everything_decays(miniature) -> None:  # 2.5, X5
    method, _ = miniature(CONFIG)
    config = OptimConfig("sgd", base_lr=0.05, weight_decay=1e-4)
    optimizer = optim.build(config, method)
    names = {id(p): name for name, p in method.named_parameters()}
    for step, encoder_rate in ((0, 0.1), (99, 0.0)):
        optim.apply(optimizer, config, Clock(step, 100, 10), 512)
        for group in optimizer.param_groups:
            members = {names[id(p)].split(".")[0] for p in group["params"]}
            predictor = members == {"predictor"}
            assert predictor or members == {"backbone", "projector"}
            assert group["lr"] == pytest.approx(0.1 if predictor else encoder_rate, abs=1e-4)
            assert group["weight_decay"] == 1e-4


def test_each_view_has_batch_statistics_of_its_own(miniature) -> None:  # 1.6
    method, batch = miniature(CONFIG)
    view1, view2 = batch.views["global"]
    with torch.no_grad():
        before = method.embed(batch, CLOCK)["p1"]
        after = method.embed(batch._replace(views={"global": [view1, 3 * view2 + 1]}), CLOCK)["p1"]
    assert torch.equal(before, after)


@pytest.mark.parametrize("stops", [True, False])
def test_without_the_stop_gradient_all_images_become_one_in_50_steps(stops: bool) -> None:  # 2.4, 2.5
    """The negative control, on noisy vectors and without the norm that would hide it: the loss looks better."""
    torch.manual_seed(0)
    encoder, predictor = mlp(16, (64, 16)), mlp(16, (8, 16), output_bias=True)
    optimizer = torch.optim.SGD([*encoder.parameters(), *predictor.parameters()], lr=0.5, momentum=0.9)
    for _ in range(50):
        x = torch.randn(128, 16)
        z1, z2 = (encoder(x + 0.3 * torch.randn(128, 16)) for _ in range(2))
        p1, p2 = predictor(z1), predictor(z2)
        if stops:
            loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2
        else:
            loss = -(F.cosine_similarity(p1, z2).mean() + F.cosine_similarity(p2, z1).mean()) / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    std = health.embedding_figures(z1.detach())["embedding_std"]
    if stops:
        assert std > 0.8  # of 1
    else:
        assert loss.item() < -0.99
        assert std < 0.2
