"""A directory of images as a Source: nothing is moved or converted, or decoded before it is needed."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_cls.data import scan
from ssl_cls.data.decode import cut
from ssl_cls.errors import UserError

_NAMED = 5  # files that a refusal names

# ImageNet's, which photographs come close to; for grey, of its luma
_STATISTICS: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    1: ((0.459,), (0.226,)),
}


class Index(NamedTuple):
    """The images of one split whose headers could be read, in the order of their paths."""

    paths: np.ndarray[tuple[int], np.dtype[np.bytes_]]  # relative to the root; as one array, workers can share them
    sizes: Tensor  # int64 [N, 2]: height, width, the right way up
    labels: Tensor  # int64 [N], -1 where there is none
    class_names: list[str] | None
    channels: int
    fingerprint: str
    bad: list[str]  # "path: reason" of the others


class Folder:
    """The images of one split.

    An image that cannot be decoded is replaced by the next one of its label, always by the same; `bad` gets
    its path and the reason. Who uses the images holds that against `max_bad_fraction`, with `refuse_bad`.
    """

    size: tuple[int, int] | None = None

    def __init__(self, name: str, root: Path, index: Index) -> None:
        self.name, self.root, self._index = name, root, index
        self.fingerprint, self.channels, self.class_names = (
            index.fingerprint,
            index.channels,
            index.class_names,
        )
        self.num_classes = len(index.class_names) if index.class_names else None
        self.mean, self.std = _STATISTICS[index.channels]
        self.bad = list(index.bad)
        self._undecodable: set[int] = set()

    def __len__(self) -> int:
        return len(self._index.paths)

    def sizes(self, indices: Tensor) -> Tensor:
        return self._index.sizes[indices.cpu()]

    def labels(self, indices: Tensor) -> Tensor:
        return self._index.labels[indices.cpu()]

    def pixels(self, indices: Tensor) -> Tensor:
        raise NotImplementedError("images of different sizes are taken with crops()")

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        """See Source.

        Raises:
            UserError: not one image of a label can be decoded.
        """
        extents = self.sizes(indices).repeat(1, 2)
        fractions = torch.stack([box.cpu().double() / extents for box in boxes], 1).tolist()
        cuts = [
            self._cut(index, own, sizes, interpolation) for index, own in zip(indices.tolist(), fractions, strict=True)
        ]
        return [torch.stack(view) for view in zip(*cuts, strict=True)]

    def _cut(self, index: int, boxes: list[list[float]], sizes: list[int], interpolation: str) -> list[Tensor]:
        for candidate in self._stand_ins(index):
            if candidate in self._undecodable:
                continue
            path = os.fsdecode(bytes(self._index.paths[candidate]))
            try:
                return cut(self.root / path, self.channels, boxes, sizes, interpolation)
            except Exception as error:  # decoders raise what they like on damaged bytes
                self._undecodable.add(candidate)
                self.bad.append(f"{scan.shown(path)}: {error}")
        names = "\n  ".join(self.bad[:_NAMED])
        raise UserError(f"no image of one label can be decoded:\n  {names}", str(self.root), "replace or remove them")

    def _stand_ins(self, index: int) -> Iterator[int]:
        """The image itself, then those of its label from the next one on: what a label says stays true."""
        yield index
        alike = torch.nonzero(self._index.labels == self._index.labels[index])[:, 0]
        here = int(torch.searchsorted(alike, index))
        yield from alike.roll(-here)[1:].tolist()


def refuse_bad(bad: Sequence[str], total: int, max_bad_fraction: float, where: str) -> None:
    """Raise a UserError if `bad` ("path: reason" each) is more than that fraction of `total` images."""
    if len(bad) <= max_bad_fraction * total:
        return
    names = "\n  ".join([*sorted(bad)[:_NAMED], *(["..."] if len(bad) > _NAMED else [])])
    raise UserError(
        f"{len(bad)} of {total} images cannot be read, more than {max_bad_fraction:.2%}:\n  {names}",
        where,
        "replace or remove them, or allow more with data.max_bad_fraction=",
    )


def open_folder(root: Path, split: str, max_bad_fraction: float) -> Folder:
    """The images below `root` that belong to `split`.

    Labels are the first-level sub-folders, where there are two or more. Splits: if all sub-folders are named
    train, val or test, and train is there, they are the splits, and labels are looked for inside them. A
    split that has no folder is carved from the images of train, or from all: test a fifth, val a tenth of the
    rest, by a hash of the path, so that adding images moves no other image from one split to another.

    Images are grey if all of all splits are, else RGB.

    Raises:
        UserError: no such folder, no right to read it, no images in this split, a class that train does not
            have, or too many images whose headers cannot be read.
    """
    paths = scan.image_files(root)
    splits, classes, class_names = scan.places(paths)
    stamped = scan.stamps(root, paths)
    shapes, faults = scan.headers(root, stamped)
    members = [number for number, own in enumerate(splits) if own == split]
    chosen = [number for number in members if not faults[number]]
    bad = [f"{scan.shown(paths[number])}: {faults[number]}" for number in members if faults[number]]
    refuse_bad(bad, len(members), max_bad_fraction, str(root))
    if not chosen:
        fix = "add images, or give each split its folder: train/, val/ and test/"
        raise UserError(f"none of the {len(paths)} images is in the {split} split", str(root), fix)
    numbers = {name: number for number, name in enumerate(class_names)}
    index = Index(
        np.array([os.fsencode(paths[number]) for number in chosen]),
        torch.from_numpy(shapes[chosen, :2]).long(),
        torch.tensor([numbers.get(classes[number], -1) for number in chosen]),
        [scan.shown(name) for name in class_names] or None,
        1 if shapes[[not fault for fault in faults], 2].all() else 3,
        hashlib.sha256("\n".join(stamped[number] for number in chosen).encode(errors="surrogateescape")).hexdigest(),
        bad,
    )
    return Folder(f"{root.resolve().name}/{split}", root, index)
