"""Grey images for an encoder of colour ones, and the reverse."""

import torch
from torch import Tensor

from ssl_cls.data.source import Source
from ssl_cls.errors import UserError

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow and torchvision weigh red, green and blue


class _Recoloured:
    """`base` as a source of `channels`: 1 -> 3 repeats the grey, 3 -> 1 is its luminance."""

    def __init__(self, base: Source, channels: int) -> None:
        self.base, self.channels, self.name = base, channels, base.name
        self.fingerprint = f"{base.fingerprint}-{channels}channels"
        self.members = base.members
        self.num_classes, self.class_names, self.size = base.num_classes, base.class_names, base.size
        self.mean, self.std = (_converted_statistics(x, channels) for x in (base.mean, base.std))

    def __len__(self) -> int:
        return len(self.base)

    def sizes(self, indices: Tensor) -> Tensor:
        return self.base.sizes(indices)

    def labels(self, indices: Tensor) -> Tensor:
        return self.base.labels(indices)

    def pixels(self, indices: Tensor) -> Tensor:
        return self._converted(self.base.pixels(indices))

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        return [self._converted(crop) for crop in self.base.crops(indices, boxes, sizes, interpolation)]

    def _converted(self, images: Tensor) -> Tensor:
        if self.channels == 3:
            return images.expand(-1, 3, -1, -1)
        luma = torch.tensor(_LUMA, device=images.device)[:, None, None]
        return (images * luma).sum(1, keepdim=True).round().to(torch.uint8)

    @property
    def bad(self) -> list[str]:
        return self.base.bad


def _converted_statistics(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values * 3 if channels == 3 else (sum(w * v for w, v in zip(_LUMA, values, strict=True)),)


def seen_with(source: Source, channels: int) -> Source:
    """`source` as an encoder of so many channels is shown it: itself where they agree.

    Raises:
        UserError: anything but grey and red-green-blue.
    """
    if source.channels == channels:
        return source
    if {source.channels, channels} != {1, 3}:
        raise UserError(
            f"an encoder of {channels}-channel images cannot be shown {source.channels}-channel ones",
            source.name,
            "use an encoder pretrained on such images",
        )
    return _Recoloured(source, channels)
