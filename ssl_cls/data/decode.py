"""One encoded image to 8-bit pixels the right way up: grey or RGB by Pillow, other planes by `planes`."""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import get_worker_info

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
    if isinstance(encoded, Path) and encoded.exists() and not encoded.is_file():
        raise ValueError("a pipe, a socket or a device, no file")  # which could be read from for ever
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
    Resized with antialiasing: for boxes of whole pixels, torchvision's resized crop of PIL images,
    to 2 of 255 levels.
    window: which values of deeper than 8-bit pixels become 0 and 255; see `planes.eight_bit`.

    Raises:
        Exception: as read_header; also for pixels whose range neither their type nor `window` says.
    """
    if planes.holds_planes(encoded):
        pixels = planes.eight_bit(planes.read(encoded), window)
        return cut_pixels(pixels, channels, boxes, sizes, interpolation)
    with _opened(encoded) as stored:
        extent = stored.size if _orientation(stored) < 5 else stored.size[::-1]
        finest = max(s / min(w * extent[0], h * extent[1]) for (_, _, h, w), s in zip(boxes, sizes, strict=True))
        image, width, height = _decoded(stored, channels, window, finest)
    crops = []
    for (t, x, h, w), s in zip(boxes, sizes, strict=True):
        crop = _Crop.of((x * width, t * height, (x + w) * width, (t + h) * height), image.width, image.height)
        inner = np.array(image.crop(crop.pixels))
        crops.append(crop.resized(inner.reshape(*inner.shape[:2], -1), s, interpolation))
    return crops


def cut_pixels(
    pixels: NDArray[np.uint8], channels: int, boxes: Sequence[Sequence[float]], sizes: list[int], interpolation: str
) -> list[Tensor]:
    """The same of decoded pixels, uint8 [H, W, C]; of which only those below the boxes are read.

    Raises:
        ValueError: another number of channels, that is not one.
    """
    height, width, own = pixels.shape
    if own not in (1, channels):
        raise ValueError(f"{own} channels among images of {channels}")
    crops = []
    for (t, x, h, w), s in zip(boxes, sizes, strict=True):
        crop = _Crop.of((x * width, t * height, (x + w) * width, (t + h) * height), width, height)
        left, top, right, bottom = crop.pixels
        inner = np.array(pixels[top:bottom, left:right])  # a copy: what is mapped cannot be written to, nor be a tensor
        crops.append(crop.resized(inner, s, interpolation).expand(channels, -1, -1))
    return crops


def stacked(cuts: Sequence[list[Tensor]]) -> list[Tensor]:
    """The crops of each image to uint8 [B, C, s, s] a view; in a decoding process where the main one reads them."""
    views = list(zip(*cuts, strict=True))
    if get_worker_info() is None:
        return [torch.stack(view) for view in views]
    made = []
    for view in views:
        shared = torch.UntypedStorage._new_shared(sum(crop.numel() for crop in view))  # type: ignore[no-untyped-call]
        into = torch.empty(0, dtype=torch.uint8).set_(shared).view(len(view), *view[0].shape)
        made.append(torch.stack(view, out=into))
    return made


def reduced(
    encoded: Encoded, channels: int, height: int, width: int, window: Window | None = None
) -> NDArray[np.uint8]:
    """The whole image at another size: uint8 [height, width, channels]; as it is where that is its own size.

    Raises:
        Exception: as `cut`.
    """
    if planes.holds_planes(encoded):
        pixels = planes.eight_bit(planes.read(encoded), window)
        if pixels.shape[2] not in (1, channels):
            raise ValueError(f"{pixels.shape[2]} channels among images of {channels}")
        images = [Image.fromarray(np.ascontiguousarray(plane)) for plane in pixels.transpose(2, 0, 1)]
        box = (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))
    else:
        with _opened(encoded) as stored:
            finest = min(height, width) / min(stored.size)
            image, right, bottom = _decoded(stored, channels, window, finest)
        images, box = [image], (0.0, 0.0, right, bottom)
    made = [np.asarray(one.resize((width, height), Image.Resampling.BICUBIC, box)) for one in images]
    return np.broadcast_to(
        np.concatenate([one.reshape(height, width, -1) for one in made], 2), (height, width, channels)
    )


class _Crop(NamedTuple):
    """Nothing outside of `edges` has a part in it, but the pixels that they cut."""

    pixels: tuple[int, int, int, int]  # left, top, right, bottom: whole pixels that hold it
    box: tuple[float, float, float, float]  # within these

    @classmethod
    def of(cls, edges: tuple[float, float, float, float], width: int, height: int) -> "_Crop":
        """edges: left, top, right, bottom, cut off at those of an image of that size."""
        left, top, right, bottom = (round(edge, 3) for edge in edges)  # a whole number stays one after scaling
        left, right = max(0.0, left), min(width, right)
        top, bottom = max(0.0, top), min(height, bottom)
        x, y = math.floor(left), math.floor(top)
        return cls((x, y, math.ceil(right), math.ceil(bottom)), (left - x, top - y, right - x, bottom - y))

    def resized(self, inner: NDArray[np.uint8], size: int, interpolation: str) -> Tensor:
        """uint8 [C, size, size] of `inner`, [h, w, C], which holds just `pixels`."""
        if all(edge == round(edge) for edge in self.box):
            # torch's uint8 kernel is Pillow's algorithm in vector instructions: twice as fast, 2 of 255 levels apart
            pixels = torch.from_numpy(inner).permute(2, 0, 1)[None]
            return F.interpolate(pixels, (size, size), mode=interpolation, antialias=True)[0]
        planes = [inner] if inner.shape[2] == 3 else [inner[..., plane] for plane in range(inner.shape[2])]
        images = [Image.fromarray(np.ascontiguousarray(plane)) for plane in planes]
        made = [np.array(image.resize((size, size), _FILTERS[interpolation], box=self.box)) for image in images]
        return torch.from_numpy(np.concatenate([one.reshape(size, size, -1) for one in made], 2)).permute(2, 0, 1)


def _decoded(
    stored: Image.Image, channels: int, window: Window | None, finest: float
) -> tuple[Image.Image, float, float]:
    """8-bit pixels the right way up, and their width and height, which may be a part of a pixel less than whole.

    finest: the largest scale at which the image is to be shown.
    """
    turned = _orientation(stored)
    # Differs: torchvision's loader decodes a JPEG whole. Leaving out detail that no crop shows takes 1/2
    # of the time at 3 megapixels, 1/3 at 12; pixels change by 0.5 of 255 levels on average, 7 at most.
    keep = min(1.0, _OVERSAMPLING * finest)
    drafted = stored.draft(None, (math.ceil(stored.width * keep), math.ceil(stored.height * keep)))
    # the last row and column of a draft may stand for less than whole ones, so its size would not do
    width, height = drafted[1][2:] if drafted else stored.size
    if window and not stored.mode.startswith("I") and ";16" in str(getattr(stored, "tile", "")):
        raise ValueError("deep colours or transparency, of which Pillow keeps 8 bits and no window: save it as .npy")
    stored.load()
    image: Image.Image = _eight_bit(stored, channels, window)
    if turned in _UPRIGHT:
        image = image.transpose(_UPRIGHT[turned])
    return (image, height, width) if turned >= 5 else (image, width, height)


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
