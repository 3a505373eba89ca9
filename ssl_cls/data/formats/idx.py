"""The MNIST family: images and labels in LeCun's IDX format, gzipped or not."""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from ssl_cls.data import fetch
from ssl_cls.data.entry import Part
from ssl_cls.errors import UserError

_MAX_BYTES = 2**30  # twice the largest, EMNIST's
_FILES = {"train": "train", "test": "t10k"}


def mnist(class_names: list[str], folder: Path, part: str) -> Part:
    """MNIST and what was made to replace it: uint8 [N, 1, 28, 28]."""
    return _part(folder, f"{_FILES[part]}-images-idx3-ubyte", f"{_FILES[part]}-labels-idx1-ubyte", class_names)


def fashion_mnist(class_names: list[str], folder: Path, part: str) -> Part:
    """Fashion-MNIST, fetched if need be: the default data set needs no command of its own."""
    return mnist(class_names, fetch.get(fetch.FASHION_MNIST, folder.parent), part)


def emnist(subset: str, class_names: list[str], first: int, folder: Path, part: str) -> Part:
    """EMNIST (Cohen et al. 2017), whose images are stored with rows and columns exchanged.

    first: the number of the first class in the file; letters count from 1.
    """
    stem = f"gzip/emnist-{subset}-{part}"
    stored = _part(folder, f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte", class_names, first)
    assert not isinstance(stored.images, list)
    return stored._replace(images=stored.images.transpose(2, 3).contiguous())


def _part(folder: Path, images_file: str, labels_file: str, class_names: list[str], first: int = 0) -> Part:
    images = torch.from_numpy(read_idx(folder / images_file, 3))[:, None]
    labels = torch.from_numpy(read_idx(folder / labels_file, 1)).long() - first
    if len(images) != len(labels) or not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise UserError(
            f"{len(images)} images do not go with these {len(labels)} labels",
            str(folder / labels_file),
            "delete both files and fetch them again",
        )
    return Part(images, labels, class_names)


def read_idx(path: Path, ndim: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A uint8 array of `ndim` axes from the IDX format: 0, 0, 8, ndim; big-endian lengths; values.

    From `path`, or where that is not there from `path`.gz, of which no more is unpacked than its header says.

    Raises:
        UserError: the header is another one, or the bytes are more or fewer than it says.
    """
    packed = path.with_name(f"{path.name}.gz")
    try:
        with gzip.open(packed) if packed.exists() and not path.exists() else path.open("rb") as file:
            start = file.read(4 + 4 * ndim)
            if len(start) < 4 + 4 * ndim or list(start[:4]) != [0, 0, 8, ndim]:
                raise _wrong(f"not an IDX file of unsigned bytes in {ndim} axes", path)
            shape = [int(length) for length in np.frombuffer(start[4:], ">u4")]
            size = int(np.prod(shape, dtype=object))
            values = bytearray(file.read(size + 1) if size <= _MAX_BYTES else b"")
    except (OSError, EOFError, zlib.error) as error:
        raise _wrong(f"cannot be read: {error}", path) from error
    if len(values) != size:
        raise _wrong(f"the header says {shape}, and {'more' if len(values) > size else 'fewer'} bytes follow", path)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _wrong(what: str, path: Path) -> UserError:
    return UserError(what, str(path), "delete it and fetch it again")
