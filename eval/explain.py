"""Where a classifier looks: Grad-CAM for convolutions, attention for vision transformers."""

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor
from torch.nn import functional as F

from eval.classifier import Classifier
from ssl_cls.errors import UserError


def heatmaps(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """float [B, C, s, s] and the class to explain, int64 [B] -> float [B, s, s] in [0, 1], enlarged from the grid.

    Grad-CAM explains a class. Attention is the network's own, whatever the class: the last block's from the class
    token, mean over heads, where that is what is classified; where patch tokens are averaged, the rollout of all
    blocks, mean over the patches.
    """
    network: Any = model.network
    maps = _attention(network, images) if network.is_vit else _grad_cam(model, images, classes)
    maps = F.interpolate(maps[:, None], size=images.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled: Tensor = (maps - low) / (high - low).clamp(min=1e-12)
    return scaled


def _grad_cam(model: Classifier, images: Tensor, classes: Tensor) -> Tensor:
    """[B, h, w]: the last feature map's channels weighted by the class's mean gradient, what speaks for it
    (Selvaraju et al. 2017, equations 1 and 2)."""
    network: Any = model.network
    last = network.outputs(images, (-1,))[0].detach()
    if last.ndim != 4:
        raise _not_drawn(network)
    with torch.enable_grad():
        maps = last.requires_grad_()
        chosen = model.classify(network.pool(maps)).gather(1, classes[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, maps)
    cam: Tensor = (gradient.mean((2, 3), keepdim=True) * maps).sum(1).relu()
    return cam.detach()


def _not_drawn(network: Any) -> UserError:
    name = network.model.pretrained_cfg["architecture"]
    return UserError(f"the attention of {name} is of a kind that is not drawn", name, "explain a plain ViT or a ResNet")


@torch.no_grad()
def _attention(network: Any, images: Tensor) -> Tensor:
    """[B, h, w], from every patch."""
    blocks = list(network.model.blocks)
    if any(type(block.attn) is not Attention for block in blocks):
        raise _not_drawn(network)
    kept: list[Tensor] = []
    hooks = [
        block.attn.register_forward_pre_hook(lambda attn, x: kept.append(_weights(attn, x[0]))) for block in blocks
    ]
    try:
        network.model.forward_features(images)
    finally:
        for hook in hooks:
            hook.remove()
    first = network.prefix_tokens
    if network.pooling == "cls":
        to_patches = kept[-1][:, 0, first:]
    else:  # Abnar & Zuidema 2020, 3: half of what a token becomes is itself
        identity = torch.eye(kept[0].shape[1], device=images.device)
        rolled = identity
        for weights in kept:
            rolled = (weights + identity) / 2 @ rolled
        to_patches = rolled[:, first:, first:].mean(1)
    return to_patches.reshape(len(images), *network.grid)


def _weights(attn: Any, x: Tensor) -> Tensor:
    """[B, N, D] -> the block's attention, [B, N, N], mean over heads: a row a query."""
    b, n, _ = x.shape
    q, k, _ = attn.qkv(x).reshape(b, n, 3, attn.num_heads, attn.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
    scores = attn.q_norm(q) * attn.scale @ attn.k_norm(k).transpose(-2, -1)
    return scores.softmax(-1).mean(1)  # type: ignore[no-any-return]
