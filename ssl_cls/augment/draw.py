"""The random parameters of a view: a pure function of (seed, epoch, sample, view number), whatever the batch.

Boxes are computed in float64: the last bit of a machine's exp or sqrt does not reach their whole pixels.
"""

import math
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from ssl_cls.augment.view import View
from ssl_cls.rng import DrawKey, uniform

_TRIES = 10  # of torchvision's RandomResizedCrop, before its central fallback

# Slots of rng.uniform under a view's number. Colours come first: `colour` hashes only what it uses.
_FACTORS = slice(0, 4)
_ORDER, _JITTER, _GRAY, _BLUR, _SIGMA, _SOLARIZE = range(4, 10)
_TOP, _LEFT, _FLIP, _ANGLE = range(10, 14)
_AREA, _RATIO = slice(14, 14 + _TRIES), slice(14 + _TRIES, 14 + 2 * _TRIES)
_COLOUR_SLOTS, _GEOMETRY_SLOTS = 10, 14 + 2 * _TRIES

_ORDERS = torch.tensor(list(permutations(range(4))))  # [24, 4]


class Geometry(NamedTuple):
    """Which pixels a view is made of: crop or shift to the box, then flip, then rotate."""

    box: Tensor  # float32 [B, 4]: top, left, height, width in source pixels; partly outside for a padding crop
    angle: Tensor  # float32 [B]: degrees, counter-clockwise
    flip: Tensor  # bool [B]: left to right


class Colour(NamedTuple):
    """What happens to the values, in this order: jitter, gray, blur, solarize."""

    order: Tensor  # int64 [B, 4]: a permutation of 0..3 = brightness, contrast, saturation, hue
    factors: Tensor  # float32 [B, 4], by operation, not by position; identity 1, 1, 1, 0 where jitter is off
    gray: Tensor  # bool [B]
    sigma: Tensor  # float32 [B], in pixels; 0 = no blur
    solarize: Tensor  # bool [B]


def geometry(view: View, key: DrawKey, index: Tensor, number: int | Tensor, sizes: Tensor) -> Geometry:
    """Of view `number` (one, or int64 [B]), for samples `index` of `sizes` (height, width): int64 [B] and [B, 2]."""
    u = uniform(key, index, number, _GEOMETRY_SLOTS).double()
    if view.scale is None:
        box = _shifted(view, u, sizes.double())
    else:
        box = _resized_crop(view.scale, view.ratio, u, sizes.double())
    return Geometry(box.float(), ((2 * u[:, _ANGLE] - 1) * view.rotate).float(), u[:, _FLIP] < view.flip)


def _resized_crop(scale: tuple[float, float], ratio: tuple[float, float], u: Tensor, sizes: Tensor) -> Tensor:
    """torchvision's RandomResizedCrop (Szegedy et al. 2015, section 6): whole pixels in float64 [B, 4].

    The first of ten tries that fits, else the largest central crop of an allowed ratio.
    """
    height, width = sizes.unbind(1)
    low, high = (math.log(r) for r in ratio)
    area = (scale[0] + u[:, _AREA] * (scale[1] - scale[0])) * (height * width)[:, None]
    aspect = (low + u[:, _RATIO] * (high - low)).exp()
    h, w = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()  # [B, tries]
    fits = (h > 0) & (h <= height[:, None]) & (w > 0) & (w <= width[:, None])
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    h, w = h.gather(1, first)[:, 0], w.gather(1, first)[:, 0]
    top, left = (u[:, _TOP] * (height - h + 1)).floor(), (u[:, _LEFT] * (width - w + 1)).floor()
    box = torch.stack((top, left, h, w), 1)
    if bool((any_fits := fits.any(1)).all()):
        return box
    h, w = (
        torch.minimum(height, (width / ratio[0]).round()),
        torch.minimum(width, (height * ratio[1]).round()),
    )
    central = torch.stack((((height - h) / 2).floor(), ((width - w) / 2).floor(), h, w), 1)
    return torch.where(any_fits[:, None], box, central)


def _shifted(view: View, u: Tensor, sizes: Tensor) -> Tensor:
    """The whole image moved by up to `pad` pixels of the view each way: float64 [B, 4]."""
    assert view.size is not None
    pixels = (u[:, [_TOP, _LEFT]] * (2 * view.pad + 1)).floor() - view.pad
    return torch.cat((pixels * sizes / view.size, sizes), 1)


def colour(view: View, key: DrawKey, index: Tensor, number: int | Tensor) -> Colour:
    """Of view `number` (one, or int64 [B]), for samples `index` (int64 [B])."""
    u = uniform(key, index, number, _COLOUR_SLOTS)
    strength = u.new_tensor((view.brightness, view.contrast, view.saturation, view.hue))
    neutral = u.new_tensor((1.0, 1.0, 1.0, 0.0))
    low, high = neutral - strength, neutral + strength
    low[:3].clamp_(min=0)
    jitter = (u[:, _JITTER] < view.jitter_p)[:, None]
    sigma = view.blur_sigma[0] + u[:, _SIGMA] * (view.blur_sigma[1] - view.blur_sigma[0])
    return Colour(
        order=_ORDERS.to(u.device)[(u[:, _ORDER] * len(_ORDERS)).long()],
        factors=torch.where(jitter, low + u[:, _FACTORS] * (high - low), neutral),
        gray=u[:, _GRAY] < view.gray,
        sigma=torch.where(u[:, _BLUR] < view.blur, sigma, 0.0),
        solarize=u[:, _SOLARIZE] < view.solarize,
    )
