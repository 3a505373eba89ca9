"""Image files as a Source, wherever they lie: nothing is moved or converted, or decoded before it is needed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_cls.data.decode import cut, stacked
from ssl_cls.data.planes import Encoded, Window
from ssl_cls.errors import UserError

_NAMED = 5  # files that a refusal names


@dataclass(frozen=True)
class Store:
    """Encoded images by number: files of their own, or slices of larger ones (tar shards).

    Arrays and not lists, so that decoding processes share them.

    Args:
        root: what `paths` are relative to.
        paths: bytes [N], one a file, or one a slice's name.
        containers: the larger files, relative to `root`; empty where each image is a file of its own.
        slices: int64 [N, 3]: which container, first byte, number of bytes.
    """

    root: Path
    paths: NDArray[np.bytes_]
    containers: tuple[str, ...] = ()
    slices: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, number: int) -> str:
        return os.fsdecode(bytes(self.paths[number]))

    def encoded(self, number: int) -> Encoded:
        if self.slices is None:
            return self.root / self.path(number)
        container, start, size = self.slices[number].tolist()
        with (self.root / self.containers[container]).open("rb") as file:
            file.seek(start)
            return bytes(file.read(size))

    def stamp(self, number: int) -> str:
        """What changes when the image does: path, size and time, separated by NUL; no time where it is not there."""
        where = self.path(number)
        try:
            if self.slices is None:
                status = (self.root / where).stat()
                return f"{where}\0{status.st_size}\0{status.st_mtime_ns}"
            container, start, size = self.slices[number].tolist()
            status = (self.root / self.containers[container]).stat()
            return f"{where}\0{start}+{size}\0{status.st_mtime_ns}"
        except OSError:  # a broken link, of which the header will tell
            return f"{where}\0"

    def chosen(self, numbers: Sequence[int]) -> "Store":
        slices = None if self.slices is None else self.slices[list(numbers)]
        return Store(self.root, self.paths[list(numbers)], self.containers, slices)


@dataclass(frozen=True)
class Index:
    """The images of one split whose headers could be read."""

    store: Store
    sizes: Tensor  # int64 [N, 2]: height, width, the right way up
    labels: Tensor  # int64 [N], -1 where there is none; or float [N, K]
    class_names: list[str] | None
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    members: str
    bad: list[str]  # "path: reason" of the others
    window: Window | None = None


class Files:
    """The images of one split.

    An image that cannot be decoded is replaced by the next one of its label, always by the same; `bad` gets
    its path and the reason. Who uses the images holds that against `max_bad_fraction`, with `refuse_bad`.
    """

    size: tuple[int, int] | None = None

    def __init__(self, name: str, index: Index) -> None:
        self.name, self.store, self._index = name, index.store, index
        self.fingerprint, self.channels, self.class_names = index.fingerprint, index.channels, index.class_names
        self.members = index.members
        self.num_classes = len(index.class_names) if index.class_names else None
        self.mean, self.std, self.window = index.mean, index.std, index.window
        self.bad = list(index.bad)
        self._undecodable: set[int] = set()

    def __len__(self) -> int:
        return len(self.store)

    def paths(self) -> list[str]:
        """Where each image lies, below the root: what a person calls it."""
        return [self.store.path(number) for number in range(len(self))]

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
        return stacked(cuts)

    def _cut(self, index: int, boxes: list[list[float]], sizes: list[int], interpolation: str) -> list[Tensor]:
        store = self.store
        for candidate in self._stand_ins(index):
            if candidate in self._undecodable:
                continue
            try:
                return cut(store.encoded(candidate), self.channels, boxes, sizes, interpolation, self.window)
            except Exception as error:  # decoders raise what they like on damaged bytes
                self._undecodable.add(candidate)
                self.bad.append(f"{shown(store.path(candidate))}: {error}")
        names = "\n  ".join(self.bad[:_NAMED])
        raise UserError(f"no image of one label can be decoded:\n  {names}", str(store.root), "replace or remove them")

    def _stand_ins(self, index: int) -> Iterator[int]:
        """The image itself, then those of its label from the next one on: what a label says stays true."""
        yield index
        same = self._index.labels == self._index.labels[index]
        alike = torch.nonzero(same if same.ndim == 1 else same.all(1))[:, 0]
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


def shown(path: str) -> str:
    """A file's name may hold any bytes: those that are not UTF-8, or would steer a terminal, as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)


def below(name: str, where: str) -> str:
    """`name` as a path relative to a data set's folder, from a list or archive that others may have written.

    Raises:
        UserError: it leads out of that folder, or is no path. `where` is the file that says so.
    """
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or not path.parts:
        raise UserError(f"{shown(name[:200])!r} is no path below the data set's folder", where, "correct or remove it")
    return str(path)
