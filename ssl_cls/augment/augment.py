"""From uint8 images to the normalised views that methods take."""

import torch
from torch import Tensor

from ssl_cls.augment.apply import normalise, recolour, resample
from ssl_cls.augment.draw import Geometry, colour, geometry
from ssl_cls.augment.view import View, expand
from ssl_cls.rng import DrawKey

EVALUATION_CROP = 0.875  # 224 of 256 pixels (He et al. 2016)


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
        views: dict[str, list[Tensor]] = {"global": [], "local": []}
        for view, numbers in self._alike:
            many, number = _repeated(index, numbers)
            sizes = torch.tensor(pixels.shape[2:]).expand(len(many), 2)
            drawn = geometry(view, key, many, number, sizes)
            images = resample(pixels.repeat(len(numbers), 1, 1, 1), drawn, _size(view), view.interpolation)
            views[view.kind] += self._finished(images, view, key, many, number, len(numbers))
        return views

    @torch.no_grad()
    def from_crops(self, crops: list[Tensor], index: Tensor, key: DrawKey) -> dict[str, list[Tensor]]:
        """The same from what a source cut along `boxes`: one uint8 [B, C, s, s] a view."""
        views: dict[str, list[Tensor]] = {"global": [], "local": []}
        for view, numbers in self._alike:
            many, number = _repeated(index, numbers)
            crop, size = torch.cat([crops[view_number] for view_number in numbers]), _size(view)
            drawn = geometry(view, key, many, number, torch.full((len(crop), 2), size))
            images = _flipped(crop, drawn) if view.scale else resample(crop, drawn, size, view.interpolation)
            views[view.kind] += self._finished(images, view, key, many, number, len(numbers))
        return views

    def _finished(
        self, images: Tensor, view: View, key: DrawKey, index: Tensor, number: Tensor, count: int
    ) -> tuple[Tensor, ...]:
        images = recolour(images, colour(view, key, index, number))
        return normalise(images, self.mean, self.std).chunk(count)


def _repeated(index: Tensor, numbers: list[int]) -> tuple[Tensor, Tensor]:
    """Sample and view number of every image of views that are made together: int64 [len(numbers) * B] each.

    On the CPU: draws are made there, the same for every device, and without waiting for it.
    """
    return index.cpu().repeat(len(numbers)), torch.tensor(numbers).repeat_interleave(len(index))


def _size(view: View) -> int:
    if view.size is None:
        raise ValueError("a View needs its size before it can be drawn")
    return view.size


def _flipped(crop: Tensor, drawn: Geometry) -> Tensor:
    """Crops that a source has already resized, as float, left and right exchanged where drawn."""
    chosen = drawn.flip.nonzero()[:, 0].to(crop.device, non_blocking=True)
    if len(chosen):
        crop = crop.index_copy(0, chosen, crop[chosen].flip(3))  # while they are a quarter of the bytes
    return crop.float().div_(255)


def centre_boxes(sizes: Tensor, fraction: float = EVALUATION_CROP) -> Tensor:
    """Evaluation crops: the central square of `fraction` of the shorter side.

    sizes: int64 [B, 2]. Returns whole pixels as float32 [B, 4]: top, left, height, width.
    """
    side = (sizes.amin(1) * fraction).round().clamp(min=1)
    top, left = ((sizes - side[:, None]) / 2).floor().unbind(1)
    return torch.stack((top, left, side, side), 1).float()


@torch.no_grad()
def whole(pixels: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Evaluation of array sources: uint8 [B, C, H, W], resized whole, to normalised [B, C, size, size]."""
    b, _, height, width = pixels.shape
    if (height, width) == (size, size):
        return normalise(pixels.float().div_(255), mean, std)
    everything = Geometry(
        torch.tensor((0, 0, height, width)).float().expand(b, 4),
        torch.zeros(b),
        torch.zeros(b, dtype=torch.bool),
    )
    return normalise(resample(pixels, everything, size, "bilinear"), mean, std)
