"""One image file to pixels: crops, orientation, colours, depth, transparency."""

from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import ORIENTATION, RNG, alone, chw, noise, place, smooth, whole
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

from ssl_cls.data.own import open_own


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_crops_are_torchvisions(tmp_path: Path, channels: int, interpolation: str) -> None:
    image = noise(61, 83, channels)
    source = alone(tmp_path / "x.png", image)
    boxes = [(0, 0, 61, 83), (3, 7, 40, 50), (20, 11, 9, 13), (60, 82, 1, 1), (0, 0, 1, 83)]
    crops = source.crops(
        torch.tensor([0]), [torch.tensor([box]).float() for box in boxes], [16, 16, 24, 5, 8], interpolation
    )
    for box, crop in zip(boxes, crops, strict=True):
        expected = resized_crop(image, *box, list(crop.shape[2:]), InterpolationMode(interpolation))
        apart = (crop[0].int() - chw(expected).int()).abs()
        assert apart.max() <= 2  # levels, of noise: as hard as it gets
        assert apart.float().mean() < 0.3


def test_a_batch_is_its_images(tmp_path: Path) -> None:
    for number in range(40):
        place(tmp_path / f"{number}.png", noise(20 + number, 30))
    source = open_own(tmp_path, "train", 0.0)
    index = torch.tensor([4, 0, 4, 9])
    boxes = torch.tensor([[1, 2, 10, 11], [0, 0, 20, 30], [3, 4, 5, 6], [0, 1, 19, 20]]).float()
    together = source.crops(index, [boxes, boxes / 2], [8, 4], "bilinear")
    for row in range(4):
        one = source.crops(index[row : row + 1], [boxes[row : row + 1], boxes[row : row + 1] / 2], [8, 4], "bilinear")
        assert all(torch.equal(one[view][0], together[view][row]) for view in (0, 1))


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_and_its_size(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    source = alone(tmp_path / f"x.{ending}", smooth(48, 80, 16), exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "train" / f"x.{ending}")).convert("RGB")
    assert source.sizes(torch.tensor([0])).tolist() == [[expected.height, expected.width]]
    crop = source.crops(torch.tensor([0]), [torch.tensor([[5.0, 7.0, 32.0, 32.0]])], [32], "bilinear")[0][0]
    assert torch.equal(crop, chw(expected.crop((7, 5, 39, 37))))


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_metadata_is_no_damage(tmp_path: Path, exif: bytes) -> None:
    source = alone(tmp_path / "x.jpg", smooth(48, 48, 16), exif=exif)
    assert torch.equal(whole(source), chw(Image.open(tmp_path / "train" / "x.jpg")))


def test_a_draft_of_a_large_jpeg_is_the_same_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    source = alone(tmp_path / "x.jpg", smooth(1203, 1605, 48), quality=95, exif=exif)
    image = ImageOps.exif_transpose(Image.open(tmp_path / "train" / "x.jpg"))
    boxes = [(0, 0, 1605, 1203), (901, 3, 700, 1200), (11, 640, 511, 509)]
    crops = source.crops(torch.tensor([0]), [torch.tensor([box]).float() for box in boxes], [64] * 3, "bilinear")
    for box, crop in zip(boxes, crops, strict=True):
        expected = chw(resized_crop(image, *box, [64, 64]))
        error = (crop[0].int() - expected.int()).abs()
        assert error.float().mean() < 2  # an image moved by one pixel would be at 15
        assert error.max() <= 16


KINDS = {
    "palette": (noise(9, 9).quantize(16), lambda image: image.convert("RGB")),
    "CMYK": (noise(9, 9).convert("CMYK"), lambda image: image.convert("RGB")),
    "RGB": (noise(9, 9), lambda image: image),
}


@pytest.mark.parametrize("kind", KINDS)
def test_colour_images_are_rgb(tmp_path: Path, kind: str) -> None:
    image, expected = KINDS[kind]
    source = alone(tmp_path / ("x.tif" if kind == "CMYK" else "x.png"), image)
    assert source.channels == 3
    assert torch.equal(whole(source), chw(expected(image)))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_16_bits_become_8_by_rounding(tmp_path: Path, ending: str) -> None:
    values = np.append(np.arange(0, 65536, 1024), 65535).astype(np.uint16)[-64:].reshape(8, 8)
    source = alone(tmp_path / f"x.{ending}", Image.fromarray(values))
    assert source.channels == 1
    assert torch.equal(whole(source)[0], torch.from_numpy(np.rint(values / 257).astype(np.uint8)))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = RNG.integers(0, 2, (8, 8)).astype(bool)
    source = alone(tmp_path / "x.png", Image.fromarray(bits))
    assert source.channels == 1
    assert torch.equal(whole(source)[0], torch.from_numpy(bits * np.uint8(255)))


def test_transparency_goes_onto_white(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (8, 8, 4), np.uint8)
    source = alone(tmp_path / "x.png", Image.fromarray(pixels))
    alpha = pixels[..., 3:] / 255
    expected = torch.from_numpy(alpha * pixels[..., :3] + (1 - alpha) * 255).permute(2, 0, 1)
    assert (whole(source) - expected).abs().max() <= 1
    grey = alone(tmp_path / "grey" / "x.png", Image.fromarray(pixels[..., 2:]))
    assert grey.channels == 1
    assert (whole(grey)[0] - expected[2]).abs().max() <= 1


def test_a_transparent_palette_goes_onto_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 1)
    pixels = whole(alone(tmp_path / "x.png", image, transparency=0))
    assert pixels[:, 0, 0].tolist() == [40, 50, 60]
    assert pixels[:, 1:].unique().tolist() == [255]


def test_one_colour_image_makes_all_of_them_rgb(tmp_path: Path) -> None:
    for number in range(30):
        place(tmp_path / f"{number}.png", noise(6, 6, 1))
    assert open_own(tmp_path, "train", 0.0).channels == 1
    first = open_own(tmp_path, "train", 0.0)
    grey = whole(first)
    place(tmp_path / "new.png", noise(6, 6))
    second = open_own(tmp_path, "train", 0.0)
    assert second.channels == len(second.mean) == len(second.std) == 3
    assert torch.equal(whole(second), grey.expand(3, -1, -1))


# --- labels and splits ---
