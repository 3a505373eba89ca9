"""CIFAR-10 and CIFAR-100 in their binary version; the other two versions would have to be unpickled."""

from pathlib import Path

import numpy as np
import torch

from ssl_cls.data.entry import Part
from ssl_cls.errors import UserError

_PIXELS = 3 * 32 * 32


def cifar10(folder: Path, part: str) -> Part:
    """Krizhevsky 2009: records of a label and 3,072 pixels, uint8 [N, 3, 32, 32]."""
    inner = folder / "cifar-10-batches-bin"
    files = ["test_batch.bin"] if part == "test" else [f"data_batch_{n}.bin" for n in range(1, 6)]
    return _part([inner / name for name in files], 1, inner / "batches.meta.txt")


def cifar100(folder: Path, part: str) -> Part:
    """The same with two labels a record: the superclass, which is not used, and the class."""
    inner = folder / "cifar-100-binary"
    return _part([inner / f"{part}.bin"], 2, inner / "fine_label_names.txt")


def _part(paths: list[Path], label_bytes: int, names: Path) -> Part:
    records = np.concatenate([_records(path, label_bytes) for path in paths])
    class_names = names.read_text(encoding="utf-8").split()
    labels = torch.from_numpy(records[:, label_bytes - 1].astype(np.int64))
    if int(labels.max()) >= len(class_names):
        raise UserError(f"a label of {int(labels.max())}, and {len(class_names)} names of classes", str(names), _FIX)
    return Part(torch.from_numpy(records[:, label_bytes:].reshape(-1, 3, 32, 32)), labels, class_names)


def _records(path: Path, label_bytes: int) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    raw = np.fromfile(path, np.uint8)
    if not len(raw) or len(raw) % (label_bytes + _PIXELS):
        raise UserError(f"{len(raw)} bytes are not whole records of {label_bytes + _PIXELS}", str(path), _FIX)
    return raw.reshape(-1, label_bytes + _PIXELS)


_FIX = "delete the folder and fetch it again; the file must be of the binary version"
