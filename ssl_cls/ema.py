"""A network that follows another: MoCo's key encoder, BYOL's target, DINO's teacher."""

import copy
from typing import TypeVar

import torch
from timm.layers import DropBlock2d, DropPath, PatchDropout
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

M = TypeVar("M", bound=nn.Module)


def frozen_copy(online: M) -> M:
    """An exact copy, parameters and buffers, that no gradient reaches and no dropout or drop-path disturbs.

    A target whose batch norm needs train mode would otherwise drop units too; only the online network does.
    """
    target = copy.deepcopy(online).requires_grad_(False)
    for module in target.modules():
        match module:
            case _DropoutNd():
                module.p = 0.0
            case DropPath() | DropBlock2d():
                module.drop_prob = 0.0
            case PatchDropout():
                module.prob = 0.0
    return target


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
