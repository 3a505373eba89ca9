"""MoCo v3 against closed forms and the traps of methods.md 2.3."""

import copy
import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.clock import Clock
from ssl_cls.ema import ema_update
from ssl_cls.methods.mocov3 import MoCoV3Config, contrastive
from ssl_cls.positions import sincos_positions

CLOCK = Clock(0, 10, 10)
CONFIG = MoCoV3Config(projector=(16, 16, 8), predictor_dim=16, momentum=0.9)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
@pytest.mark.parametrize("n", [2, 64])
def test_values_of_the_loss_at_its_two_ends(n: int, temperature: float) -> None:
    """Collapsed: 2 tau ln N. Perfect, orthonormal images: 2 tau ln(1 + (N-1) exp(-1/tau)). The 2 tau is the trap."""
    collapsed = torch.ones(n, 64, dtype=torch.float64)
    assert float(contrastive(collapsed, 3 * collapsed, temperature)) == pytest.approx(2 * temperature * math.log(n))
    perfect = torch.eye(64, dtype=torch.float64)[:n]
    value = 2 * temperature * math.log(1 + (n - 1) * math.exp(-1 / temperature))
    assert float(contrastive(2 * perfect, perfect, temperature)) == pytest.approx(value)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_value_and_gradient_are_those_of_a_loop_over_queries(temperature: float) -> None:
    q, k = noise(7, 5).requires_grad_(), noise(7, 5, seed=1)
    cos = torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for b in k]) for a in q])
    rows = [torch.logsumexp(cos[i] / temperature, 0) - cos[i, i] / temperature for i in range(7)]
    (expected,) = torch.autograd.grad(2 * temperature * torch.stack(rows).mean(), q, retain_graph=True)
    loss = contrastive(q, k, temperature)
    (gradient,) = torch.autograd.grad(loss, q)
    assert float(loss) == pytest.approx(float(2 * temperature * torch.stack(rows).mean()))
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(("n", "dim"), [(2, 3), (7, 16), (32, 128)])
@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_value_and_gradient_agree_with_lightly(n: int, dim: int, temperature: float) -> None:
    """lightly has no such loss: each query by itself is MoCo's, over a memory bank of the other images' keys."""
    q, k = noise(n, dim).requires_grad_(), noise(n, dim, seed=1)
    theirs = q.detach().clone().requires_grad_()
    losses = []
    for row in range(n):
        reference = NTXentLoss(temperature, memory_bank_size=(n - 1, dim))
        reference.memory_bank.bank = F.normalize(torch.cat((k[:row], k[row + 1 :])), dim=1)
        losses.append(reference(theirs[row : row + 1], k[row : row + 1]))
    expected = 2 * temperature * torch.stack(losses).mean()
    loss = contrastive(q, k, temperature)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(q.grad, theirs.grad, rtol=1e-6, atol=1e-9)


def test_each_query_is_paired_with_the_key_of_the_other_view_and_keys_get_no_gradient(miniature_vit) -> None:
    method, batch = miniature_vit(CONFIG)
    q, k, h = noise(8, 2, 8).requires_grad_(), noise(8, 2, 8, seed=1).requires_grad_(), noise(8, 2, 32)
    out = method.loss({"q": q, "k": k, "h": h}, batch, CLOCK)
    expected = contrastive(q[:, 0], k[:, 1], 0.2) + contrastive(q[:, 1], k[:, 0], 0.2)
    assert float(out.loss) == pytest.approx(float(expected))
    out.loss.backward()
    assert k.grad is None
    assert bool((q.grad != 0).any(2).all())  # both directions


def test_embeddings_are_of_each_view_alone(miniature_vit) -> None:
    method, batch = miniature_vit(CONFIG)
    out = method.embed(batch, CLOCK)
    for number, view in enumerate(batch.views["global"]):
        q = method.predictor(method.projector(method.backbone(view)))
        torch.testing.assert_close(out["q"][:, number], q)
        torch.testing.assert_close(out["k"][:, number], method.key(view))
    assert not out["k"].requires_grad


def test_a_vits_patch_projection_and_positions_stay_as_they_are(miniature_vit, take_step) -> None:
    method, batch = miniature_vit(CONFIG)
    projection = method.backbone.model.patch_embed.proj
    start = projection.weight.detach().clone()
    bound = math.sqrt(6 / (16 + 32))
    assert 0.9 * bound < float(start.abs().max()) <= bound  # Xavier of the flattened projection
    for step in range(10):
        method(batch, CLOCK).loss.backward()
        assert projection.weight.grad is None
        method.zero_grad()
        take_step(method, batch, CLOCK.at(step))
    assert torch.equal(projection.weight, start)
    assert torch.equal(method.backbone.model.pos_embed[0, 1:], sincos_positions((7, 7), 32))
    assert not any("patch_embed" in name or "pos_embed" in name for name in method.trainable())


def test_query_key_and_value_are_initialised_as_a_matrix_each(miniature_vit) -> None:
    method, _ = miniature_vit(CONFIG)
    attention, mlp = method.backbone.model.blocks[0].attn, method.backbone.model.blocks[0].mlp
    assert float(attention.qkv.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / (32 + 32)), rel=0.01)
    assert float(mlp.fc1.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / (32 + 128)), rel=0.01)
    assert not bool(attention.qkv.bias.any())


def test_the_last_norm_has_no_scale_and_a_resnets_predictor_no_last_norm(miniature, miniature_vit) -> None:
    vit, resnet = miniature_vit(CONFIG)[0], miniature(CONFIG)[0]
    for head in (vit.projector, vit.predictor, resnet.projector):
        assert isinstance(head[-1], nn.BatchNorm1d)
        assert not head[-1].affine
    assert isinstance(resnet.predictor[-1], nn.Linear)


@pytest.mark.parametrize("step", [0, 50, 99])
def test_the_key_encoder_has_no_predictor_and_follows_by_a_momentum_that_rises_to_one(  # X7, X8
    miniature_vit, take_step, step: int
) -> None:
    method, batch = miniature_vit(CONFIG)
    online = nn.Sequential(method.backbone, method.projector)
    start = copy.deepcopy(method.key)
    assert all(
        torch.equal(a, b) for a, b in zip(online.state_dict().values(), start.state_dict().values(), strict=True)
    )
    take_step(method, batch, Clock(step, 100, 10))
    ema_update(start, online, 1 - 0.1 * (1 + math.cos(math.pi * step / 100)) / 2)
    assert all(torch.equal(a, b) for a, b in zip(method.key.parameters(), start.parameters(), strict=True))


def test_the_key_encoders_batch_norm_keeps_statistics_of_its_own(miniature_vit, take_step) -> None:  # X10
    method, batch = miniature_vit(CONFIG)
    for step in range(2):
        take_step(method, batch, CLOCK.at(step))
    ours, theirs = method.projector[1], method.key[1][1]
    assert int(ours.num_batches_tracked) == int(theirs.num_batches_tracked) == 4
    assert not torch.equal(ours.running_mean, theirs.running_mean)


def test_what_is_evaluated_is_the_base_encoder(miniature_vit) -> None:
    method, batch = miniature_vit(CONFIG)
    assert method.encoder is method.backbone
    assert method(batch, CLOCK).embedding.shape == (8, 32)
