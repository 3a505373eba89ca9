"""Mixup, CutMix and random erasing, drawn without state: a function of (seed, step), or of the sample."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eval.tuning.losses import smoothed
from ssl_cls.rng import DrawKey, uniform

_SWITCH = 0.5  # CutMix rather than Mixup, where both are on: timm's
_AREA, _LOG_RATIO = (0.02, 1 / 3), 1.1939  # of what is erased: timm's, from 2 % on, sides up to 3.3 : 1; log 3.3
_ERASE_VIEW = 1000  # keeps the draws apart from those of a sample's views


class Mix(NamedTuple):
    """How a batch is mixed with itself in reverse order."""

    kept: float  # share of an image that remains its own
    box: tuple[int, int, int, int] | None  # CutMix: top, bottom, left, right of what the other image fills


def draw(seed: int, step: int, mixup: float, cutmix: float, size: int) -> Mix:
    """One draw a batch, as timm's default: kept ~ Beta(alpha, alpha) (Zhang et al. 2018; Yun et al. 2019).

    mixup, cutmix: their alphas, 0 for off. The box has 1 - kept of the image's area around a uniform centre and is
    cut off at the edges, which `kept` then follows.
    """
    if not mixup and not cutmix:
        return Mix(1.0, None)
    generator = np.random.default_rng((seed % 2**63, step))
    cuts = bool(cutmix) and (not mixup or generator.random() < _SWITCH)
    alpha = cutmix if cuts else mixup
    kept = generator.beta(alpha, alpha)
    if not cuts:
        return Mix(kept, None)
    side = int(size * np.sqrt(1 - kept))
    (y, x) = generator.integers(0, size, 2).tolist()
    edges = [min(max(edge, 0), size) for c in (y, x) for edge in (c - side // 2, c + (side + 1) // 2)]
    top, bottom, left, right = edges
    return Mix(1 - (bottom - top) * (right - left) / size**2, (top, bottom, left, right))


def mix(images: Tensor, labels: Tensor, num_classes: int, drawn: Mix, smoothing: float) -> tuple[Tensor, Tensor]:
    """float [B, C, s, s], int64 [B] or float [B, K] -> mixed images and targets [B, K], which sum to what they did."""
    y = smoothed(labels, num_classes, smoothing)
    y = drawn.kept * y + (1 - drawn.kept) * y.flip(0)
    if drawn.box is None:
        return drawn.kept * images + (1 - drawn.kept) * images.flip(0), y
    top, bottom, left, right = drawn.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, y


def erase(images: Tensor, index: Tensor, key: DrawKey, probability: float) -> Tensor:
    """With `probability`, a rectangle of each image becomes the mean colour, 0 (Zhong et al. 2020, algorithm 1).

    Differs: a side longer than the image's is cut off, where the paper draws again.
    """
    u = uniform(key, index.cpu(), _ERASE_VIEW, 5).to(images.device)
    height, width = images.shape[2:]
    area = (_AREA[0] + u[:, 1] * (_AREA[1] - _AREA[0])) * height * width
    ratio = ((2 * u[:, 2] - 1) * _LOG_RATIO).exp()
    h, w = ((area * r).sqrt().round().clamp(1, side) for r, side in ((ratio, height), (1 / ratio, width)))
    top, left = (u[:, 3] * (height - h + 1)).floor(), (u[:, 4] * (width - w + 1)).floor()
    rows, columns = (torch.arange(side, device=images.device)[None] for side in (height, width))
    down = (rows >= top[:, None]) & (rows < (top + h)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + w)[:, None])
    hit = down[:, None, :, None] & across[:, None, None, :] & (u[:, 0] < probability)[:, None, None, None]
    return images.masked_fill(hit, 0.0)
