"""Data sets small enough to live in memory as one uint8 array: Fashion-MNIST and scikit-learn's digits."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_cls.data import fetch
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey, bits

_EPOCH = -1  # keeps the draws of splits apart from training's draws, whose epochs are never negative
_TEST, _VAL = 0, 1  # two independent draws

_FASHION_CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]


class Arrays:
    """A Source whose images are one tensor.

    Args:
        name: "fashion_mnist/train".
        images: uint8 [N, C, H, W], on the device that is to hold them.
        labels: int64 [N].
        class_names: of labels 0, 1, ...
        mean, std: per channel, of the training pixels in [0, 1].
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        class_names: list[str],
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.name, self._images, self._labels = name, images, labels.cpu()
        self.class_names: list[str] | None = class_names
        self.num_classes: int | None = len(class_names)
        self.mean, self.std = mean, std
        self.bad: list[str] = []  # arrays are checked as a whole
        self.channels = images.shape[1]
        self.size: tuple[int, int] | None = (images.shape[2], images.shape[3])
        digest = hashlib.sha256(images.cpu().numpy().data)
        digest.update(self._labels.numpy().data)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._images)

    def sizes(self, indices: Tensor) -> Tensor:
        return torch.tensor(self.size).expand(len(indices), 2)

    def pixels(self, indices: Tensor) -> Tensor:
        return self._images[indices.to(self._images.device)]

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        raise NotImplementedError("images of one size are taken with pixels()")

    def labels(self, indices: Tensor) -> Tensor:
        return self._labels[indices.cpu()]


def carve(members: Tensor, count: int, draw: int) -> tuple[Tensor, Tensor]:
    """Split sample indices, int64 [N], into (rest, the `count` with the smallest hash), both ascending."""
    order = members[bits(DrawKey(0, _EPOCH), members, draw, 1)[:, 0].argsort()]
    return order[count:].sort().values, order[:count].sort().values


def fashion_mnist(split: str, root: Path, device: torch.device) -> Arrays:
    """Fashion-MNIST (Xiao et al. 2017), fetched into `root` if need be: uint8 [N, 1, 28, 28].

    train is 54,000 and val 6,000 of the published 60,000 training images, test the published 10,000.
    """
    folder = fetch.get(fetch.FASHION_MNIST, root)
    part = "t10k" if split == "test" else "train"
    images = torch.from_numpy(read_idx(folder / f"{part}-images-idx3-ubyte", 3))[:, None]
    labels = torch.from_numpy(read_idx(folder / f"{part}-labels-idx1-ubyte", 1)).long()
    if len(images) != len(labels) or int(labels.max()) >= len(_FASHION_CLASSES):
        raise UserError(
            f"{len(images)} images do not go with these {len(labels)} labels",
            str(folder),
            "delete the folder, it is fetched again",
        )
    members = torch.arange(len(images))
    if split != "test":
        train, val = carve(members, len(images) // 10, _VAL)
        members = val if split == "val" else train
    # mean and std of the 60,000, to the four digits that everyone uses
    return Arrays(
        f"fashion_mnist/{split}",
        images[members].to(device),
        labels[members],
        _FASHION_CLASSES,
        (0.2860,),
        (0.3530,),
    )


def digits(split: str, root: Path, device: torch.device) -> Arrays:
    """scikit-learn's copy of the UCI handwritten digits, read from a CSV file it ships: uint8 [N, 1, 8, 8].

    Of 1,797 images, a fixed 359 are test, 144 val, 1,294 train. `root` is not used: nothing is fetched.
    """
    from sklearn.datasets import load_digits  # seconds to import, and only digits need it

    loaded = load_digits()
    images = torch.from_numpy(np.rint(loaded.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(loaded.target).long()
    rest, test = carve(torch.arange(len(images)), round(0.2 * len(images)), _TEST)
    train, val = carve(rest, round(0.1 * len(rest)), _VAL)
    members = {"train": train, "val": val, "test": test}[split]
    return Arrays(
        f"digits/{split}",
        images[members].to(device),
        labels[members],
        [str(d) for d in range(10)],
        (0.3053,),
        (0.3759,),
    )


def read_idx(path: Path, ndim: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A uint8 array of `ndim` axes from LeCun's IDX format: 0, 0, 8, ndim; big-endian lengths; values.

    Raises:
        UserError: the header is another one, or the bytes are more or fewer than it says.
    """
    raw = np.fromfile(path, np.uint8)
    start = 4 + 4 * ndim
    if len(raw) < start or raw[:4].tolist() != [0, 0, 8, ndim]:
        raise UserError(
            f"not an IDX file of unsigned bytes in {ndim} axes", str(path), "delete it, it is fetched again"
        )
    shape = [int(length) for length in raw[4:start].view(">u4")]
    if len(raw) - start != int(np.prod(shape, dtype=object)):
        raise UserError(
            f"the header says {shape}, which is not the {len(raw) - start} bytes that follow",
            str(path),
            "delete it, it is fetched again",
        )
    return raw[start:].reshape(shape)
