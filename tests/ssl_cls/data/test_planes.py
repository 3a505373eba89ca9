"""Own images of deep pixels and of many channels."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import RNG, Planted, decoded
from PIL import Image

from ssl_cls.data.own import open_own
from ssl_cls.errors import UserError


def test_arrays_of_many_channels_are_cut_plane_by_plane(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    images = [RNG.integers(0, 256, (12, 10, 5), np.uint8) for _ in range(4)]
    for number, image in enumerate(images):
        np.save(tmp_path / "train" / f"{number}.npy", image if number % 2 else image.transpose(2, 0, 1))
    source = open_own(tmp_path, "train", 0.0)
    index = [int(Path(path).stem) for path in source.paths()]
    assert (source.channels, len(source.mean)) == (5, 5)
    box = torch.tensor([[2.0, 1.0, 8.0, 8.0]])
    for place, number in enumerate(index):
        crop = source.crops(torch.tensor([place]), [box], [8], "bilinear")[0][0]
        assert np.array_equal(crop, images[number].transpose(2, 0, 1)[:, 2:10, 1:9])
        small = source.crops(torch.tensor([place]), [box], [4], "bicubic")[0][0]
        for plane in range(5):
            part = Image.fromarray(np.ascontiguousarray(images[number][2:10, 1:9, plane]))
            expected = np.asarray(part.resize((4, 4), Image.Resampling.BICUBIC)).astype(int)
            assert np.abs(small[plane].numpy().astype(int) - expected).max() <= 2  # levels: see test_folder.py


@pytest.mark.parametrize("kind", ["npy", "tif", "png"])
def test_deep_pixels_are_reduced_by_the_stated_window(tmp_path: Path, kind: str) -> None:
    values = RNG.integers(0, 65536, (8, 8), np.uint16)
    (tmp_path / "train").mkdir()
    path = tmp_path / "train" / f"x.{kind}"
    np.save(path, values) if kind == "npy" else Image.fromarray(values).save(path)
    whole = open_own(tmp_path, "train", 0.0)
    assert np.array_equal(decoded(whole, 0)[0], np.rint(values / 257))
    narrow = open_own(tmp_path, "train", 0.0, window=(1000, 5095))
    assert np.array_equal(decoded(narrow, 0)[0], np.rint((values.clip(1000, 5095).astype(float) - 1000) * 255 / 4095))
    assert narrow.fingerprint != whole.fingerprint


def test_float_arrays_need_a_window(tmp_path: Path) -> None:
    values = RNG.normal(size=(8, 8, 4)).astype(np.float32)
    (tmp_path / "train").mkdir()
    np.save(tmp_path / "train" / "x.npy", values)
    source = open_own(tmp_path, "train", 0.0, window=(-1, 1))
    expected = np.rint((values.clip(-1, 1) + 1) * 127.5).transpose(2, 0, 1)
    assert np.abs(decoded(source, 0) - expected).max() <= 1
    with pytest.raises(UserError, match=r"data.window=\[LOW,HIGH\]"):
        decoded(open_own(tmp_path, "train", 0.0), 0)


def test_a_tiff_of_five_channels_keeps_them_all(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    images = {channels: RNG.integers(0, 256, (9, 8, channels), np.uint8) for channels in (4, 5)}
    for channels, image in images.items():
        (tmp_path / str(channels) / "train").mkdir(parents=True)
        path = tmp_path / str(channels) / "train" / "x.tif"
        tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unspecified"] * (channels - 3))
        source = open_own(tmp_path / str(channels), "train", 0.0)
        assert source.channels == channels
        assert np.array_equal(decoded(source, 0), image.transpose(2, 0, 1)[:, :8, :8])


PAGES = {
    "default": {},
    "imagej": {"imagej": True, "metadata": {"axes": "CYX"}},
    "ome": {"ome": True, "metadata": {"axes": "CYX"}},
    "planar": {"photometric": "minisblack", "planarconfig": "separate"},
}


@pytest.mark.parametrize("last", [False, True], ids=["CYX", "YXC"])
@pytest.mark.parametrize("kind", PAGES)
def test_tiffs_keep_the_channels_that_lie_on_pages(kind: str, last: bool, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 256, (5, 9, 9), np.uint8)
    if last and kind != "default":
        pytest.skip("its writer has no such layout")
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels.transpose(1, 2, 0) if last else pixels, **PAGES[kind])
    source = open_own(tmp_path, "train", 0.0)
    assert source.channels == 5
    assert np.array_equal(decoded(source, 0), pixels)


def test_a_tiff_of_two_channels_keeps_both(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 256, (9, 9, 2), np.uint8)
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels, photometric="minisblack", planarconfig="contig",
                         extrasamples=["unspecified"])  # fmt: skip
    assert np.array_equal(decoded(open_own(tmp_path, "train", 0.0), 0), pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("options", [{"metadata": None}, {"imagej": True, "metadata": {"axes": "ZYX"}}])
def test_pages_that_may_be_something_else_than_channels_are_refused(options: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    tifffile = pytest.importorskip("tifffile")
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", np.zeros((4, 9, 9), np.uint8), photometric="minisblack", **options)
    with pytest.raises(UserError, match="4 pages that are not said to be channels"):
        open_own(tmp_path, "train", 0.0)


@pytest.mark.parametrize("window", [None, (0, 4095)])
def test_deep_colours_are_reduced_by_the_window_too(window: tuple[float, float] | None, tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = RNG.integers(0, 4096, (9, 9, 3), np.uint16)
    for number in range(20):
        tifffile.imwrite(tmp_path / f"{number}.tif", pixels, photometric="rgb")
    source = open_own(tmp_path, "train", 0.0, window=window)
    expected = np.floor(pixels * (255 / (window[1] if window else 65535)) + 0.5).astype(np.uint8)
    assert np.array_equal(decoded(source, 0), expected.transpose(2, 0, 1))


def test_deep_colours_in_a_png_are_read_but_not_by_a_window(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(4 * (b"\0" + bytes(24)))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(own)) + k + own + struct.pack(">I", zlib.crc32(k + own)) for k, own in chunks]
    for number in range(20):
        (tmp_path / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert open_own(tmp_path, "train", 0.0).channels == 3
    with pytest.raises(UserError, match="Pillow keeps 8 bits and no window"):
        decoded(open_own(tmp_path, "train", 0.0, window=(0, 4095)), 0)


@pytest.mark.parametrize("case", ["objects", "cut", "four axes", "bomb", "empty"])
def test_hostile_arrays_are_bad_images_and_no_more(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train").mkdir()
    for number in range(3):
        np.save(tmp_path / "train" / f"{number}.npy", np.zeros((4, 4, 5), np.uint8))
    arrays = {"objects": np.array([[Planted()]]), "four axes": np.zeros((2, 2, 2, 2)), "empty": np.zeros((0, 4, 5))}
    path = tmp_path / "train" / "x.npy"
    np.save(path, arrays.get(case, np.zeros((4, 4, 5), np.uint8)), allow_pickle=True)
    if case == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    if case == "bomb":
        with path.open("wb") as file:
            header = {"shape": (2**20, 2**20, 5), "descr": "|u1", "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header)
    monkeypatch.chdir(tmp_path)
    source = open_own(tmp_path, "train", 1.0)
    for number in range(len(source)):
        source.crops(torch.tensor([number]), [torch.tensor([[0.0, 0, 4, 4]])], [4], "bilinear")
    assert [line.split(":")[0] for line in source.bad] == ["train/x.npy"]
    assert not Path("planted").exists()


def test_images_of_other_channels_among_many_are_named(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for number, channels in enumerate((5, 1, 4)):
        np.save(tmp_path / "train" / f"{number}.npy", np.zeros((9, 8, channels), np.uint8))
    with pytest.raises(UserError, match=r"images of 4 and of 5 channels: train/2.npy and train/0.npy"):
        open_own(tmp_path, "train", 0.0)


# --- mean and standard deviation, and what is remembered ---
