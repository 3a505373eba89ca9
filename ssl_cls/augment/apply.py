"""What drawn parameters do to pixels: a batch at once, on any device, each step as torchvision defines it."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_cls.augment.draw import Colour, Geometry

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_NOWHERE = 1e9  # an output row whose centre is put here gets no pixel at all


def resample(pixels: Tensor, geometry: Geometry, size: int, interpolation: str) -> Tensor:
    """uint8 [B, C, H, W] -> float32 [B, C, size, size] in [0, 1]: box, antialiased resize, flip, rotation.

    Outside the image is black. The resize is two batched products with a banded matrix per image and axis,
    the flip a reversal of rows of the horizontal one. This is torchvision's resized_crop(antialias=True) in
    floating point; bicubic overshoot is cut to [0, 1], as uint8 images cut it.

    Args:
        interpolation: "bilinear" or "bicubic".
    """
    b, c, height, width = pixels.shape
    top, left, h, w = _sent(geometry.box, pixels).T
    vertical = _centres(top, h, size, height)
    horizontal = _centres(left, w, size, width)
    horizontal = torch.where(_sent(geometry.flip, pixels)[:, None], horizontal.flip(1), horizontal)
    # A row's channels lie side by side, so that each axis is one bmm: broadcasting would copy the matrices.
    rows = pixels.float().transpose(1, 2).reshape(b, height * c, width)
    across = torch.bmm(rows, _filter(horizontal, left, w, width, interpolation).transpose(1, 2))
    down = torch.bmm(_filter(vertical, top, h, height, interpolation), across.view(b, height, c * size))
    images = down.view(b, size, c, size).transpose(1, 2).contiguous().div_(255)
    if interpolation == "bicubic":
        images.clamp_(0, 1)
    return _rotate(images, geometry.angle) if bool(geometry.angle.any()) else images


def _centres(start: Tensor, length: Tensor, size: int, source: int) -> Tensor:
    """Where each of `size` output pixels lies on an axis of `source` pixels: [B, size]."""
    step = (length / size)[:, None]
    centres = start[:, None] + step * (torch.arange(size, device=start.device) + 0.5)
    return torch.where((centres > 0) & (centres < source), centres, _NOWHERE)


def _filter(centres: Tensor, start: Tensor, length: Tensor, source: int, interpolation: str) -> Tensor:
    """The resizing matrix of one axis: [B, size, source], rows sum to 1.

    A triangle or Keys's cubic (1981, a = -1/2) as wide as a pixel of the coarser grid, cut at the box and
    renormalised. The box of a padding crop, as large as the image but beside it, is cut at the image.
    """
    widest = (length / centres.shape[1]).clamp(min=1)[:, None]  # antialiasing: input pixels per output pixel
    first = torch.minimum(start, source - length).clamp(min=0)[:, None]
    pixel = torch.arange(source, device=start.device) + 0.5
    usable = (pixel > first) & (pixel < first + length[:, None])
    places = torch.where(usable, pixel / widest, float("inf"))
    distance = torch.sub(places[:, None, :], (centres / widest)[:, :, None]).abs_()
    if interpolation == "bilinear":
        weights = torch.sub(1, distance.clamp_(max=1), out=distance)
    else:
        weights = _cubic(distance.clamp_(max=2))
    return weights.div_(weights.sum(2, keepdim=True).clamp_(min=1e-6))


def _cubic(t: Tensor) -> Tensor:
    """Keys's kernel with a = -1/2 for 0 <= t <= 2, the one of PIL and of antialiased torch."""
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    return torch.where(t < 1, near, far)


def _rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Each image about its centre by its own angle (degrees, counter-clockwise), bilinear, zeros outside."""
    radians = _sent(angle * (math.pi / 180), images)
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    affine = torch.stack((cos, -sin, zero, sin, cos, zero), 1).view(-1, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def recolour(images: Tensor, colour: Colour) -> Tensor:
    """Jitter, gray, blur, solarize of float [B, C, s, s] in [0, 1]; `images` itself is changed and returned.

    Saturation, hue and gray act on three channels only. With draws on the CPU no GPU is waited for.
    """
    neutral = colour.factors.new_tensor((1.0, 1.0, 1.0, 0.0))
    if bool((colour.factors != neutral).any()):
        _jitter(images, colour.order, colour.factors)
    if images.shape[1] == 3 and len(chosen := _where(colour.gray, images)):
        images[chosen] = luminance(images[chosen]).expand(-1, 3, -1, -1)
    if len(chosen := _where(colour.sigma > 0, images)):
        images[chosen] = _blur(images[chosen], _sent(colour.sigma, images)[chosen])
    if len(chosen := _where(colour.solarize, images)):
        some = images[chosen]
        images[chosen] = torch.where(some >= 0.5, 1 - some, some)
    return images


def _where(mask: Tensor, images: Tensor) -> Tensor:
    return _sent(mask.nonzero()[:, 0], images)


def _sent(drawn: Tensor, images: Tensor) -> Tensor:
    """To the device of `images`, without waiting for what that device still has to do."""
    return drawn.to(images.device, non_blocking=True)


def luminance(images: Tensor) -> Tensor:
    """[B, 3, H, W] -> [B, 1, H, W], the ITU-R 601-2 luma that PIL and torchvision use."""
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def _jitter(images: Tensor, order: Tensor, factors: Tensor) -> None:
    """ColorJitter with each image's own order, clamped to [0, 1] after every operation, in place.

    Brightness, contrast and saturation all are f*x + (1-f)*reference, with black, the mean luminance, or the
    luminance as reference: one blend serves all images, whichever operation each has at a position.
    """
    is_rgb = images.shape[1] == 3
    if not is_rgb:
        order = order[order < _SATURATION].view(-1, 2)
    for operation in order.unbind(1):
        factor = factors.gather(1, operation[:, None])[:, 0]
        blend = torch.where(operation == _HUE, 1.0, factor)
        rest = 1 - blend
        weights = torch.stack((blend, rest * (operation == _CONTRAST), rest * (operation == _SATURATION)))
        own, to_mean, to_gray = _sent(weights, images)[:, :, None, None, None]
        gray = luminance(images) if is_rgb else images
        reference = gray.mean((1, 2, 3), keepdim=True).mul_(to_mean)
        if is_rgb:
            reference = gray.mul_(to_gray).add_(reference)
        images.mul_(own).add_(reference).clamp_(0, 1)
        if is_rgb and len(chosen := _where((operation == _HUE) & (factor != 0), images)):
            images[chosen] = _turn_hue(images[chosen], _sent(factor, images)[chosen])


def _turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """The hue of HSV (Smith 1978) moved by `turn` [B] of a full circle, for RGB [B, 3, H, W].

    Value and chroma stay, so the detour over saturation is left out. With the hue in sixths of a turn, a
    channel is lowest within 1 of its complement (cyan 3, magenta 5, yellow 1), highest from 2 on.
    """
    planes = images.transpose(0, 1).contiguous()  # [3, B, H, W]
    red, green, blue = planes
    highest, lowest = planes.amax(0), planes.amin(0)
    chroma = highest - lowest
    from_green, from_blue = (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4)
    hue = torch.where(highest == red, green - blue, torch.where(highest == green, from_green, from_blue))
    hue.div_(chroma.clamp(min=1e-12)).add_(6 * turn[:, None, None]).remainder_(6)
    ceiling = highest.add_(chroma)
    for plane, complement in zip(planes, (3, 5, 1), strict=True):
        nearness = (hue - complement).abs_().sub_(3).abs_().clamp_(1, 2)  # 3 - distance around the circle
        torch.addcmul(ceiling, nearness, chroma, value=-1, out=plane)
    return planes.transpose(0, 1)


def _blur(images: Tensor, sigma: Tensor) -> Tensor:
    """A Gaussian of each image's own `sigma` [B], reflected at the border.

    The kernel is odd and about a tenth of the side: 23 of 224 pixels (SimCLR, appendix A).
    """
    b, c, size, _ = images.shape
    radius = size // 10 // 2
    if radius == 0:
        return images
    offset = torch.arange(-radius, radius + 1, device=images.device)
    kernel = (-0.5 * (offset / sigma[:, None]) ** 2).softmax(1).repeat_interleave(c, 0)
    padded = F.pad(images, [radius] * 4, mode="reflect").view(1, b * c, size + 2 * radius, -1)
    across = F.conv2d(padded, kernel[:, None, None, :], groups=b * c)
    return F.conv2d(across, kernel[:, None, :, None], groups=b * c).view(b, c, size, size)


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images - mean) / std per channel; `images` itself is changed and returned."""
    for plane, m, s in zip(images.unbind(1), mean, std, strict=True):
        plane.sub_(m).div_(s)
    return images
