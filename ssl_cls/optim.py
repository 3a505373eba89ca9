"""Parameter groups -> optimizer; and the only place that writes learning rates and weight decays."""

from collections.abc import Iterable
from typing import Any, Literal

import torch
from timm.optim import Lars
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from ssl_cls.clock import Clock, cosine, warmup_cosine
from ssl_cls.methods.base import Method
from ssl_cls.spec import Fraction, NonNegative, Positive, spec


@spec
class ClipConfig:
    norm: Positive
    per: Literal["all", "tensor"] = "all"  # one norm over all gradients, or each tensor by itself (DINO's code)


@spec
class OptimConfig:
    name: Literal["adamw", "sgd", "lars"] = "adamw"
    lr: Positive | None = None  # the peak, as it is
    base_lr: Positive | None = None  # the peak for 256 images; scaled with the global batch
    weight_decay: NonNegative = 0.0
    final_weight_decay: NonNegative | None = None  # reached along half a cosine (DINO); None: constant
    warmup_epochs: NonNegative = 0.0
    min_lr: NonNegative = 0.0
    momentum: Fraction = 0.9
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    trust_coefficient: Positive = 0.001  # LARS: the part of its norm by which a rate of 1 moves a matrix
    trust_clip: bool = False  # LARS: adapt downwards only, never above the scheduled rate (LARC)
    clip: ClipConfig | None = None

    def __post_init__(self) -> None:
        if (self.lr is None) == (self.base_lr is None):
            raise ValueError("give lr, or base_lr (the rate for 256 images), and not both")

    def peak(self, batch_size: int) -> float:
        """The learning rate at the end of the warm-up, for a global batch of `batch_size` images."""
        if self.lr is not None:
            return self.lr
        assert self.base_lr is not None
        return self.base_lr * batch_size / 256


def build(config: OptimConfig, method: Method) -> Optimizer:
    """The optimizer over the method's parameter groups; rates are set by `apply` before each step.

    LARS adapts matrices whatever their weight decay and never vectors (You et al. 2017; Chen et al. 2020, B.6):
    timm's own rule, adapt where weight decay is not zero, turns LARS without decay into plain SGD.
    """
    groups = method.param_groups()
    named = [name for group in groups for name in group.params]
    trainable = method.trainable()
    assert sorted(named) == sorted(trainable), f"not in exactly one group: {set(named) ^ set(trainable)}"
    settings = [
        {
            "params": list(group.params.values()),
            "lr_scale": group.lr_scale,
            "wd_scale": group.wd_scale,
            "frozen_epochs": group.frozen_epochs,
            "constant_lr": group.constant_lr,
            **({"always_adapt": group.wd_scale != 0} if config.name == "lars" else {}),
        }
        for group in groups
        if group.params
    ]
    match config.name:
        case "adamw":
            return AdamW(settings, lr=0.0, betas=config.betas, fused=True)
        case "sgd":
            return SGD(settings, lr=0.0, momentum=config.momentum, fused=True)
        case "lars":
            trust = {"trust_coeff": config.trust_coefficient, "trust_clip": config.trust_clip}
            return Lars(settings, lr=0.0, momentum=config.momentum, **trust)  # type: ignore[no-any-return]


def apply(optimizer: Optimizer, config: OptimConfig, clock: Clock, batch_size: int) -> float:
    """Set each group's rate and decay for the step that `clock` names; returns the unscaled learning rate."""
    warmup_steps = round(config.warmup_epochs * clock.steps_per_epoch)
    peak = config.peak(batch_size)
    lr = warmup_cosine(clock, peak, warmup_steps, config.min_lr)
    decay = config.weight_decay
    if config.final_weight_decay is not None:
        decay = cosine(clock, decay, config.final_weight_decay)
    for group in optimizer.param_groups:
        group["lr"] = (peak if group["constant_lr"] else lr) * group["lr_scale"]
        group["weight_decay"] = decay * group["wd_scale"]
    return lr


def drop_frozen(optimizer: Optimizer, clock: Clock) -> None:
    """Forget the gradients of groups that are still frozen: the optimizer then neither moves nor decays them."""
    for group in optimizer.param_groups:
        if clock.epoch < group["frozen_epochs"]:
            for parameter in group["params"]:
                parameter.grad = None


def update(optimizer: Optimizer, skip: Tensor) -> None:
    """One optimizer step, or none where `skip`, a float32 scalar on the device, is 1.

    torch's fused optimizers read it on the device. timm's LARS has no such gate, so there the host waits for it.
    """
    if isinstance(optimizer, Lars):
        if not skip:
            optimizer.step()
        return
    gated: Any = optimizer
    gated.found_inf = skip  # as torch's own gradient scaler hands it over
    optimizer.step()
    del gated.found_inf  # of this step alone: no state of the optimizer's


def clip(parameters: Iterable[nn.Parameter], config: ClipConfig | None) -> Tensor:
    """Clip gradients in place; returns their total norm before clipping, a scalar on the device."""
    grads = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(grads))
    total: Tensor = torch.linalg.vector_norm(norms)
    if config is not None:
        measured = norms if config.per == "tensor" else total.expand(len(grads))
        scales = (config.norm / (measured + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(grads, list(scales.unbind()))
    return total
