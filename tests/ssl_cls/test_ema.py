"""Networks that follow: an exact copy at first, moved once a step and by nothing else (methods.md 1.5)."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.clock import Clock
from ssl_cls.ema import ema_update, frozen_copy
from ssl_cls.methods.base import Method
from ssl_cls.methods.byol import BYOLConfig
from ssl_cls.methods.moco import MoCoConfig
from ssl_cls.methods.mocov3 import MoCoV3Config

CLOCK = Clock(0, 10, 10)


def moco(momentum: float) -> MoCoConfig:
    return MoCoConfig(momentum=momentum, queue=64, norm_splits=4, projector=(16, 8))


def byol(momentum: float) -> BYOLConfig:
    return BYOLConfig(momentum=momentum, projector=(16, 8), predictor=16)


def mocov3(momentum: float) -> MoCoV3Config:
    return MoCoV3Config(momentum=momentum, projector=(16, 8), predictor_dim=16)


FOLLOWED = pytest.mark.parametrize(("config", "follower"), [(moco, "key"), (mocov3, "key"), (byol, "target")])


def networks(method: Method, follower: str) -> tuple[nn.Module, nn.Module]:
    """What leads and what follows, with the same names inside."""
    return nn.Sequential(method.backbone, method.projector), getattr(method, follower)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


@FOLLOWED
def test_it_begins_as_an_exact_copy_heads_and_buffers_included(miniature, config, follower: str) -> None:  # X7
    online, target = networks(miniature(config(0.9))[0], follower)
    assert same(online.state_dict(), target.state_dict())
    assert not {id(p) for p in online.parameters()} & {id(p) for p in target.parameters()}


@FOLLOWED
@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_0_makes_it_the_online_network_and_1_leaves_it(  # X9
    miniature, take_step, config, follower: str, momentum: float
) -> None:
    method, batch = miniature(config(momentum))
    online, target = networks(method, follower)
    start = copy.deepcopy(dict(target.named_parameters()))
    take_step(method, batch, CLOCK)
    assert not same(dict(online.named_parameters()), start)
    assert same(dict(target.named_parameters()), start if momentum else dict(online.named_parameters()))


@FOLLOWED
def test_a_learning_rate_of_0_leaves_it_where_it_is(miniature, take_step, config, follower: str) -> None:  # X9
    method, batch = miniature(config(0.5))
    _, target = networks(method, follower)
    start = copy.deepcopy(dict(target.named_parameters()))
    take_step(method, batch, CLOCK, lr=0.0)
    assert same(dict(target.named_parameters()), start)


@FOLLOWED
def test_no_gradient_reaches_it_and_no_optimizer_holds_it(miniature, config, follower: str) -> None:
    method, batch = miniature(config(0.9))
    method(batch, CLOCK).loss.backward()
    _, target = networks(method, follower)
    assert all(p.grad is None and not p.requires_grad for p in target.parameters())
    assert all(p.grad is not None for p in method.trainable().values())
    held = {id(p) for group in method.param_groups() for p in group.params.values()}
    assert not held & {id(p) for p in target.parameters()}


@FOLLOWED
def test_its_batch_norm_keeps_statistics_of_its_own(miniature, take_step, config, follower: str) -> None:  # X10
    method, batch = miniature(config(0.9))
    online, target = networks(method, follower)
    for number in range(2):
        take_step(method, batch, CLOCK.at(number))
    ours, theirs = (dict(network.named_buffers()) for network in (online, target))
    forwards = {int(value) for name, value in theirs.items() if name.endswith("num_batches_tracked")}
    assert forwards == {2 if config is moco else 4}  # a view a step, or both
    assert not torch.equal(ours["0.model.bn1.running_mean"], theirs["0.model.bn1.running_mean"])


@pytest.mark.parametrize("step", [0, 99])
def test_mocos_momentum_is_constant(miniature, take_step, step: int) -> None:  # X8
    method, batch = miniature(moco(0.9))
    online, key = networks(method, "key")
    expected = copy.deepcopy(key)
    take_step(method, batch, Clock(step, 100, 10))
    ema_update(expected, online, 0.9)
    assert same(dict(key.named_parameters()), dict(expected.named_parameters()))


def test_only_parameters_follow() -> None:
    online, target = nn.BatchNorm1d(4), frozen_copy(nn.BatchNorm1d(4))
    nn.init.constant_(online.weight, 3.0)
    online(torch.randn(8, 4) + 5)
    before = copy.deepcopy(dict(target.named_buffers()))
    ema_update(target, online, 0.75)
    torch.testing.assert_close(target.weight, torch.full((4,), 0.75 * 1 + 0.25 * 3))
    assert same(dict(target.named_buffers()), before)


def test_dropout_and_drop_path_are_the_online_networks_alone() -> None:  # X11
    args = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
    args |= {"drop_path_rate": 0.5, "proj_drop_rate": 0.3, "attn_drop_rate": 0.3, "patch_drop_rate": 0.25}
    online = build(BackboneConfig("vit_tiny_patch16_224", args=args), 1, 28).train()
    target, images = frozen_copy(online).train(), torch.randn(8, 1, 28, 28)
    assert torch.equal(target(images), target(images))
    assert not torch.equal(online(images), online(images))
    torch.testing.assert_close(target(images), online.eval()(images))


@FOLLOWED
def test_under_bfloat16_it_stays_float32_and_moves_by_a_ten_thousandth(  # X12
    miniature, take_step: Callable[..., object], config, follower: str
) -> None:
    method, batch = miniature(config(0.9999))
    online, target = networks(method, follower)
    start = copy.deepcopy(dict(target.named_parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        take_step(method, batch, CLOCK, lr=0.5)
    for name, moved in target.named_parameters():
        assert moved.dtype == torch.float32
        led = dict(online.named_parameters())[name].detach().double() - start[name].double()
        torch.testing.assert_close(moved.double() - start[name].double(), 1e-4 * led, rtol=0, atol=1e-7)
    last = list(start)[-1]
    assert not torch.equal(dict(target.named_parameters())[last], start[last])
