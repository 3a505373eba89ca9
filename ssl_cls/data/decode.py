"""One encoded image to 8-bit pixels the right way up: grey or RGB by Pillow, other planes by `planes`."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ssl_cls.data import planes
from ssl_cls.data.planes import Encoded, Window

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
    channels: int  # 1 or 3 as Pillow decodes it; of arrays their own number


def read_header(encoded: Encoded) -> Header:
    """Size and kind, without decoding.

    Raises:
        Exception: whatever Pillow raises for a file that it cannot read, or one that would fill the memory.
    """
    if planes.holds_planes(encoded):
        return Header(*planes.shape(encoded))
    with _opened(encoded) as image:
        width, height = image.size
        if _orientation(image) >= 5:
            width, height = height, width
        return Header(height, width, 1 if image.mode in _GRAY_MODES else 3)


def cut(
    encoded: Encoded,
    channels: int,
    boxes: Sequence[Sequence[float]],
    sizes: list[int],
    interpolation: str,
    window: Window | None = None,
) -> list[Tensor]:
    """Decode once, and cut and resize one square a box: uint8 [channels, s, s] each.

    boxes: (top, left, height, width) as fractions of the image's height and width; cut off at its edges.
    Resized with antialiasing: for boxes of whole pixels, exactly torchvision's resized crop of PIL images.
    window: which values of deeper than 8-bit pixels become 0 and 255; see `planes.eight_bit`.

    Raises:
        Exception: as read_header; also for pixels whose range neither their type nor `window` says.
    """
    if planes.holds_planes(encoded):
        pixels = planes.eight_bit(planes.read(encoded), window)
        return _cut_planes(pixels, channels, boxes, sizes, interpolation)
    with _opened(encoded) as stored:
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
        image: Image.Image = _eight_bit(stored, channels, window)
    if turned in _UPRIGHT:
        image = image.transpose(_UPRIGHT[turned])
    if turned >= 5:
        width, height = height, width
    return [
        _crop(image, (x * width, t * height, (x + w) * width, (t + h) * height), s, interpolation)
        for (t, x, h, w), s in zip(boxes, sizes, strict=True)
    ]


def _cut_planes(
    pixels: "np.ndarray[Any, np.dtype[np.uint8]]",
    channels: int,
    boxes: Sequence[Sequence[float]],
    sizes: list[int],
    interpolation: str,
) -> list[Tensor]:
    """The same of an array, uint8 [H, W, C]: each plane is an image of its own."""
    height, width, own = pixels.shape
    if own not in (1, channels):
        raise ValueError(f"{own} channels among images of {channels}")
    images = [Image.fromarray(np.ascontiguousarray(pixels[..., plane])) for plane in range(own)]
    cuts = []
    for (t, x, h, w), s in zip(boxes, sizes, strict=True):
        edges = (x * width, t * height, (x + w) * width, (t + h) * height)
        cuts.append(torch.cat([_crop(image, edges, s, interpolation) for image in images]))
    return [made.expand(channels, -1, -1) for made in cuts]


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


def _eight_bit(image: Image.Image, channels: int, window: Window | None) -> Image.Image:
    """Deep pixels by `window`, transparency onto white, everything else by Pillow's conversion."""
    if image.mode.startswith("I"):  # Pillow's own conversion cuts off at 255; its 32-bit ones hold 16-bit pixels
        image = Image.fromarray(planes.eight_bit(np.asarray(image), window or planes.SIXTEEN_BIT))
    if image.mode == "F":
        image = Image.fromarray(planes.eight_bit(np.asarray(image), window))
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
def _opened(encoded: Encoded) -> Iterator[Image.Image]:
    try:
        image = Image.open(io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded)
    except UnidentifiedImageError as error:
        raise ValueError("no kind of image that Pillow knows") from error
    with image:
        # Pillow itself goes on with a warning up to twice its limit
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels are too many")
        yield image
