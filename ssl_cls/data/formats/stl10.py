"""STL-10 in its binary version."""

from pathlib import Path

import numpy as np
import torch

from ssl_cls.data.entry import Part
from ssl_cls.errors import UserError

_PIXELS = 3 * 96 * 96


def stl10(folder: Path, part: str) -> Part:
    """Coates et al. 2011: uint8 [N, 3, 96, 96], stored column by column; the part `unlabeled` has no labels.

    The file stays where it is and is read as its images are asked for: `unlabeled` is 2.8 GB.
    """
    inner = folder / "stl10_binary"
    path = inner / f"{part}_X.bin"
    if not path.stat().st_size or path.stat().st_size % _PIXELS:
        raise UserError("not whole images of 96 x 96 pixels", str(path), "delete the folder and fetch it again")
    stored = np.memmap(path, np.uint8, "c").reshape(-1, 3, 96, 96)  # "c": torch asks for memory that could be written
    images = torch.from_numpy(stored).transpose(2, 3)
    class_names = (inner / "class_names.txt").read_text(encoding="utf-8").split()
    if part == "unlabeled":
        return Part(images, torch.full((len(images),), -1), class_names)
    labels = torch.from_numpy(np.fromfile(inner / f"{part}_y.bin", np.uint8).astype(np.int64)) - 1
    if len(labels) != len(images) or int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise UserError("labels that do not go with the images", str(inner / f"{part}_y.bin"), "fetch it again")
    return Part(images, labels, class_names)
