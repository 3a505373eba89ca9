"""From uint8 images to the normalised views that methods take."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_cls.augment.apply import normalise, recolour, resample
from ssl_cls.augment.draw import Colour, Geometry, colour, geometry
from ssl_cls.augment.view import View, expand
from ssl_cls.rng import DrawKey

EVALUATION_CROP = 0.875  # 224 of 256 pixels (He et al. 2016)
_CACHED = 2**21  # values of views that a CPU works on at once
_KEPT = 32 << 20  # bytes: `launch.keep_freed_memory` keeps what is smaller


class Augment:
    """Draws and makes all views of a batch. Has no state: a sample's views depend on (key, its index) alone.

    Args:
        views: as in a recipe, with every `size` set.
        mean, std: per channel, of pixels in [0, 1].
    """

    def __init__(self, views: tuple[View, ...], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.views = expand(views)
        self.mean, self.std = mean, std
        self.sizes = [_size(view) for view in self.views]
        self._alike: list[tuple[View, list[int]]] = []  # neighbours with the same settings are made as one batch
        for number, view in enumerate(self.views):
            if self._alike and self._alike[-1][0] == view:
                self._alike[-1][1].append(number)
            else:
                self._alike.append((view, [number]))
        self.interpolation = [view.interpolation for view in self.views]

    def boxes(self, key: DrawKey, index: Tensor, sizes: Tensor) -> list[Tensor]:
        """What a file source cuts from images of `sizes` (int64 [B, 2]): float32 [B, 4] a view."""
        index, sizes = index.cpu(), sizes.cpu()
        all_of_it = torch.cat((torch.zeros_like(sizes), sizes), 1).float()
        return [
            all_of_it if view.scale is None else geometry(view, key, index, number, sizes).box
            for number, view in enumerate(self.views)
        ]

    @torch.no_grad()
    def from_pixels(self, pixels: Tensor, index: Tensor, key: DrawKey) -> dict[str, list[Tensor]]:
        """uint8 [B, C, H, W] -> "global" and "local" views, float32 [B, C, s, s] each, where `pixels` are."""
        return self._made(lambda numbers: pixels.repeat(len(numbers), 1, 1, 1), resample, index, key)

    @torch.no_grad()
    def from_crops(self, crops: list[Tensor], index: Tensor, key: DrawKey) -> dict[str, list[Tensor]]:
        """The same from what a source cut along `boxes`: one uint8 [B, C, s, s] a view."""
        return self._made(lambda numbers: torch.cat([crops[number] for number in numbers]), _flipped, index, key)

    def _made(
        self,
        images_of: Callable[[list[int]], Tensor],
        cut: "_Cut",
        index: Tensor,
        key: DrawKey,
    ) -> dict[str, list[Tensor]]:
        """images_of: view numbers -> uint8 [len(numbers) * B, C, H, W]. cut: what makes of these crops, in [0, 1]."""
        views: dict[str, list[Tensor]] = {"global": [], "local": []}
        for view, numbers in self._alike:
            images, size = images_of(numbers), _size(view)
            # on the CPU: draws are made there, the same for every device, and without waiting for it
            sample, number = index.cpu().repeat(len(numbers)), torch.tensor(numbers).repeat_interleave(len(index))
            drawn = geometry(view, key, sample, number, torch.tensor(images.shape[2:]).expand(len(images), 2))
            colours = colour(view, key, sample, number)
            piece = partial(self._piece, images, drawn, colours, view, resample if view.scale is None else cut)
            shape = len(images), images.shape[1], size, size
            views[view.kind] += _in_pieces(piece, shape, images.device).chunk(len(numbers))
        return views

    def _piece(self, images: Tensor, drawn: Geometry, colours: Colour, view: View, cut: "_Cut", rows: slice) -> Tensor:
        resized = cut(images[rows], Geometry(*(values[rows] for values in drawn)), _size(view), view.interpolation)
        recoloured = recolour(resized, Colour(*(values[rows] for values in colours)))
        return normalise(recoloured, self.mean, self.std)


_Cut = Callable[[Tensor, Geometry, int, str], Tensor]  # pixels, draws, side and filter to crops in [0, 1]


def _in_pieces(piece: Callable[[slice], Tensor], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """float32 of `shape` from its rows: on a CPU of as many at once as stay in its caches through all that is done.

    Memory that is not kept for the next step is had anew each time: by numpy, which asks Linux for huge pages, in a
    third of the time.
    """
    count = min(math.ceil(math.prod(shape) / _CACHED), shape[0] // 2)  # of two or more rows each
    if device.type != "cpu" or count < 2:
        return piece(slice(None))
    large = 4 * math.prod(shape) > _KEPT
    made = torch.from_numpy(np.empty(shape, np.float32)) if large else torch.empty(shape)
    bounds = [shape[0] * number // count for number in range(count + 1)]
    for rows in map(slice, bounds, bounds[1:]):
        made[rows] = piece(rows)
    return made


def _size(view: View) -> int:
    if view.size is None:
        raise ValueError("a View needs its size before it can be drawn")
    return view.size


def _flipped(crops: Tensor, drawn: Geometry, size: int, interpolation: str) -> Tensor:
    """Crops that a source has already resized, as float, left and right exchanged where drawn."""
    chosen = drawn.flip.nonzero()[:, 0]
    if crops.device.type == "cpu":
        crops = crops.clone()
        for number in chosen.tolist():  # a write by index takes ten times as long as the flips
            crops[number] = crops[number].flip(2)
        return crops.float().div_(255)
    chosen = chosen.to(crops.device, non_blocking=True)
    return crops.index_copy(0, chosen, crops[chosen].flip(3)).float().div_(255)


def centre_boxes(sizes: Tensor, fraction: float = EVALUATION_CROP) -> Tensor:
    """Evaluation crops: the central square of `fraction` of the shorter side.

    sizes: int64 [B, 2]. Returns whole pixels as float32 [B, 4]: top, left, height, width.
    """
    return _central(sizes, sizes.amin(1, keepdim=True).expand_as(sizes), fraction)


def _central(sizes: Tensor, sides: Tensor, fraction: float) -> Tensor:
    kept = (sides * fraction).round().clamp(min=1)
    return torch.cat((((sizes - kept) / 2).floor(), kept), 1).float()


class Framing(NamedTuple):
    """How evaluation shows an image file: which part of it, and resized by which filter."""

    crop: float = EVALUATION_CROP  # side of the central square, of the shorter side
    interpolation: str = "bilinear"
    squash: bool = False  # of both sides instead, and made square: timm's crop_mode "squash"

    @classmethod
    def of(cls, cfg: dict[str, Any]) -> "Framing":
        """As timm's pretrained_cfg says. Differs: no borders, of crops beyond the image and of crop_mode "border"."""
        filter_ = "bicubic" if cfg.get("interpolation") == "bicubic" else "bilinear"
        return cls(min(1.0, cfg.get("crop_pct", EVALUATION_CROP)), filter_, cfg.get("crop_mode") == "squash")

    def to_timm(self) -> dict[str, Any]:
        mode = "squash" if self.squash else "center"
        return {"crop_pct": self.crop, "interpolation": self.interpolation, "crop_mode": mode}

    def boxes(self, sizes: Tensor) -> Tensor:
        """int64 [B, 2] -> float32 [B, 4], as `centre_boxes`."""
        return _central(sizes, sizes, self.crop) if self.squash else centre_boxes(sizes, self.crop)


AS_USUAL = Framing()


@torch.no_grad()
def whole(
    pixels: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...], interpolation: str = "bilinear"
) -> Tensor:
    """Evaluation of array sources: uint8 [B, C, H, W], resized whole, to normalised [B, C, size, size]."""
    b, _, height, width = pixels.shape
    if (height, width) == (size, size):
        return normalise(pixels.float().div_(255), mean, std)
    everything = Geometry(
        torch.tensor((0, 0, height, width)).float().expand(b, 4),
        torch.zeros(b),
        torch.zeros(b, dtype=torch.bool),
    )
    return normalise(resample(pixels, everything, size, interpolation), mean, std)
