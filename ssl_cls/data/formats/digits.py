"""scikit-learn's copy of the UCI handwritten digits, which needs no file of ours."""

from pathlib import Path

import numpy as np
import torch

from ssl_cls.data.arrays import carve
from ssl_cls.data.entry import Part

_TEST, _VAL = 0, 1  # two independent draws


def digits(folder: Path, part: str) -> Part:
    """uint8 [N, 1, 8, 8], read from a CSV file that scikit-learn ships; `folder` is not used.

    Of 1,797 images, a fixed 359 are test, 144 val, 1,294 train.
    """
    from sklearn.datasets import load_digits  # seconds to import, and only digits need it

    loaded = load_digits()
    images = torch.from_numpy(np.rint(loaded.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(loaded.target).long()
    rest, test = carve(torch.arange(len(images)), round(0.2 * len(images)), _TEST)
    train, val = carve(rest, round(0.1 * len(rest)), _VAL)
    members = {"train": train, "val": val, "test": test}[part]
    return Part(images[members], labels[members], [str(digit) for digit in range(10)])
