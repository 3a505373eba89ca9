"""Directories of images: every kind of file, any layout, and what is broken in them."""

import io
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

from ssl_cls.data import catalog, headers, scan
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.files import Files
from ssl_cls.data.own import open_own
from ssl_cls.errors import UserError

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


def photos(root: Path, per_class: int = 60) -> Path:
    for name in ("cat", "dog", "eel"):
        for number in range(per_class):
            deeper = root / name / "2021" if number % 2 else root / name
            place(deeper / f"{number}.png", noise(5, 5))
    return root


def paths(root: Path, split: str) -> dict[str, int]:
    source = open_own(root, split, 0.0)
    labels = source.labels(torch.arange(len(source))).tolist()
    return dict(zip(source.paths(), labels, strict=True))


def test_classes_are_the_first_folders_at_any_depth(tmp_path: Path) -> None:
    found = paths(photos(tmp_path), "train")
    assert {path: ["cat", "dog", "eel"].index(path.split("/")[0]) for path in found} == found
    source = open_own(tmp_path, "train", 0.0)
    assert (source.class_names, source.num_classes) == (["cat", "dog", "eel"], 3)
    assert list(found) == sorted(found)


def test_held_out_splits_are_disjoint_whole_and_of_every_class(tmp_path: Path) -> None:
    photos(tmp_path)
    found = {split: paths(tmp_path, split) for split in ("train", "val", "test")}
    assert len({path for own in found.values() for path in own}) == sum(map(len, found.values())) == 180
    assert Counter(found["test"].values()) == dict.fromkeys(range(3), 12)  # a fifth of 60
    assert sorted(Counter(found["val"].values()).values()) == [4, 5, 5]  # a tenth of 48, and of 144


def test_given_splits_are_kept_and_missing_ones_carved_from_train(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    photos(tmp_path / "val", 3)
    found = {split: paths(tmp_path, split) for split in ("train", "val", "test")}
    assert [len(found["train"]) + len(found["test"]), len(found["val"])] == [180, 9]
    assert all(path.startswith("train/") for path in found["test"])
    assert all(path.startswith("val/") for path in found["val"])
    photos(tmp_path / "test", 4)
    assert len(paths(tmp_path, "train")) == 180
    assert Counter(paths(tmp_path, "test").values()) == {0: 4, 1: 4, 2: 4}


@pytest.mark.parametrize("names", [("train", "valid", "test"), ("Train", "VAL", "Test"),
                                   ("training", "validation", "testing")])  # fmt: skip
def test_splits_are_known_by_all_their_names(tmp_path: Path, names: tuple[str, str, str]) -> None:
    for name in names:
        photos(tmp_path / name, 2)
    for split, name in zip(("train", "val", "test"), names, strict=True):
        assert {path.split("/")[0] for path in paths(tmp_path, split)} == {name}
        assert open_own(tmp_path, split, 0.0).class_names == ["cat", "dog", "eel"]


@pytest.mark.parametrize("beside", ["logo.png", "unlabeled/1.png", "Unlabelled/deep/1.png", "more/1.png"])
def test_what_lies_beside_given_splits_is_trained_on_without_a_label(tmp_path: Path, beside: str) -> None:
    photos(tmp_path / "train", 2)
    photos(tmp_path / "test", 2)
    place(tmp_path / beside, noise(5, 5))
    found = {split: paths(tmp_path, split) for split in ("train", "test")}
    assert {path.split("/")[0] for path in found["test"]} == {"test"}
    assert found["train"][beside] == -1
    assert open_own(tmp_path, "train", 0.0).class_names == ["cat", "dog", "eel"]


def test_train_and_unlabelled_images_are_no_classes(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    place(tmp_path / "unlabeled" / "1.png", noise(5, 5))
    assert open_own(tmp_path, "test", 0.0).class_names == ["cat", "dog", "eel"]


@pytest.mark.parametrize("folders", [("bus", "train"), ("cat", "Testing"), ("a/train", "a/test"), ("val",),
                                     ("train/train", "train/val")])  # fmt: skip
def test_folders_that_may_be_splits_or_classes_are_refused(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for name in folders:
        for number in range(20):
            place(tmp_path / name / f"{number}.png", noise(5, 5))
    with pytest.raises(UserError, match="split") as refused:
        open_own(tmp_path, "train", 0.0)
    assert f"{folders[0].split('/')[0]}/" in refused.value.where


def test_inside_of_given_splits_a_class_may_be_called_train(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("bus", "train"):
            place(tmp_path / split / name / "1.png", noise(5, 5))
    assert open_own(tmp_path, "test", 0.0).class_names == ["bus", "train"]


@pytest.mark.parametrize("folder", [".", "all"])
def test_no_or_one_folder_means_no_labels(tmp_path: Path, folder: str) -> None:
    for number in range(30):
        place(tmp_path / folder / f"{number}.png", noise(5, 5))
    source = open_own(tmp_path, "train", 0.0)
    assert (source.class_names, source.num_classes) == (None, None)
    assert set(source.labels(torch.arange(len(source))).tolist()) == {-1}


def test_a_class_without_training_images_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "train", 3)
    place(tmp_path / "test" / "fox" / "1.png", noise(5, 5))
    with pytest.raises(UserError, match="none in train/") as refused:
        open_own(tmp_path, "train", 0.0)
    assert refused.value.where == "fox"


def test_what_is_hidden_or_no_image_is_passed_over_and_links_are_followed_once(tmp_path: Path) -> None:
    elsewhere = place(tmp_path / "elsewhere" / "linked.PNG", noise(5, 5))
    root = tmp_path / "root"
    place(root / "a" / "1.jpg", noise(5, 5))
    place(root / "a" / "._1.jpg", noise(5, 5), format="jpeg")
    place(root / ".trash" / "2.jpg", noise(5, 5))
    (root / "notes.txt").write_text("not an image")
    (root / "b").symlink_to(elsewhere.parent)
    (root / "a" / "loop").symlink_to(root)
    assert scan.image_files(root) == ["a/1.jpg", "b/linked.PNG"]


def test_names_that_are_not_text_are_read_and_shown_safely(tmp_path: Path) -> None:
    broken = os.fsdecode(b"\xff\x1b[31m")
    for number in range(30):
        place(tmp_path / "ok" / f"{number}.png", noise(5, 5))
        place(tmp_path / broken / f"{number}.png", noise(5, 5))
    bad = tmp_path / broken / "bad.png"
    bad.write_bytes(b"not a png")
    sources = [open_own(tmp_path, split, 1.0) for split in ("train", "val", "test")]
    for source in sources:
        source.crops(
            torch.arange(len(source)),
            [torch.tensor([[0.0, 0, 5, 5]]).expand(len(source), 4)],
            [5],
            "bilinear",
        )
    shown = [line for source in sources for line in source.bad]
    assert len(shown) == 1
    assert (shown[0] + "".join(sources[0].class_names or [])).isprintable()
    shown[0].encode()


def test_the_fingerprint_changes_with_the_images(tmp_path: Path) -> None:
    photos(tmp_path, 5)
    before = open_own(tmp_path, "train", 0.0).fingerprint
    assert open_own(tmp_path, "train", 0.0).fingerprint == before
    os.utime(tmp_path / next(iter(paths(tmp_path, "train"))), ns=(1, 1))
    assert open_own(tmp_path, "train", 0.0).fingerprint != before


def test_headers_are_read_once_for_all_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path, 20)
    read, original = [], headers.read_header
    monkeypatch.setattr(headers, "read_header", lambda path: (read.append(path), original(path))[1])
    for split in ("train", "val", "test", "train"):
        open_own(tmp_path, split, 0.0)
    assert len(read) == 60


# --- damage ---


def truncated(path: Path, keep: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def test_an_image_cut_short_is_replaced_by_the_next_of_its_class(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(4):
            place(tmp_path / "train" / name / f"{number}.jpg", noise(40 + 10 * number, 80))
            place(tmp_path / "val" / name / f"{number}.jpg", noise(40, 80))
            place(tmp_path / "test" / name / f"{number}.jpg", noise(40, 80))
    for damaged in ("a/1", "a/3", "b/3"):
        truncated(tmp_path / "train" / f"{damaged}.jpg")
    source = open_own(tmp_path, "train", 0.0)
    assert source.bad == []  # the headers are whole
    index = torch.arange(8)
    sizes = source.sizes(index)
    boxes = torch.cat((sizes / 4, sizes / 2), 1)
    crops = source.crops(index, [boxes], [16], "bilinear")[0]
    for damaged, stand_in in ((1, 2), (3, 0), (7, 4)):  # the next, or the first of the class after its last
        assert torch.equal(crops[damaged], crops[stand_in])
        assert source.labels(index)[damaged] == source.labels(index)[stand_in]
    assert [line.split(":")[0] for line in source.bad] == [f"train/{name}.jpg" for name in ("a/1", "a/3", "b/3")]
    again = source.crops(index.flip(0), [boxes.flip(0)], [16], "bilinear")[0]
    assert torch.equal(again.flip(0), crops)
    assert len(source.bad) == 3  # each is counted once


def test_headers_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    photos(tmp_path / "val", 2)
    photos(tmp_path / "test", 2)
    for name, content in {"a": b"", "b": b"\x89PNG\r\n\x1a\n", "c": b"GIF89a", "d": bytes(999)}.items():
        (tmp_path / "train" / "cat" / f"{name}.png").write_bytes(content)
    (tmp_path / "train" / "cat" / "nowhere.png").symlink_to("missing")
    source = open_own(tmp_path, "train", 0.03)
    assert len(source) == 180
    names = [line.split(":")[0] for line in source.bad]
    assert names == [f"train/cat/{name}.png" for name in ("a", "b", "c", "d", "nowhere")]
    with pytest.raises(UserError, match=r"5 of 185 images cannot be read, more than 2.00%") as refused:
        open_own(tmp_path, "train", 0.02)
    assert "train/cat/a.png: " in refused.value.what
    assert "max_bad_fraction" in refused.value.fix


def test_an_image_that_would_fill_the_memory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(30):
        place(tmp_path / f"{number}.png", noise(5, 5))
    place(tmp_path / "bomb.png", Image.new("L", (60, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow itself only warns up to twice of it
    bad = [line for split in ("train", "val", "test") for line in open_own(tmp_path, split, 1.0).bad]
    assert [line.split(":")[0] for line in bad] == ["bomb.png"]


def test_float_pixels_have_no_known_range(tmp_path: Path) -> None:
    source = alone(tmp_path / "x.tif", Image.new("F", (5, 5), 0.5))
    with pytest.raises(UserError, match="no image of one label can be decoded"):
        whole(source)
    assert "float" in source.bad[0]


def test_damaged_bytes_never_crash(tmp_path: Path) -> None:
    """Every kind of file with random bytes overwritten: a picture, a stand-in, or a UserError."""
    for ending in ("jpg", "png", "tif", "gif", "webp", "bmp"):
        buffer = io.BytesIO()
        noise(24, 24).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(ending, ending))
        for trial in range(25):
            content = bytearray(buffer.getvalue())
            for _ in range(1 + trial // 3):
                content[RNG.integers(len(content))] = RNG.integers(256)
            path = tmp_path / f"{ending}{trial}.{ending}"
            path.write_bytes(content)
    for split in ("train", "val", "test"):
        source = open_own(tmp_path, split, 1.0)
        boxes = torch.cat((torch.zeros(len(source), 2), source.sizes(torch.arange(len(source)))), 1)
        crops = source.crops(torch.arange(len(source)), [boxes], [8], "bilinear")[0]
        assert crops.shape == (len(source), source.channels, 8, 8)


# --- the user's errors ---


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    cases = {
        "photo": ("no such folder", f"did you mean {tmp_path / 'photos'}?"),
        "qqqqq": ("no such folder", "exists"),
        "photos/cat/0.png": ("a file, not a folder", "the folder it is in"),
        "empty": ("no images", ".jpg"),
    }
    for name, (what, fix) in cases.items():
        with pytest.raises(UserError, match=what) as refused:
            catalog.open(DataConfig(source="folder", path=str(tmp_path / name)), "train")
        assert fix in refused.value.fix
        assert refused.value.where == str(tmp_path / name)

    def scandir(path: object) -> None:
        raise PermissionError(13, "Permission denied", os.fspath(path))  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match="Permission denied"):
        open_own(tmp_path / "photos", "train", 0.0)


def test_a_folder_needs_a_path() -> None:
    with pytest.raises(UserError, match="which folder"):
        catalog.open(DataConfig(source="folder"), "train")


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    photos(tmp_path / "train", 2)
    photos(tmp_path / "val", 2)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    shutil.copy(tmp_path / "val" / "cat" / "0.png", tmp_path / "test" / "cat" / "0.png")
    (tmp_path / "test" / "cat" / "0.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"all 1 images of the test split cannot be read, first test/cat/0[.]png: "):
        open_own(tmp_path, "test", 1.0)
