"""One image file, of any kind that Pillow reads, to 8-bit grey or RGB pixels the right way up."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

_GRAY_MODES = {"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_ORIENTATION = 0x0112
_UPRIGHT = {  # EXIF 2.32, 4.6.4 A: what undoes each orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
_OVERSAMPLING = 2  # times finer than its crops that a JPEG is decoded at least


class Header(NamedTuple):
    height: int  # the right way up
    width: int
    gray: bool


def read_header(path: Path) -> Header:
    """Size and kind, without decoding.

    Raises:
        Exception: whatever Pillow raises for a file that it cannot read, or one that would fill the memory.
    """
    with _opened(path) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return Header(height, width, image.mode in _GRAY_MODES)


def cut(
    path: Path, channels: int, boxes: Sequence[Sequence[float]], sizes: list[int], interpolation: str
) -> list[Tensor]:
    """Decode once, and cut and resize one square a box: uint8 [channels, s, s] each.

    boxes: (top, left, height, width) as fractions of the image's height and width; cut off at its edges.
    Resized with antialiasing: for boxes of whole pixels, exactly torchvision's resized crop of PIL images.

    Raises:
        Exception: as read_header; also for float pixels, whose range nothing says.
    """
    with _opened(path) as stored:
        turned = _orientation(stored)
        extent = stored.size if turned < 5 else stored.size[::-1]
        finest = max(s / min(w * extent[0], h * extent[1]) for (_, _, h, w), s in zip(boxes, sizes, strict=True))
        # Differs: torchvision's loader decodes a JPEG whole. Leaving out detail that no crop shows takes 1/2
        # of the time at 3 megapixels, 1/3 at 12; pixels change by 0.5 of 255 levels on average, 7 at most.
        keep = min(1.0, _OVERSAMPLING * finest)
        drafted = stored.draft(None, (math.ceil(stored.width * keep), math.ceil(stored.height * keep)))
        # the last row and column of a draft may stand for less than whole ones, so its size would not do
        width, height = drafted[1][2:] if drafted else stored.size
        stored.load()
        image: Image.Image = _eight_bit(stored, channels)
    if turned in _UPRIGHT:
        image = image.transpose(_UPRIGHT[turned])
    if turned >= 5:
        width, height = height, width
    return [
        _crop(image, (x * width, t * height, (x + w) * width, (t + h) * height), s, interpolation)
        for (t, x, h, w), s in zip(boxes, sizes, strict=True)
    ]


def _crop(image: Image.Image, edges: tuple[float, float, float, float], size: int, interpolation: str) -> Tensor:
    """Nothing outside of `edges` (left, top, right, bottom) has a part in it, but the pixels they cut."""
    left, top, right, bottom = (round(edge, 3) for edge in edges)  # a whole number stays one after scaling
    left, right = max(0.0, left), min(image.width, right)
    top, bottom = max(0.0, top), min(image.height, bottom)
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    box = (left - x, top - y, right - x, bottom - y)
    pixels = np.array(image.resize((size, size), _FILTERS[interpolation], box=box))
    return torch.from_numpy(pixels).view(size, size, -1).permute(2, 0, 1)


def _eight_bit(image: Image.Image, channels: int) -> Image.Image:
    """16 bits to 8, transparency onto white, everything else by Pillow's conversion."""
    if image.mode.startswith("I"):  # Pillow's own conversion cuts off at 255
        wide = np.asarray(image).clip(0, 65535).astype(np.uint32)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("float pixels, of no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if channels == 3 else "L")


def _orientation(image: Image.Image) -> int:
    """1 to 8, from the header. In a PNG it may come after the pixels: not looked for. Pillow turns TIFFs."""
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        value: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata of a picture that may be whole
        return 1
    return value if value in _UPRIGHT else 1


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        image = Image.open(path)
    except UnidentifiedImageError as error:
        raise ValueError("no kind of image that Pillow knows") from error
    with image:
        # Pillow itself goes on with a warning up to twice its limit
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels are too many")
        yield image
