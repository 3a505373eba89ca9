"""The one interface to images, and the two views of it that splits need."""

import hashlib
from typing import Protocol

import torch
from torch import Tensor


class Source(Protocol):
    """Images of one split, by index 0..len-1. Pixels are uint8; nothing here is random."""

    name: str  # "fashion_mnist/train": what result rows call it
    fingerprint: (
        str  # hex digest of pixels and labels (or of paths, sizes and times of files): the key of feature caches
    )
    members: str  # hex digest of which images these are and in what order, whatever their labels
    num_classes: int | None  # None: no labels
    class_names: list[str] | None
    channels: int
    size: tuple[int, int] | None  # (height, width); None: images differ, and `crops` is the only way to pixels
    mean: tuple[float, ...]  # per channel, of pixels in [0, 1]: what encoders normalise with
    std: tuple[float, ...]

    @property
    def bad(self) -> list[str]:
        """Files found unreadable so far, each with the reason; another image stood in for them."""

    def __len__(self) -> int: ...

    def sizes(self, indices: Tensor) -> Tensor:
        """(height, width) of each image, int64 [B, 2], from the header or the index: nothing is decoded."""

    def pixels(self, indices: Tensor) -> Tensor:
        """uint8 [B, C, H, W], on the device that holds the images. Only where `size` is set."""

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        """Each image decoded once and cut into len(boxes) squares: one uint8 [B, C, s, s] a view. Where `size` is None.

        boxes: float [B, 4] a view, (top, left, height, width) in pixels, resized with antialiasing to `sizes[view]`.
        """

    def labels(self, indices: Tensor) -> Tensor:
        """int64 [B] (-1: unknown); or float [B, K] for multi-label data: 1, 0, or -1 for unknown."""


class Subset:
    """The images of `base` at `numbers`, int64 [N], in that order, as a source of its own."""

    def __init__(self, base: Source, numbers: Tensor, name: str) -> None:
        self.base, self.numbers, self.name = base, numbers, name
        self.fingerprint = f"{base.fingerprint}-{name.rsplit('/', 1)[-1]}{len(numbers)}"
        self.members = hashlib.sha256(base.members.encode() + numbers.cpu().numpy().tobytes()).hexdigest()
        self.num_classes, self.class_names, self.channels = base.num_classes, base.class_names, base.channels
        self.size, self.mean, self.std = base.size, base.mean, base.std

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def bad(self) -> list[str]:
        return self.base.bad

    def _base(self, indices: Tensor) -> Tensor:
        return self.numbers[indices.to(self.numbers.device, non_blocking=True)]

    def sizes(self, indices: Tensor) -> Tensor:
        return self.base.sizes(self._base(indices))

    def pixels(self, indices: Tensor) -> Tensor:
        return self.base.pixels(self._base(indices))

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        return self.base.crops(self._base(indices), boxes, sizes, interpolation)

    def labels(self, indices: Tensor) -> Tensor:
        return self.base.labels(self._base(indices))


def labelled(source: Source) -> Source:
    """The images whose class is known, or of several labels every one; `source` itself where all are."""
    labels = all_labels(source)
    known = labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1)
    return source if bool(known.all()) else Subset(source, torch.nonzero(known)[:, 0], source.name)


def all_labels(source: Source) -> Tensor:
    """The labels of a whole source, int64 [N] or float [N, K], on the CPU."""
    return source.labels(torch.arange(len(source))).cpu()
