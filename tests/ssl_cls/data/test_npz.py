"""Own images in an .npz file."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from own_images import RNG, SPLITS, Planted, opened

from ssl_cls.data.own import open_own
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError


def test_npz_of_images_and_labels(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (50, 9, 7, 3), np.uint8)
    labels = np.arange(50) % 2
    np.savez(tmp_path / "x.npz", images=images, labels=labels, class_names=np.array(["cat", "dog"]))
    sources = opened(tmp_path / "x.npz")
    assert [len(sources[split]) for split in SPLITS] == [36, 4, 10]
    assert Counter(all_labels(sources["test"]).tolist()) == {0: 5, 1: 5}
    written = {image.transpose(2, 0, 1).tobytes(): label for image, label in zip(images, labels, strict=True)}
    read = {}
    for source in sources.values():
        pixels = source.pixels(torch.arange(len(source))).numpy()
        read |= {image.tobytes(): label for image, label in zip(pixels, all_labels(source).tolist(), strict=True)}
        assert (source.size, source.channels, source.class_names) == ((9, 7), 3, ["cat", "dog"])
    assert read == written


@pytest.mark.parametrize("names", [("{}_images", "{}_labels"), ("x_{}", "y_{}")])
def test_npz_with_an_array_for_each_split(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays = {}
    for split, n in (("train", 20), ("test", 6)):
        arrays[names[0].format(split)] = RNG.integers(0, 256, (n, 8, 8), np.uint8)
        arrays[names[1].format(split)] = (np.arange(n) % 2)[:, None]
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    sources = opened(tmp_path / "x.npz")
    assert [len(sources[split]) for split in SPLITS] == [18, 2, 6]
    assert np.array_equal(sources["test"].pixels(torch.arange(6))[:, 0], arrays[names[0].format("test")])
    assert all_labels(sources["test"]).tolist() == [0, 1] * 3


def test_npz_of_deep_pixels_text_labels_and_a_group(tmp_path: Path) -> None:
    images = RNG.integers(0, 65536, (40, 5, 6), np.uint16)
    groups = np.array([f"p{number // 4}" for number in range(40)])
    np.savez(tmp_path / "x.npz", images=images, labels=np.array(["x", "y", "", "x"] * 10), groups=groups)
    sources = opened(tmp_path / "x.npz")
    assert sources["train"].class_names == ["x", "y"]
    expected = {np.rint(image / 257).astype(np.uint8).tobytes(): groups[number] for number, image in enumerate(images)}
    seen = [
        {expected[image.tobytes()] for image in source.pixels(torch.arange(len(source))).numpy()[:, 0]}
        for source in sources.values()
    ]
    assert len(set.union(*seen)) == sum(map(len, seen)) == 10


@pytest.mark.parametrize("case", ["pickled", "no archive", "no images", "floats", "other length", "bomb"])
def test_npz_that_is_wrong_is_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npz"
    images = np.zeros((20, 4, 4), np.uint8)
    arrays = {
        "pickled": {"images": np.array([Planted()], dtype=object)},
        "no images": {"pictures": images},
        "floats": {"images": images / 2},
        "other length": {"images": images, "labels": np.zeros(19, np.int64)},
        "bomb": {"images": images},
    }
    np.savez(path, **arrays.get(case, {}))
    if case == "no archive":
        path.write_bytes(b"PK\x03\x04 no")
    if case == "bomb":
        monkeypatch.setattr("os.sysconf", lambda name: 10)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        open_own(path, "train", 0.0)
    assert refused.value.where == str(path)
    assert not Path("planted").exists()


# --- shards ---
