"""A network that follows another: MoCo's key encoder, BYOL's target, DINO's teacher."""

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def frozen_copy(online: M) -> M:
    """An exact copy, parameters and buffers, that no gradient reaches."""
    return copy.deepcopy(online).requires_grad_(False)


@torch.no_grad()
def ema_update(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * online, parameters only and in their own precision.

    Buffers are left alone: a target in train mode keeps batch-norm statistics of its own. With momentum 1 nothing
    moves, with 0 the target becomes the online network, to the bit.
    """
    targets: list[Tensor] = list(target.parameters())
    onlines: list[Tensor] = list(online.parameters())
    if momentum == 0:
        torch._foreach_copy_(targets, onlines)
    else:
        torch._foreach_lerp_(targets, onlines, 1 - momentum)
