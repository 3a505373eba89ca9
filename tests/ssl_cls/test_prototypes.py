"""Heads, targets and cross entropy of DINO and DINOv2 against closed forms (methods.md section 0) and lightly."""

import math

import pytest
import torch
from lightly.loss import DINOLoss
from lightly.loss.swav_loss import sinkhorn as lightly_sinkhorn
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.clock import Clock
from ssl_cls.methods.base import ParamGroup
from ssl_cls.methods.prototypes import (
    Centring,
    HeadConfig,
    PrototypeHead,
    TeacherTemperature,
    cross_view_cross_entropy,
    freeze_prototypes,
    sinkhorn,
    teacher_figures,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [2048, 4096, 65536])
def test_a_uniform_teacher_or_student_costs_ln_k(k: int) -> None:
    uniform = torch.full((2, 2, k), 1 / k, dtype=torch.float64)
    other = noise(2, 3, k).softmax(-1)
    assert float(cross_view_cross_entropy(other[:, :2], uniform.log())) == pytest.approx(math.log(k))
    student = torch.full((2, 4, k), -math.log(k), dtype=torch.float64)
    assert float(cross_view_cross_entropy(uniform, student)) == pytest.approx(math.log(k))


@pytest.mark.parametrize(("views", "terms"), [(2, 2), (6, 10), (10, 18)])
def test_every_pair_of_different_views_counts_once(views: int, terms: int) -> None:  # 2.10
    targets, log_probs = noise(5, 2, 7).softmax(-1), noise(5, views, 7, seed=1).log_softmax(-1)
    pairs = [
        -(targets[:, t] * log_probs[:, v]).sum(1).mean() for t in range(2) for v in range(views) if t != v
    ]  # the same view's pair is left out
    assert len(pairs) == terms
    torch.testing.assert_close(cross_view_cross_entropy(targets, log_probs), torch.stack(pairs).mean())


@pytest.mark.parametrize("views", [2, 5, 10])
@pytest.mark.parametrize(("n", "k"), [(1, 8), (16, 64)])
@pytest.mark.parametrize(
    "temperature", [float(torch.tensor(t)) for t in (0.04, 0.07)]
)  # in float32, as lightly keeps it
def test_value_gradient_and_centre_agree_with_lightly(views: int, n: int, k: int, temperature: float) -> None:
    theirs, ours = DINOLoss(k, teacher_temp=temperature).double(), Centring(k, 0.9).double()
    for step in range(3):
        teacher, student = noise(n, 2, k, seed=step), noise(n, views, k, seed=10 + step).requires_grad_()
        loss = cross_view_cross_entropy(ours(teacher, temperature), (student / 0.1).log_softmax(-1))
        (gradient,) = torch.autograd.grad(loss, student)
        reference = theirs(list(teacher.unbind(1)), list(student.unbind(1)), teacher_temp=temperature)
        (expected,) = torch.autograd.grad(reference, student)
        assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
        torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-9)
        ours.update([teacher.flatten(0, 1).sum(0)], [torch.tensor(2.0 * n)])
        torch.testing.assert_close(ours.centre, theirs.center.flatten(), rtol=1e-9, atol=1e-12)


def test_the_centre_is_used_before_it_moves_and_then_moves_by_a_tenth_of_the_mean() -> None:  # 2.10
    centring, logits = Centring(8, 0.9).double(), noise(20, 8)
    torch.testing.assert_close(centring(logits, 0.5), (logits / 0.5).softmax(-1))
    assert torch.equal(centring.centre, torch.zeros(8, dtype=torch.float64))
    parts = logits.split([5, 15])  # micro-batches, or masked patches: their numbers differ
    centring.update([part.sum(0) for part in parts], [torch.tensor(float(len(part))) for part in parts])
    torch.testing.assert_close(centring.centre, 0.1 * logits.mean(0))


def test_targets_carry_no_gradient() -> None:
    logits = noise(4, 8).requires_grad_()
    assert not Centring(8, 0.9).double()(logits, 0.1).requires_grad
    assert not sinkhorn(logits, 0.1).requires_grad


def test_the_teacher_is_sharper_than_the_student_on_the_same_logits() -> None:  # 2.10
    logits = noise(16, 32)
    teacher, student = Centring(32, 0.9).double()(logits, TeacherTemperature().end), (logits / 0.1).softmax(-1)
    entropies = [torch.special.entr(p).sum(1) for p in (teacher, student)]
    assert bool((entropies[0] < entropies[1]).all())


@pytest.mark.parametrize("temperature", [0.05, 0.1])
def test_sinkhorn_rows_are_distributions_and_prototypes_are_used_alike(temperature: float) -> None:
    logits = F.normalize(noise(512, 16), dim=1) @ F.normalize(noise(32, 16, seed=1), dim=1).T
    q = sinkhorn(logits, temperature)
    torch.testing.assert_close(q.sum(1), torch.ones(512, dtype=torch.float64))
    share = q.mean(0) * 32
    softmax_share = (logits / temperature).softmax(1).mean(0) * 32
    assert 0.75 < float(share.min()) <= float(share.max()) < 1.4  # after three iterations nearly alike
    assert float(softmax_share.std()) > 1.5 * float(share.std())


def test_sinkhorn_of_a_constant_is_uniform() -> None:
    torch.testing.assert_close(sinkhorn(torch.full((5, 8), 3.0), 0.05), torch.full((5, 8), 1 / 8))


@pytest.mark.parametrize(("rows", "k"), [(4, 8), (64, 16), (10, 100)])
@pytest.mark.parametrize("temperature", [0.05, 0.1])
def test_sinkhorn_agrees_with_lightly(rows: int, k: int, temperature: float) -> None:
    logits = noise(rows, k)
    theirs = lightly_sinkhorn(logits.clone(), iterations=3, epsilon=temperature)
    torch.testing.assert_close(sinkhorn(logits, temperature), theirs, rtol=1e-6, atol=1e-12)


def test_sinkhorn_takes_logits_that_overflow_lightlys_exponential() -> None:  # X20
    logits = 10 * noise(16, 8).float()
    assert not bool(lightly_sinkhorn(logits.clone(), epsilon=0.05).isfinite().all())
    q = sinkhorn(logits, 0.05)
    torch.testing.assert_close(q, sinkhorn(logits.double(), 0.05).float(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_prototypes_start_at_length_one_and_keep_it_if_asked_to(norm_last_layer: bool) -> None:  # 2.10
    head = PrototypeHead(8, HeadConfig(16, 4, 32, norm_last_layer))
    assert head.lengths.requires_grad is not norm_last_layer
    optimizer = torch.optim.SGD([p for p in head.parameters() if p.requires_grad], lr=1.0)
    for _ in range(3):
        torch.testing.assert_close(head.prototypes.norm(dim=1), torch.ones(32)) if norm_last_layer else None
        optimizer.zero_grad()
        head(torch.randn(6, 8)).square().sum().backward()
        optimizer.step()
    assert torch.allclose(head.prototypes.norm(dim=1), torch.ones(32), atol=1e-6) is norm_last_layer


def test_logits_are_cosines_and_the_head_has_no_batch_norm() -> None:
    head, x = PrototypeHead(8, HeadConfig(16, 4, 32)), torch.randn(6, 5, 8)
    assert head(x).shape == (6, 5, 32)
    assert float(head(1000 * x).detach().abs().max()) <= 1 + 1e-6
    torch.testing.assert_close(head(x)[:3], head(x[:3]))
    assert [type(layer) for layer in head.mlp] == [nn.Linear, nn.GELU, nn.Linear, nn.GELU, nn.Linear]


@pytest.mark.parametrize(
    ("step", "value"), [(0, 0.04), (15, 0.055), (29, 0.069), (30, 0.07), (99, 0.07)]
)  # 3 epochs of 10 steps
def test_the_teachers_temperature_rises_by_steps_and_then_stays(step: int, value: float) -> None:
    schedule = TeacherTemperature(start=0.04, end=0.07, warmup_epochs=3)
    assert schedule.at(Clock(step, 100, 10)) == pytest.approx(value)
    assert TeacherTemperature(0.04, 0.07, 0).at(Clock(step, 100, 10)) == 0.07


def test_the_last_layer_alone_is_frozen_and_keeps_its_decay() -> None:
    head = PrototypeHead(8, HeadConfig(16, 4, 32, norm_last_layer=False))
    params = {f"head.{name}": p for name, p in head.named_parameters()}
    frozen, free = [], []
    for group in freeze_prototypes([ParamGroup(params, lr_scale=0.5, wd_scale=0.0)], 2):
        (frozen if group.frozen_epochs == 2 else free).extend(group.params)
        assert (group.lr_scale, group.wd_scale) == (0.5, 0.0)
    assert sorted(frozen) == ["head.directions", "head.lengths"]
    assert sorted(frozen + free) == sorted(params)


def test_the_two_entropies_tell_the_teachers_collapses_apart() -> None:  # 1.9
    k, one = 16, torch.eye(16)
    cases = {
        "says nothing": torch.full((4, 4, k), 1 / k),
        "one prototype": one[:1].expand(4, 2, k),
        "healthy": one[None],
    }
    figures = {name: [round(float(x), 4) for x in teacher_figures(t).values()] for name, t in cases.items()}
    assert figures == {"says nothing": [1, 1], "one prototype": [0, 0], "healthy": [0, 1]}
