"""Images as arrays: .npy files and TIFFs of any number of channels, and how deep pixels become 8-bit ones."""

import io
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Encoded = Path | bytes  # a file, or the bytes of one
Window = tuple[float, float]

SIXTEEN_BIT: Window = (0, 65535)
_NPY, _TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# TIFF 6.0, sections 4 and 18
_BITS_PER_SAMPLE, _PHOTOMETRIC, _DESCRIPTION, _SAMPLES_PER_PIXEL, _EXTRA_SAMPLES = 258, 262, 270, 277, 338
_RGB = 2
_MAX_PAGES = 32  # that are taken for channels
_MAX_CHANNELS = 1024
_MAX_VALUES = 2**28  # of one array: about what Pillow allows an RGB image


def holds_planes(encoded: Encoded) -> bool:
    """Whether this is a .npy array, or a TIFF of which Pillow would not show all channels as deep as they are."""
    if isinstance(encoded, Path) and encoded.suffix.lower() not in (".npy", ".tif", ".tiff"):
        return False
    with _stream(encoded) as file:
        start = file.read(8)
        return start.startswith(_NPY) or (start.startswith(_TIFF) and not _pillow_shows_all(file))


def shape(encoded: Encoded) -> tuple[int, int, int]:
    """(height, width, channels), from the header.

    An array is [H, W], [H, W, C] or [C, H, W]; of the last two, the shorter outer axis counts the channels.

    Raises:
        ValueError: another kind of array, or one too large.
    """
    return _laid_out(_stored_shape(encoded))[0]


def read(encoded: Encoded) -> NDArray[Any]:
    """The array as [H, W, C], whatever its layout.

    Raises:
        ValueError: as `shape`; also where fewer values follow than the header says.
    """
    (height, width, channels), order = _laid_out(_stored_shape(encoded))
    with _stream(encoded) as file:
        array: NDArray[Any] = np.load(file, allow_pickle=False) if _is_npy(file) else _tiff(file).asarray()
    return (array.transpose(order) if order else array).reshape(height, width, channels)


def eight_bit(values: NDArray[Any], window: Window | None) -> NDArray[np.uint8]:
    """Values from `window` to 0..255, rounded; those outside of it are cut off. 8-bit values stay as they are.

    Without a window, 16-bit values are taken from 0 to 65535, and yes/no from 0 to 1.

    Raises:
        ValueError: other types, whose range nothing says.
    """
    if values.dtype == np.uint8:
        return values
    if window is None and values.dtype == np.uint16:
        window = SIXTEEN_BIT
    if window is None and values.dtype == np.bool_:
        window = (0, 1)
    if window is None:
        raise ValueError(
            f"{values.dtype} pixels, of no known range: say which are black and white, data.window=[LOW,HIGH]"
        )
    low, high = window
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    if not np.isfinite(scaled).all():
        raise ValueError("pixels that are not finite numbers")
    return np.floor(scaled + 0.5).clip(0, 255).astype(np.uint8)


def _stored_shape(encoded: Encoded) -> tuple[int, ...]:
    with _stream(encoded) as file:
        if not _is_npy(file):
            return tuple(_tiff(file).shape)
        version = np.lib.format.read_magic(file)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        found, _, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("an array of objects, which only unpickling could read")
    return found


def _laid_out(found: tuple[int, ...]) -> tuple[tuple[int, int, int], tuple[int, ...] | None]:
    """(height, width, channels) of an array's shape, and the axes in that order where they are not."""
    if len(found) not in (2, 3) or not all(found) or math.prod(found) > _MAX_VALUES:
        raise ValueError(f"an array of shape {found} is no image")
    if len(found) == 2:
        return (found[0], found[1], 1), None
    first = found[0] < found[2]
    order = (1, 2, 0) if first else None
    height, width, channels = (found[axis] for axis in order or (0, 1, 2))
    if channels > _MAX_CHANNELS:
        raise ValueError(f"an array of shape {found} is no image")
    return (height, width, channels), order


def _is_npy(file: IO[bytes]) -> bool:
    start = file.read(len(_NPY))
    file.seek(0)
    return start == _NPY


def _tiff(file: IO[bytes]) -> Any:
    """The first series of a TIFF, whose `shape` and `asarray` tifffile reads. Pages of it are channels.

    Raises:
        ValueError: they may be something else, or tifffile is not installed.
    """
    try:
        import tifffile  # an extra: only such files need it
    except ImportError as error:
        raise ValueError("TIFFs of deep colours or other channels need tifffile: pip install tifffile") from error
    series = tifffile.TiffFile(file).series[0]
    # I: pages of which nothing is said; Z and T: depths and times
    if len(series.shape) > 2 and (set(series.axes) & set("IZT") or min(series.shape) > _MAX_PAGES):
        raise ValueError(
            f"{len(series)} pages that are not said to be channels: save the one that is meant, or all as one .npy"
        )
    return series


def _pillow_shows_all(file: IO[bytes]) -> bool:
    """Whether a TIFF is one of 8-bit colour or grey of any depth, of one page, or of pages of other sizes or colours.

    Pillow takes unnamed channels for padding, reduces deep colours by 256, and shows one page.
    """
    file.seek(0)
    try:
        with Image.open(file) as image:
            tags = getattr(image, "tag_v2", {})
            if 0 in tags.get(_EXTRA_SAMPLES, ()):
                return False
            samples = int(tags.get(_SAMPLES_PER_PIXEL, 1))
            if samples == 3 and tags.get(_PHOTOMETRIC) == _RGB and max(tags.get(_BITS_PER_SAMPLE, (1,))) > 8:
                return False
            return samples > 1 or not _has_more_planes(image)
    except UnidentifiedImageError:
        return False


def _has_more_planes(image: Image.Image) -> bool:
    """Whether a page of one channel is followed by one like it, or has others' pixels behind its own, as ImageJ's."""
    if "\nimages=" in str(getattr(image, "tag_v2", {}).get(_DESCRIPTION, "")):
        return True
    first = (image.size, image.mode)
    try:
        image.seek(1)
    except EOFError:
        return False
    return (image.size, image.mode) == first


def _stream(encoded: Encoded) -> IO[bytes]:
    return io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded.open("rb")
