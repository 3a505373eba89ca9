"""Data sets in memory: what is read is what was written, and no image is in two splits."""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ssl_cls.data import arrays, catalog, fetch
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.formats.idx import read_idx
from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def everything(source: Source) -> torch.Tensor:
    return source.pixels(torch.arange(len(source)))


@pytest.fixture
def miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[DataConfig, dict[str, np.ndarray]]:
    """Fashion-MNIST with 200 and 30 images, in its published format, as gzipped files put there by hand."""
    generator = np.random.default_rng(0)
    content = {}
    for part, n in (("train", 200), ("t10k", 30)):
        content[f"{part}-images-idx3-ubyte"] = generator.integers(0, 256, (n, 28, 28), np.uint8)
        content[f"{part}-labels-idx1-ubyte"] = generator.integers(0, 10, n, np.uint8)
    folder = tmp_path / "fashion_mnist"
    folder.mkdir()
    files = {}
    for name, array in content.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        files[name] = fetch.File(len(idx(array)), hashlib.sha256(idx(array)).hexdigest())
    monkeypatch.setattr(fetch, "FASHION_MNIST", fetch.Published("fashion_mnist", files, ()))
    return DataConfig(path=str(tmp_path)), content


def test_train_and_val_are_the_training_file_and_test_is_the_other(
    miniature: tuple[DataConfig, dict[str, np.ndarray]],
) -> None:
    config, content = miniature
    train, val, test = (catalog.open(config, split) for split in ("train", "val", "test"))
    assert [len(train), len(val), len(test)] == [180, 20, 30]
    assert np.array_equal(everything(test)[:, 0], content["t10k-images-idx3-ubyte"])
    assert np.array_equal(all_labels(test), content["t10k-labels-idx1-ubyte"])

    written = {
        image.tobytes(): label
        for image, label in zip(content["train-images-idx3-ubyte"], content["train-labels-idx1-ubyte"], strict=True)
    }
    read = {}
    for source in (train, val):
        pairs = zip(everything(source)[:, 0].numpy(), all_labels(source).tolist(), strict=True)
        read |= {image.tobytes(): label for image, label in pairs}
    assert read == written  # so no image is in both, and each kept its label
    assert len({train.fingerprint, val.fingerprint, test.fingerprint}) == 3


def test_the_full_split_is_exactly_6000_of_60000_and_does_not_change() -> None:
    train, val = arrays.carve(torch.arange(60_000), 6_000, 1)
    assert (len(train), len(val)) == (54_000, 6_000)
    assert torch.equal(torch.cat((train, val)).sort().values, torch.arange(60_000))
    assert val[:4].tolist() == [0, 13, 17, 19]  # as in every released table
    # spread evenly: each tenth of the file gives about a tenth of val
    assert (torch.bincount(val // 6_000) - 600).abs().max() < 5 * 600**0.5


def test_digits_are_those_of_scikit_learn() -> None:
    sources = [catalog.open(DataConfig(source="digits"), split) for split in ("train", "val", "test")]
    assert [len(source) for source in sources] == [1294, 144, 359]
    loaded = load_digits()
    expected = sorted(zip(loaded.images.reshape(-1, 64).tolist(), loaded.target.tolist(), strict=True))
    found = []
    for source in sources:
        sixteenths = everything(source).flatten(1).double() * 16 / 255
        assert (sixteenths - sixteenths.round()).abs().max() < 0.04
        found += zip(sixteenths.round().tolist(), all_labels(source).tolist(), strict=True)
    assert sorted(found) == expected
    pixels = torch.cat([everything(source) for source in sources]).double() / 255
    assert sources[0].mean == (pytest.approx(float(pixels.mean()), abs=1e-4),)
    assert sources[0].std == (pytest.approx(float(pixels.std()), abs=1e-4),)


def test_pixels_are_gathered_in_the_order_asked_for_and_are_copies() -> None:
    source = catalog.open(DataConfig(source="digits"), "val")
    chosen = torch.tensor([5, 0, 5])
    first = source.pixels(chosen)
    assert torch.equal(first, everything(source)[chosen])
    assert source.sizes(chosen).tolist() == [[8, 8]] * 3
    first.zero_()
    assert source.pixels(chosen).any()


def test_input_size_is_the_images_own_but_at_least_28() -> None:
    assert catalog.input_size(catalog.open(DataConfig(source="digits"), "val")) == 28
    wide = arrays.Arrays(
        "x", torch.zeros(1, 1, 32, 48, dtype=torch.uint8), torch.zeros(1).long(), ["a"], (0.0,), (1.0,)
    )
    assert catalog.input_size(wide) == 48


def test_the_fingerprint_knows_pixels_and_labels() -> None:
    def fingerprint(pixel: int, label: int) -> str:
        images = torch.full((2, 1, 2, 2), pixel, dtype=torch.uint8)
        return arrays.Arrays("x", images, torch.tensor([0, label]), ["a", "b"], (0.0,), (1.0,)).fingerprint

    assert len({fingerprint(0, 0), fingerprint(1, 0), fingerprint(0, 1)}) == 3
    assert fingerprint(1, 1) == fingerprint(1, 1)


GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
HOSTILE = {
    "empty": b"",
    "header cut off": GOOD[:9],
    "other magic": b"\0\1" + GOOD[2:],
    "floats": GOOD[:2] + b"\x0d" + GOOD[3:],
    "labels for images": idx(np.arange(24, dtype=np.uint8)),
    "bytes missing": GOOD[:-1],
    "bytes left over": GOOD + b"\0",
    "a length that overflows": GOOD[:4] + b"\xff" * 12 + GOOD[16:],
}


def test_idx_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(GOOD)
    assert read_idx(tmp_path / "x", 3).tolist() == np.arange(24).reshape(2, 3, 4).tolist()


@pytest.mark.parametrize("hostile", HOSTILE)
def test_idx_with_a_lie_in_it_is_refused(tmp_path: Path, hostile: str) -> None:
    (tmp_path / "x").write_bytes(HOSTILE[hostile])
    with pytest.raises(UserError) as refused:
        read_idx(tmp_path / "x", 3)
    assert refused.value.where == str(tmp_path / "x")
