"""Seventy files that a folder of images may hold, and what becomes of each: read, or counted and replaced."""

import io
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_cls.data.files import refuse_bad
from ssl_cls.data.own import open_own
from ssl_cls.errors import UserError

_SIDE = 24
_NOISE = np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 4), np.uint8)
_ORIENTATION = 0x0112

Maker = Callable[[Path], None]


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb() -> Image.Image:
    return Image.fromarray(_NOISE[..., :3])


def put(content: bytes) -> Maker:
    return lambda path: path.write_bytes(content) and None


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(width: int, height: int, pixels: bytes = b"", depth: int = 8) -> bytes:
    """A PNG whose header says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    return encoded(rgb(), kind, exif=exif)


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(np.full((_SIDE, _SIDE, 3), 40 * number, np.uint8)) for number in range(4)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:])


def transparent_palette() -> bytes:
    return encoded(rgb().quantize(8), "png", transparency=0)


_JPEG, _PNG = encoded(rgb(), "jpeg", quality=95), encoded(rgb(), "png")
_HTML = b"<!DOCTYPE html><html><body><script>alert(1)</script>404 not found</body></html>"
_DEEP = Image.fromarray(_NOISE[..., 0].astype(np.uint16) * 257)

# what is read, the first frame of it, the right way up, transparency on white, deep pixels by their whole range
READ: dict[str, Maker] = {
    **{f"turned {n}.jpg": put(turned("jpeg", n)) for n in range(1, 9)},
    "turned 6.png": put(turned("png", 6)),
    "turned by 99.jpg": put(turned("jpeg", 99)),
    "nonsense exif.jpg": put(encoded(rgb(), "jpeg", exif=b"Exif\0\0nonsense")),
    "endless exif.jpg": put(encoded(rgb(), "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
    "cmyk.jpg": put(encoded(rgb().convert("CMYK"), "jpeg")),
    "cmyk.tif": put(encoded(rgb().convert("CMYK"), "tiff")),
    "lab.tif": put(encoded(rgb().convert("LAB"), "tiff")),
    "ycbcr.tif": put(encoded(rgb().convert("YCbCr"), "tiff")),
    "sixteen bits.png": put(encoded(_DEEP, "png")),
    "sixteen bits.tif": put(encoded(_DEEP, "tiff")),
    "one bit.png": put(encoded(rgb().convert("1"), "png")),
    "grey.jpg": put(encoded(rgb().convert("L"), "jpeg")),
    "grey and alpha.png": put(encoded(Image.fromarray(_NOISE[..., :2]), "png")),
    "alpha.png": put(encoded(Image.fromarray(_NOISE), "png")),
    "alpha.webp": put(encoded(Image.fromarray(_NOISE), "webp")),
    "palette.png": put(encoded(rgb().quantize(16), "png")),
    "palette with alpha.png": put(transparent_palette()),
    "palette.gif": put(encoded(rgb().quantize(16), "gif")),
    "animated.gif": put(animated("gif")),
    "animated.webp": put(animated("webp")),
    "animated.png": put(animated("png")),
    "two pages.tif": put(animated("tiff")),
    "one pixel.png": put(encoded(rgb().resize((1, 1)), "png")),
    "one pixel.jpg": put(encoded(rgb().resize((1, 1)), "jpeg")),
    "1 x 20000.png": put(encoded(rgb().resize((1, 20_000)), "png")),
    "20000 x 1.png": put(encoded(rgb().resize((20_000, 1)), "png")),
    "a png.jpg": put(_PNG),  # its content says what it is, not its name
    "a jpeg.png": put(_JPEG),
    "upper.JPG": put(_JPEG),
    "from the web.jfif": put(_JPEG),
    "scanned.jp2": put(encoded(rgb(), "jpeg2000")),
    "tail of rubbish.jpg": put(_JPEG + b"<?php system($_GET[0]); ?>"),
    "tail of rubbish.png": put(_PNG + bytes(100)),
    "progressive.jpg": put(encoded(rgb(), "jpeg", progressive=True)),
    "a quote ' and \".png": put(_PNG),
    "<script>alert(1)<!-- .png": put(_PNG),
    "new\nline.png": put(_PNG),
    "$(touch was_run) `touch was_run`;.png": put(_PNG),
    "bell \x07 and escape \x1b[31m.png": put(_PNG),
    "\u202egnp.gpj.png": put(_PNG),
    "e\u0301 \U0001f600.png": put(_PNG),
    f"{'long' * 60}.png": put(_PNG),
    "-rf.png": put(_PNG),
    "link.png": lambda path: path.symlink_to(path.parent / "0.png"),
}

# what is not: counted, listed by name, and in training replaced by the next image of its label
BAD: dict[str, Maker] = {
    "empty.png": put(b""),
    "empty.jpg": put(b""),
    "html.jpg": put(_HTML),
    "html.png": put(_HTML),
    "text.png": put(b"not an image"),
    "zeros.jpg": put(bytes(4096)),
    "header alone.png": put(b"\x89PNG\r\n\x1a\n"),
    "header alone.gif": put(b"GIF89a"),
    "header alone.webp": put(b"RIFF\x10\0\0\0WEBPVP8 "),
    **{f"cut at {part}%.jpg": put(_JPEG[: len(_JPEG) * part // 100]) for part in (1, 10, 25, 50, 75, 90)},
    **{f"cut at {part}%.png": put(_PNG[: len(_PNG) * part // 100]) for part in (1, 10, 25, 50, 75, 90)},
    "cut.tif": put(encoded(rgb(), "tiff")[:400]),
    "cut.bmp": put(encoded(rgb(), "bmp")[:200]),
    "no pixels.png": put(png(_SIDE, _SIDE)),
    "fewer pixels than it says.png": put(png(1000, 1000, bytes(500))),
    "no width.png": put(png(0, 10, b"\0" * 10)),
    "unknown depth.png": put(png(8, 8, bytes(72), depth=3)),
    "bomb of 2 gigapixels.png": put(png(50_000, 50_000, bytes(1000))),
    "bomb of 100 megapixels.png": put(png(10_000, 10_000, bytes(1000))),
    "dangling.png": lambda path: path.symlink_to("nowhere"),
    "pipe.png": lambda path: os.mkfifo(path),
    "pipe.npy": lambda path: os.mkfifo(path),
    "device.tif": lambda path: path.symlink_to("/dev/zero"),
    "in a circle.png": lambda path: path.symlink_to(path.name),
    "a pickle.npy": put(
        b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 56 + b"\n"
    ),
    "svg.png": put(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
    "postscript.jpg": put(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(was_run) (w) file\n"),
}


def beside_good_ones(folder: Path, name: str, make: Maker) -> Path:
    """A folder of one class and given splits; the file is the second of its training images."""
    for split in ("train", "val", "test"):
        for letter in "0z":
            (folder / split / "a").mkdir(parents=True, exist_ok=True)
            (folder / split / "b").mkdir(parents=True, exist_ok=True)
            (folder / split / "a" / f"{letter}.png").write_bytes(_PNG)
            (folder / split / "b" / f"{letter}.png").write_bytes(_PNG)
    make(folder / "train" / "a" / name)
    return folder


def seen(folder: Path) -> tuple[int, list[str], torch.Tensor]:
    """Number of images, bad ones, and every image cut whole and resized, as training sees them."""
    source = open_own(folder, "train", 1.0)
    index = torch.arange(len(source))
    boxes = torch.cat((torch.zeros(len(source), 2), source.sizes(index)), 1)
    crops = source.crops(index, [boxes], [16], "bilinear")[0]
    return len(source), source.bad, crops


def use_without_patience(folder: Path) -> None:
    """What training does where no bad image is allowed."""
    source = open_own(folder, "train", 0.0)
    whole = torch.tensor([[0.0, 0, _SIDE, _SIDE]])
    source.crops(torch.arange(5), [whole.expand(5, 4)], [16], "bilinear")
    refuse_bad(source.bad, 5, 0.0, source.name)


@pytest.mark.parametrize("name", READ, ids=[ascii(name)[1:40] for name in READ])
def test_odd_but_whole_files_are_read(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    count, bad, crops = seen(beside_good_ones(tmp_path / "images", name, READ[name]))
    assert (count, bad) == (5, [])
    assert crops.shape == (5, 3, 16, 16)
    assert not list(tmp_path.rglob("was_run"))


@pytest.mark.parametrize("name", BAD, ids=[ascii(name)[1:40] for name in BAD])
def test_what_is_no_image_is_counted_named_and_replaced(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = beside_good_ones(tmp_path / "images", name, BAD[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        count, bad, crops = seen(folder)
    assert [line.split(":")[0] for line in bad] == [f"train/a/{name}"]
    assert count in (4, 5)  # without it where its header tells, else with a stand-in
    assert all(torch.equal(crop, crops[0]) for crop in crops)
    with pytest.raises(UserError) as refused:
        use_without_patience(folder)
    assert name in str(refused.value)
    assert len(str(refused.value).splitlines()) < 12
    assert not list(tmp_path.rglob("was_run"))


def test_there_are_sixty_and_more() -> None:
    assert len(READ) + len(BAD) >= 60
