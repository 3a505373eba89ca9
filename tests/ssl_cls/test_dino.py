"""What DINO and DINOv2 have in common, each trap of methods.md 2.10 and of 1.5 that applies."""

import copy
import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ssl_cls import optim
from ssl_cls.augment.augment import Augment
from ssl_cls.augment.view import View
from ssl_cls.backbone import Backbone, BackboneConfig, build
from ssl_cls.clock import Clock
from ssl_cls.data import catalog
from ssl_cls.data.batch import Batch
from ssl_cls.data.catalog import DataConfig
from ssl_cls.ema import ema_update
from ssl_cls.methods.base import Method
from ssl_cls.methods.dino import DINOConfig
from ssl_cls.methods.dinov2 import DINOv2Config
from ssl_cls.methods.prototypes import HeadConfig
from ssl_cls.optim import ClipConfig, OptimConfig
from ssl_cls.rng import DrawKey

CLOCK = Clock(0, 10, 10)
HEAD = HeadConfig(hidden_dim=16, bottleneck_dim=8, prototypes=32)
BOTH = pytest.mark.parametrize("kind", [DINOConfig, DINOv2Config])


def networks(method: Method) -> tuple[nn.Module, nn.Module]:
    """Student and teacher, with the same names inside."""
    return (
        nn.Sequential(method.backbone, method.head),
        nn.Sequential(method.teacher_backbone, method.teacher_head),
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    states = a.state_dict(), b.state_dict()
    assert states[0].keys() == states[1].keys()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def sizes_seen(backbone: Backbone) -> list[tuple[int, int]]:
    """Images and their side, of each forward to come."""
    seen: list[tuple[int, int]] = []
    backbone.model.patch_embed.register_forward_hook(
        lambda _m, args, _o: seen.append((len(args[0]), args[0].shape[-1]))
    )
    return seen


@BOTH
def test_views_of_a_size_go_through_together_and_the_teacher_sees_the_global_ones_alone(miniature_vit, kind) -> None:
    method, batch = miniature_vit(kind(head=HEAD))
    student, teacher = sizes_seen(method.backbone), sizes_seen(method.teacher_backbone)
    out = method.embed(batch, CLOCK)
    assert student == [(16, 28), (24, 12)]
    assert teacher == [(16, 28)]
    assert out["student"].shape == (8, 5, 32)
    assert out["teacher"].shape == (8, 2, 32)


def test_rows_are_images_and_columns_views(miniature_vit) -> None:
    """Each view's logits are those that it gets alone; DINOv2's student differs by what is hidden."""
    method, batch = miniature_vit(DINOConfig(head=HEAD))
    views = batch.views["global"] + batch.views["local"]
    out = method.embed(batch, CLOCK)
    for number, view in enumerate(views):
        torch.testing.assert_close(out["student"][:, number], method.head(method.backbone(view)), atol=1e-5, rtol=1e-5)
    for number in range(2):
        expected = method.teacher_head(method.teacher_backbone(views[number]))
        torch.testing.assert_close(out["teacher"][:, number], expected, atol=1e-5, rtol=1e-5)


@BOTH
def test_the_teacher_begins_as_an_exact_copy_head_included(miniature_vit, kind) -> None:  # X7
    method, _ = miniature_vit(kind(head=HEAD))
    assert same(*networks(method))


@BOTH
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_0_makes_the_teacher_the_student_and_1_leaves_it(  # X9
    miniature_vit, take_step, kind, momentum: float
) -> None:
    method, batch = miniature_vit(kind(head=HEAD, momentum=momentum, freeze_prototypes_epochs=0))
    start = copy.deepcopy(networks(method)[1])
    take_step(method, batch, CLOCK)
    student, teacher = networks(method)
    assert not same(student, start)
    assert same(teacher, start if momentum else student)


@BOTH
def test_a_learning_rate_of_0_leaves_the_teacher_where_it_is(miniature_vit, take_step, kind) -> None:  # X9
    method, batch = miniature_vit(kind(head=HEAD, momentum=0.5))
    start = copy.deepcopy(networks(method)[1])
    take_step(method, batch, CLOCK, lr=0.0)
    assert same(networks(method)[1], start)


@BOTH
@pytest.mark.parametrize("step", [0, 50, 99])
def test_the_momentum_rises_to_one_by_steps(miniature_vit, take_step, kind, step: int) -> None:  # X8
    method, batch = miniature_vit(kind(head=HEAD, momentum=0.9))
    expected = copy.deepcopy(networks(method)[1])
    take_step(method, batch, Clock(step, 100, 10))
    student, teacher = networks(method)
    ema_update(expected, student, 1 - 0.1 * (1 + math.cos(math.pi * step / 100)) / 2)
    assert same(expected, teacher)


@BOTH
def test_no_gradient_reaches_the_teacher_and_no_optimizer_holds_it(miniature_vit, kind) -> None:
    method, batch = miniature_vit(kind(head=HEAD))
    method(batch, CLOCK).loss.backward()
    _, teacher = networks(method)
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(p.grad is not None for p in method.trainable().values())
    held = {id(p) for group in method.param_groups() for p in group.params.values()}
    assert not held & {id(p) for p in teacher.parameters()}


@BOTH
def test_the_teacher_is_deterministic_and_drop_path_is_the_students(miniature_vit, kind) -> None:  # X11
    method, batch = miniature_vit(kind(head=HEAD), drop_path_rate=0.5)
    method.train()
    first, second = method.embed(batch, CLOCK), method.embed(batch, CLOCK)
    assert torch.equal(first["teacher"], second["teacher"])
    assert not torch.equal(first["student"], second["student"])


@BOTH
def test_bfloat16_autocast_stays_within_one_percent_and_the_teacher_is_float32(miniature_vit, kind) -> None:  # X12, X20
    method, batch = miniature_vit(kind(head=HEAD))
    exact = float(method(batch, CLOCK).loss.detach())
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(batch, CLOCK).loss
    assert rough.dtype == torch.float32
    assert float(rough.detach()) == pytest.approx(exact, rel=0.01, abs=0.01)
    assert {p.dtype for p in method.teacher_backbone.parameters()} == {torch.float32}


@BOTH
def test_a_forward_moves_nothing_and_the_step_moves_the_centre(miniature_vit, take_step, kind) -> None:  # 2.10
    method, batch = miniature_vit(kind(head=HEAD))
    before = copy.deepcopy(method.state_dict())
    output = method(batch, CLOCK)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    method.after_step(CLOCK, [output.carry])
    mean = method.embed(batch, CLOCK)["teacher"].flatten(0, 1).mean(0)
    torch.testing.assert_close(method.centring.centre, 0.1 * mean, rtol=1e-4, atol=1e-6)


@BOTH
def test_two_micro_batches_move_the_centre_as_one_batch_does(miniature_vit, kind) -> None:
    whole, batch = miniature_vit(kind(head=HEAD))
    parts = copy.deepcopy(whole)
    halves = [
        batch._replace(index=batch.index[part], views={k: [v[part] for v in vs] for k, vs in batch.views.items()})
        for part in (slice(0, 4), slice(4, 8))
    ]
    whole.after_step(CLOCK, [whole(batch, CLOCK).carry])
    parts.after_step(CLOCK, [parts(half, CLOCK).carry for half in halves])
    torch.testing.assert_close(whole.centring.centre, parts.centring.centre)


@BOTH
def test_the_last_layer_rests_in_the_first_epoch_without_decay_and_moves_in_the_second(miniature_vit, kind) -> None:
    method, batch = miniature_vit(kind(head=HEAD))  # 2.10
    settings = OptimConfig("adamw", lr=0.1, weight_decay=0.5)
    optimizer = optim.build(settings, method)
    start, first_layer = method.head.directions.detach().clone(), method.head.mlp[0].weight.detach().clone()
    for step in range(3):
        clock = Clock(step, 6, 2)
        optim.apply(optimizer, settings, clock, 8)
        method(batch, clock).loss.backward()
        optim.drop_frozen(optimizer, clock)
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(method.head.directions, start) is (step < 2)
    assert not torch.equal(method.head.mlp[0].weight, first_layer)


def test_gradients_are_clipped_tensor_by_tensor_where_the_recipe_says_so() -> None:  # 2.10
    large, small = nn.Parameter(torch.zeros(9)), nn.Parameter(torch.zeros(4))
    large.grad, small.grad = torch.full((9,), 10.0), torch.full((4,), 0.5)  # norms 30 and 1
    optim.clip([large, small], ClipConfig(3.0, per="tensor"))
    assert (float(large.grad.norm()), float(small.grad.norm())) == pytest.approx((3.0, 1.0))
    large.grad, small.grad = torch.full((9,), 10.0), torch.full((4,), 0.5)
    optim.clip([large, small], ClipConfig(3.0, per="all"))
    assert (float(large.grad.norm()), float(small.grad.norm())) == pytest.approx((2.9983, 0.09994), rel=1e-3)


@BOTH
def test_decay_is_on_matrices_tokens_and_positions(miniature_vit, kind) -> None:  # X5
    method, _ = miniature_vit(kind(head=HEAD))
    decays = {name for group in method.param_groups() if group.wd_scale for name in group.params}
    assert decays == {name for name, p in method.trainable().items() if p.ndim > 1}
    assert {"backbone.model.cls_token", "backbone.model.pos_embed", "head.directions"} <= decays
    assert not any(name.endswith(("bias", "norm1.weight", "norm.weight")) for name in decays)


@BOTH
def test_what_is_evaluated_is_the_teachers_backbone_without_a_head(miniature_vit, take_step, kind) -> None:
    method, batch = miniature_vit(kind(head=HEAD))
    output = take_step(method, batch, CLOCK)
    assert method.encoder is method.teacher_backbone
    assert isinstance(method.encoder.model, VisionTransformer)
    assert output.embedding.shape == (8, method.backbone.dim)


@BOTH
def test_views_are_two_global_ones_and_any_local_ones(kind) -> None:
    config = kind()
    for size, channels in ((28, 1), (32, 3), (224, 3)):
        assert config.check_views(config.views(size, channels)) is None
    assert config.check_views((View(), View(solarize=0.2))) is None
    for wrong in ((View(),), (View(count=3),), (View(), View(kind="local", size=12)), (View(kind="local", count=2),)):
        assert "two global views" in str(config.check_views(wrong))


def test_a_resnet_can_be_the_backbone_and_its_teacher_keeps_batch_statistics_of_its_own(  # X10
    miniature, take_step
) -> None:
    method, batch = miniature(DINOConfig(head=HEAD))
    local = list(torch.randn(2, 16, 1, 12, 12, generator=torch.Generator().manual_seed(1)))
    take_step(method, batch._replace(views={**batch.views, "local": local}), CLOCK)
    student, teacher = method.backbone.model.bn1, method.teacher_backbone.model.bn1
    assert int(student.num_batches_tracked) == 2  # one forward a size
    assert int(teacher.num_batches_tracked) == 1
    assert not torch.equal(student.running_mean, teacher.running_mean)


@pytest.mark.parametrize("side", [8, 12, 16, 40])
def test_positions_are_resampled_for_other_sizes_as_timm_does_it(side: int) -> None:  # 2.10
    args = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "reg_tokens": 2}
    backbone = build(BackboneConfig("vit_tiny_patch16_224", "avg2x2", args), 1, 28).eval()
    dynamic = build(BackboneConfig("vit_tiny_patch16_224", "avg2x2", {**args, "dynamic_img_size": True}), 1, 28).eval()
    dynamic.load_state_dict(backbone.state_dict())
    before = backbone.model.pos_embed.detach().clone()
    images = torch.randn(3, 1, side, side)
    with torch.no_grad():
        torch.testing.assert_close(
            backbone.tokens(images), dynamic.model.forward_features(images), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(backbone(images), dynamic(images), atol=1e-5, rtol=1e-5)
    assert backbone(images).shape == (3, 4 * 32)
    assert torch.equal(backbone.model.pos_embed, before)


def test_resampled_positions_are_exact_in_float64() -> None:
    """timm's go through float32, which no parity to 1e-10 survives."""
    backbone = build(
        BackboneConfig("vit_tiny_patch16_224", "avg", {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}),
        1,
        28,
    )
    backbone.double()
    x = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    tiny = 1e-12
    before = backbone.tokens(x).detach()
    with torch.no_grad():
        backbone.model.pos_embed[:, 1:] += tiny * torch.randn(49, 32, dtype=torch.float64)
    change = float((backbone.tokens(x).detach() - before).abs().max())
    assert 0 < change < 1e-10


@pytest.mark.slow
def test_the_loss_leaves_ln_k_and_the_teacher_stays_between_both_collapses() -> None:  # 2.10
    """256 digits, 200 steps. Both views are the whole image: in so few steps a tiny network learns no invariance."""
    torch.manual_seed(0)
    args = {"patch_size": 7, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = build(BackboneConfig("vit_tiny_patch16_224", "avg", args), 1, 28)
    head = HeadConfig(hidden_dim=128, bottleneck_dim=32, prototypes=32)
    method = DINOConfig(head=head, momentum=0.99).build(backbone, None).train()
    source = catalog.open(DataConfig("digits"), "train")
    augment = Augment((View(size=28, count=2, scale=None),), source.mean, source.std)
    optimizer = optim.build(OptimConfig("adamw", lr=1.0, weight_decay=0.04), method)
    for step in range(200):
        index, key = torch.arange(64) + 64 * (step % 4), DrawKey(0, step // 4)
        views = augment.from_pixels(source.pixels(index), index, key)
        clock = Clock(step, 200, 4)
        output = method(Batch(views, index, key, None), clock)
        output.loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 20)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(clock, [output.carry])
    assert float(output.loss.detach()) < 0.9 * math.log(32)
    assert 0.3 < float(output.logs["teacher_entropy"]) < 0.98
