"""Sign-Language-MNIST: a CSV file with a label and 784 pixels a line."""

from pathlib import Path

import numpy as np
import torch

from ssl_cls.data.entry import Part
from ssl_cls.errors import UserError

_SIDE = 28
_LETTERS = "ABCDEFGHIKLMNOPQRSTUVWXY"  # J and Z are movements; in the file, J's number 9 is left free


def sign_language_mnist(folder: Path, part: str) -> Part:
    """uint8 [N, 1, 28, 28]; 24 classes, numbered without the gap that the file leaves for J."""
    path = folder / f"sign_mnist_{part}.csv"
    try:
        with path.open(encoding="utf-8") as file:
            header = file.readline().strip().split(",")
            values = np.loadtxt(file, np.int64, delimiter=",", ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read as numbers: {error}", str(path), "put the file there as published") from error
    labels, pixels = values[:, 0], values[:, 1:]
    if header[0] != "label" or pixels.shape[1] != _SIDE**2 or pixels.min() < 0 or pixels.max() > 255:
        raise UserError(f"not a label and {_SIDE**2} pixels a line", str(path), "put the file there as published")
    numbers = {ord(letter) - ord("A"): number for number, letter in enumerate(_LETTERS)}
    if strange := sorted(set(labels.tolist()) - set(numbers)):
        raise UserError(f"a label of {strange[0]}, which is no letter", str(path), "put the file there as published")
    images = torch.from_numpy(pixels.astype(np.uint8).reshape(-1, 1, _SIDE, _SIDE))
    return Part(images, torch.tensor([numbers[label] for label in labels.tolist()]), list(_LETTERS))
