"""Data sets whose arrays or labels are MATLAB files: SVHN, Flowers-102, Stanford Cars.

SciPy's reader makes arrays and structures only; objects and functions of MATLAB are never run or unpickled.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssl_cls.data.entry import Part
from ssl_cls.data.files import below
from ssl_cls.errors import UserError

_FLOWERS = {"train": "trnid", "val": "valid", "test": "tstid"}


def svhn(folder: Path, part: str) -> Part:
    """Netzer et al. 2011, cropped digits: uint8 [N, 3, 32, 32]. In the file, ten is the label of zero."""
    path = folder / f"{part}_32x32.mat"
    stored = read_mat(path, "X", "y")
    pixels, labels = np.asarray(stored["X"]), np.asarray(stored["y"]).reshape(-1).astype(np.int64)
    if pixels.dtype != np.uint8 or pixels.shape != (32, 32, 3, len(labels)) or not ((labels > 0) & (labels < 11)).all():
        raise UserError("not the cropped digits of SVHN", str(path), "delete it and fetch it again")
    images = torch.from_numpy(np.ascontiguousarray(pixels.transpose(3, 2, 0, 1)))
    return Part(images, torch.from_numpy(labels % 10), [str(digit) for digit in range(10)])


def flowers102(folder: Path, part: str) -> Part:
    """Nilsback and Zisserman 2008: jpg/image_00001.jpg and on, labels in imagelabels.mat, splits in setid.mat."""
    from torchvision.datasets import Flowers102  # the names are on the authors' page only, in no file

    labels = np.asarray(read_mat(folder / "imagelabels.mat", "labels")["labels"]).reshape(-1).astype(np.int64)
    numbers = np.asarray(read_mat(folder / "setid.mat", _FLOWERS[part])[_FLOWERS[part]]).reshape(-1).astype(np.int64)
    if len(numbers) and not 1 <= numbers.min() <= numbers.max() <= len(labels):
        raise UserError("a split has images that have no label", str(folder / "setid.mat"), "fetch both again")
    paths = [f"jpg/image_{number:05}.jpg" for number in numbers.tolist()]
    return Part(paths, torch.from_numpy(labels[numbers - 1] - 1), list(Flowers102.classes))


def stanford_cars(folder: Path, part: str) -> Part:
    """Krause et al. 2013: cars_train, cars_test, the devkit, and the labels of test, published later beside it."""
    annotations = "devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
    rows = np.atleast_1d(read_mat(folder / annotations, "annotations")["annotations"])
    names = read_mat(folder / "devkit/cars_meta.mat", "class_names")["class_names"]
    class_names = [str(name) for name in np.atleast_1d(names)]
    paths = [below(f"cars_{part}/{row['fname']}", str(folder / annotations)) for row in rows]
    labels = torch.tensor([int(row["class"]) - 1 for row in rows])
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise UserError("a label that has no name", str(folder / annotations), "fetch the devkit again")
    return Part(paths, labels, class_names)


def read_mat(path: Path, *variables: str) -> dict[str, Any]:
    """Variables of a MATLAB file, without the axes of length one that MATLAB puts around everything.

    Raises:
        UserError: not such a file, or without these variables.
    """
    from scipy.io import loadmat  # half a second to import, for few data sets

    fix = "delete it and fetch it again"
    try:
        stored: dict[str, Any] = loadmat(str(path), squeeze_me=True, variable_names=variables)
    except Exception as error:  # damaged files make the reader raise what it likes
        raise UserError(f"not a MATLAB file that can be read: {error}", str(path), fix) from error
    if missing := [name for name in variables if name not in stored]:
        raise UserError(f"has no variable {missing[0]}", str(path), fix)
    return stored
