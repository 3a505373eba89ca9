"""A pack: the images of a data set, decoded once and for all, as one file of pixels that memory maps; see `pack`.

pack.json       format, size, channels, class names, mean, std, splits; what could not be decoded and is left out
sums.json       first byte, end and SHA-256 of each part of the pixels
pixels.bin      uint8, an image [H, W, C] after another
starts.npy      int64 [N]: the first byte of each
sizes.npy       int32 [N, 2]: height, width
labels.npy      int64 [N], or float32 [N, K]
paths.npy       bytes [N]: the file each was
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_cls.data.decode import cut_pixels, stacked
from ssl_cls.errors import NoImagesError, UserError

FORMAT = 1
ON_DEVICE = 2 * 2**30  # bytes: a pack's split up to this lives where it is trained on
HEAD, SUMS, PIXELS = "pack.json", "sums.json", "pixels.bin"
_BATCHED_SIDE = 64  # images of one size up to this are cut all at once, where they are trained on (augment)


def is_pack(path: Path) -> bool:
    return (path / HEAD).is_file()


class Packed:
    """The images of one split of a pack, mapped: whatever its size it opens at once, and processes share it.

    Images of one small size, of ON_DEVICE bytes at most, are copied to `device` where it has a memory of its own.

    Raises:
        NoImagesError: none in this split.
        UserError: a pack of another format, or one that has been changed.
    """

    def __init__(self, root: Path, split: str, device: torch.device = torch.device("cpu")) -> None:  # noqa: B008
        known = head(root)
        if split not in known["splits"]:
            fix = "pack the images again, with more of them or splits of their own"
            raise NoImagesError(f"the pack has no {split} split", str(root), fix)
        own = known["splits"][split]
        self.name = f"{root.resolve().name}/{split}"
        self.fingerprint: str = own["fingerprint"]
        self.members = self.fingerprint
        self.class_names: list[str] | None = known["class_names"]
        self.num_classes = len(self.class_names) if self.class_names else None
        self.channels: int = known["channels"]
        self.side: int = known["size"]  # of the shorter side, at most
        self.mean, self.std = tuple(known["mean"]), tuple(known["std"])
        self.bad: list[str] = []  # what could not be decoded was left out
        one = known["one_size"]
        self.size: tuple[int, int] | None = tuple(one) if one and max(one) <= _BATCHED_SIDE else None
        self._pixels: NDArray[np.uint8] = np.memmap(root / PIXELS, np.uint8, "r")
        members = slice(own["first"], own["last"])
        self._starts, self._sizes, self._labels, self._paths = (
            np.load(root / f"{name}.npy", mmap_mode="r", allow_pickle=False)[members]
            for name in ("starts", "sizes", "labels", "paths")
        )
        total = int(self._sizes[0].prod(dtype=np.int64)) * self.channels * len(self) if self.size else ON_DEVICE + 1
        fits = device.type != "cpu" and total <= ON_DEVICE
        self._resident = self._gathered(range(len(self))).to(device) if fits else None

    def __len__(self) -> int:
        return len(self._starts)

    def paths(self) -> list[str]:
        """The files that the images were, below the root of the data set."""
        return [os.fsdecode(bytes(path)) for path in self._paths]

    def sizes(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self._sizes[indices.cpu().numpy()]).long()

    def labels(self, indices: Tensor) -> Tensor:
        return torch.from_numpy(self._labels[indices.cpu().numpy()])

    def pixels(self, indices: Tensor) -> Tensor:
        if self._resident is not None:
            return self._resident[indices.to(self._resident.device)]
        return self._gathered(indices.tolist())

    def _gathered(self, indices: Iterable[int]) -> Tensor:
        images = [torch.from_numpy(np.array(self._image(index))) for index in indices]
        return torch.stack(images).permute(0, 3, 1, 2).contiguous()

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        extents = self.sizes(indices).repeat(1, 2)
        fractions = torch.stack([box.cpu().double() / extents for box in boxes], 1).tolist()
        cuts = [
            cut_pixels(self._image(index), self.channels, own, sizes, interpolation)
            for index, own in zip(indices.tolist(), fractions, strict=True)
        ]
        return stacked(cuts)

    def _image(self, index: int) -> NDArray[np.uint8]:
        """uint8 [H, W, C], not yet read."""
        (height, width), start = self._sizes[index].tolist(), int(self._starts[index])
        end = start + height * width * self.channels
        return self._pixels[start:end].reshape(height, width, self.channels)


def head(root: Path) -> dict[str, Any]:
    """What pack.json says.

    Raises:
        UserError: no pack that can be read, or one of another format or length.
    """
    fix = "pack the images again"
    try:
        known: dict[str, Any] = json.loads((root / HEAD).read_text(encoding="utf-8"))
        form, length = known["format"], known["bytes"]
        found = (root / PIXELS).stat().st_size
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a pack that can be read: {error}", str(root), fix) from error
    if form != FORMAT:
        raise UserError(f"a pack of format {form}, and this reads format {FORMAT}", str(root), fix)
    if found != length:
        raise UserError(f"the pack is damaged: {found:,} bytes of pixels, not {length:,}", str(root), fix)
    return known
