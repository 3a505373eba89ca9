"""Images of one size that live in memory as one uint8 array."""

import hashlib

import torch
from torch import Tensor

from ssl_cls.rng import DrawKey, bits

_EPOCH = -1  # keeps the draws of splits apart from training's draws, whose epochs are never negative


class Arrays:
    """A Source whose images are one tensor.

    Args:
        name: "fashion_mnist/train".
        images: uint8 [N, C, H, W], on the device that is to hold them.
        labels: int64 [N], -1 where there is none; or float [N, K].
        class_names: of labels 0, 1, ...; None: there are no labels.
        mean, std: per channel, of the training pixels in [0, 1].
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        class_names: list[str] | None,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.name, self._images, self._labels = name, images, labels.cpu()
        self.class_names = class_names
        self.num_classes = len(class_names) if class_names else None
        self.mean, self.std = mean, std
        self.bad: list[str] = []  # arrays are checked as a whole
        self.channels = images.shape[1]
        self.size: tuple[int, int] | None = (images.shape[2], images.shape[3])
        digest = hashlib.sha256(images.cpu().numpy().data)
        self.members = digest.hexdigest()
        digest.update(self._labels.numpy().data)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def sizes(self, indices: Tensor) -> Tensor:
        return torch.tensor(self.size).expand(len(indices), 2)

    def pixels(self, indices: Tensor) -> Tensor:
        return self._images[indices.to(self._images.device, non_blocking=True)]

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        raise NotImplementedError("images of one size are taken with pixels()")

    def labels(self, indices: Tensor) -> Tensor:
        return self._labels[indices.cpu()]


def carve(members: Tensor, count: int, draw: int) -> tuple[Tensor, Tensor]:
    """Split sample indices, int64 [N], into (rest, the `count` with the smallest hash), both ascending."""
    order = members[bits(DrawKey(0, _EPOCH), members, draw, 1)[:, 0].argsort()]
    return order[count:].sort().values, order[:count].sort().values
