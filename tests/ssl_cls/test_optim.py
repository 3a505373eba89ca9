"""Schedules (X4, X8, X18), parameter groups (X5), LARS that is LARS (X6), clipping (2.10), and who may write a rate.

The cosine of the momentum and LARS's first step are rows of methods.md section 0.
"""

import pytest
import torch
from lightly.utils.lars import LARS
from torch import nn

from ssl_cls import optim
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.clock import Clock, cosine, warmup_cosine
from ssl_cls.methods.base import Method, ParamGroup
from ssl_cls.methods.mae import MAEConfig
from ssl_cls.methods.simclr import SimCLRConfig
from ssl_cls.optim import ClipConfig, OptimConfig


class Toy(Method):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 5)


def step(method: Method, config: OptimConfig, gradient_scale: float, clock: Clock) -> dict[str, torch.Tensor]:
    """The update of each parameter by one step on a fixed gradient."""
    optimizer = optim.build(config, method)
    optim.apply(optimizer, config, clock, 256)
    before = {name: p.detach().clone() for name, p in method.named_parameters()}
    for seed, p in enumerate(method.parameters()):
        p.grad = gradient_scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.step()
    return {name: p.detach() - before[name] for name, p in method.named_parameters()}


@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_lars_steps_by_a_fraction_of_the_weight_whatever_the_gradient(weight_decay: float) -> None:  # X6
    config, clock = OptimConfig("lars", lr=0.5, weight_decay=weight_decay), Clock(0, 10, 10)
    weight = Toy().layer.weight.detach().norm()
    for scale in (1.0, 100.0):
        moved = step(Toy(), config, scale, clock)
        assert float(moved["layer.weight"].norm() / weight) == pytest.approx(0.5 * 0.001, rel=2e-3)


def test_lightlys_lars_is_plain_sgd_where_nothing_decays() -> None:  # 1.4
    """Why agreement with it is no test of LARS."""
    weight = nn.Parameter(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
    before, gradient = weight.detach().clone(), torch.ones(5, 6)
    weight.grad = gradient.clone()
    LARS([weight], lr=0.5, weight_decay=0.0).step()
    torch.testing.assert_close(weight.detach() - before, -0.5 * gradient)


def test_clipped_lars_moves_a_matrix_by_its_trust_or_the_rate_whichever_is_less() -> None:
    """The rule of LARC, which solo-learn's CIFAR recipes use with a coefficient of .02."""
    config = OptimConfig("lars", lr=0.5, trust_coefficient=0.02, trust_clip=True)
    weight = Toy().layer.weight.detach().norm()
    gradient = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    large, small = (step(Toy(), config, scale, Clock(0, 10, 10))["layer.weight"] for scale in (100.0, 1e-4))
    assert float(large.norm() / weight) == pytest.approx(0.02, rel=1e-3)
    torch.testing.assert_close(small, -0.5 * 1e-4 * gradient)


def test_lars_leaves_vectors_to_plain_sgd() -> None:  # X6
    moved = step(Toy(), OptimConfig("lars", lr=0.5, weight_decay=1e-2), 3.0, Clock(0, 10, 10))
    gradient = 3.0 * torch.randn(5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(moved["layer.bias"], -0.5 * gradient)


def test_the_schedule_hits_its_marks() -> None:  # X18
    values = [warmup_cosine(Clock(k, 1000, 100), 0.3, 100, 0.01) for k in (0, 50, 100, 550, 1000)]
    assert values == pytest.approx([0.0, 0.15, 0.3, (0.3 + 0.01) / 2, 0.01])


def test_the_momentum_schedule_reaches_one() -> None:  # X8
    assert [cosine(Clock(k, 200, 10), 0.996, 1.0) for k in (0, 100, 200)] == pytest.approx([0.996, 0.998, 1.0])


def test_base_lr_scales_with_the_global_batch_only() -> None:  # X4
    assert OptimConfig(base_lr=1.5e-4).peak(4096) == pytest.approx(2.4e-3)
    assert OptimConfig(lr=1e-3).peak(4096) == 1e-3


def test_lr_and_base_lr_exclude_each_other() -> None:
    for arguments in ({}, {"lr": 0.1, "base_lr": 0.1}):
        with pytest.raises(ValueError, match="base_lr"):
            OptimConfig(**arguments)


def test_only_matrices_decay_and_the_rate_is_what_apply_says() -> None:  # X5
    config, method = OptimConfig("sgd", lr=0.1, weight_decay=0.02, warmup_epochs=1), Toy()
    optimizer = optim.build(config, method)
    assert optim.apply(optimizer, config, Clock(5, 100, 10), 256) == pytest.approx(0.05)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {id(method.layer.weight): 0.02, id(method.layer.bias): 0.0}
    assert {group["lr"] for group in optimizer.param_groups} == {0.05}


def test_weight_decay_follows_half_a_cosine_where_it_is_not_zero() -> None:  # 1.3
    config, method = OptimConfig("adamw", lr=0.1, weight_decay=0.04, final_weight_decay=0.4), Toy()
    optimizer = optim.build(config, method)
    for step, decay in ((0, 0.04), (50, 0.22), (100, 0.4)):
        optim.apply(optimizer, config, Clock(step, 100, 10), 256)
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert decays[id(method.layer.weight)] == pytest.approx(decay)
        assert decays[id(method.layer.bias)] == 0


def test_a_constant_rate_is_the_peak_in_the_warmup_and_at_the_end() -> None:  # 2.5
    class Constant(Toy):
        def param_groups(self) -> list[ParamGroup]:
            weight, bias = {"layer.weight": self.layer.weight}, {"layer.bias": self.layer.bias}
            return [ParamGroup(weight), ParamGroup(bias, lr_scale=0.5, constant_lr=True)]

    config, method = OptimConfig("sgd", base_lr=0.1, warmup_epochs=2), Constant()
    optimizer = optim.build(config, method)
    for step, rate in ((0, 0.0), (10, 0.1), (20, 0.2), (100, 0.0)):
        optim.apply(optimizer, config, Clock(step, 100, 10), 512)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate, 0.1])


@pytest.mark.parametrize("method", ["simclr", "mae"])
def test_every_trainable_parameter_is_in_exactly_one_group(method: str) -> None:  # X5
    if method == "simclr":
        built = SimCLRConfig().build(build(BackboneConfig("resnet_small"), 1, 28), None)
    else:
        args = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
        built = MAEConfig().build(build(BackboneConfig("vit_tiny_patch16_224", "avg", args), 1, 28), None)  # type: ignore[assignment]
    optimizer = optim.build(OptimConfig(lr=0.1, weight_decay=0.1), built)
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in built.parameters() if p.requires_grad)
    optim.apply(optimizer, OptimConfig(lr=0.1, weight_decay=0.1), Clock(0, 1, 1), 256)
    assert all(p.ndim > 1 for group in optimizer.param_groups if group["weight_decay"] for p in group["params"])


def test_a_method_that_forgets_a_parameter_is_caught() -> None:
    class Forgetful(Toy):
        def param_groups(self) -> list[ParamGroup]:
            return [ParamGroup({"layer.weight": self.layer.weight})]

    with pytest.raises(AssertionError, match=r"layer\.bias"):
        optim.build(OptimConfig(lr=0.1), Forgetful())


@pytest.mark.parametrize(("per", "expected"), [("tensor", (3.0, 1.0)), ("all", (30 * 3 / 901**0.5, 3 / 901**0.5))])
def test_clipping_per_tensor_and_over_all(per: str, expected: tuple[float, float]) -> None:  # 2.10
    big, small = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(1))
    big.grad, small.grad = torch.full((4,), 15.0), torch.ones(1)
    total = optim.clip([big, small], ClipConfig(3.0, per))  # type: ignore[arg-type]
    assert float(total) == pytest.approx(901**0.5)
    assert (float(big.grad.norm()), float(small.grad.norm())) == pytest.approx(expected, rel=1e-5)


def test_frozen_groups_neither_move_nor_decay() -> None:
    class Frozen(Toy):
        def param_groups(self) -> list[ParamGroup]:
            return [ParamGroup(dict(self.named_parameters()), frozen_epochs=1)]

    method = Frozen()
    optimizer = optim.build(OptimConfig(lr=0.1, weight_decay=0.5), method)
    before = method.layer.weight.detach().clone()
    for epoch_step, moves in ((9, False), (10, True)):
        clock = Clock(epoch_step, 100, 10)
        optim.apply(optimizer, OptimConfig(lr=0.1, weight_decay=0.5), clock, 256)
        method.layer(torch.ones(1, 6)).sum().backward()
        optim.drop_frozen(optimizer, clock)
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(before, method.layer.weight) != moves
