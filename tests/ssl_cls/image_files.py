"""Pictures, written to files and read again."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssl_cls.data.files import Files
from ssl_cls.data.own import open_own

RNG = np.random.default_rng(0)


ORIENTATION = 0x0112


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(RNG.integers(0, 256, shape, np.uint8))


def smooth(height: int, width: int, grain: int) -> Image.Image:
    """Like a photograph, with little detail finer than `grain` pixels."""
    return noise(height // grain, width // grain).resize((width, height), Image.Resampling.BICUBIC)


def place(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def alone(path: Path, image: Image.Image, **options: object) -> Files:
    """A folder whose train split is this image, beside unrelated val and test images of the same kind."""
    for split in ("train", "val", "test"):
        place(path.parent / split / path.name, image, **options)
    return open_own(path.parent, "train", 0.0)


def whole(source: Files, index: int = 0, size: int | None = None) -> Tensor:
    """The image as it is, if it is square."""
    indices = torch.tensor([index])
    sizes = source.sizes(indices)
    box = torch.cat((torch.zeros(1, 2), sizes), 1)
    return source.crops(indices, [box], [size or int(sizes[0, 0])], "bilinear")[0][0]


def chw(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)


# --- pixels ---
