"""Statistics and caches of own images."""

from pathlib import Path
from typing import IO

import numpy as np
import pytest
import torch
from own_images import RNG, pictures, png
from PIL import Image

from ssl_cls.data import cache
from ssl_cls.data.own import open_own


def test_images_are_normalised_by_their_own_statistics(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    pixels = RNG.integers(0, 256, (6, 64, 64, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "train" / f"{number}.png")
    Image.new("RGB", (64, 64), "red").save(tmp_path / "test" / "x.png")
    sources = {split: open_own(tmp_path, split, 0.0) for split in ("test", "train")}
    for source in sources.values():  # of the training images, whichever is opened first
        assert source.mean == sources["train"].mean
        assert source.mean == pytest.approx(tuple((pixels / 255).mean((0, 1, 2))), abs=0.02)
        assert source.std == pytest.approx(tuple((pixels / 255).std((0, 1, 2))), abs=0.02)


def test_a_second_start_reads_no_header_and_no_pixel_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_cls.data import headers, statistics

    pictures(tmp_path)
    read: list[object] = []
    original_header, original_cut = headers.read_header, statistics.cut
    monkeypatch.setattr(headers, "read_header", lambda path: (read.append(path), original_header(path))[1])
    monkeypatch.setattr(statistics, "cut", lambda *options: (read.append(options), original_cut(*options))[1])
    first = open_own(tmp_path, "train", 0.0)
    assert len(read) == 40 + len(first)
    headers._last.clear()  # as in another process
    read.clear()
    again = open_own(tmp_path, "train", 0.0)
    assert read == []
    assert (again.mean, again.std, again.fingerprint) == (first.mean, first.std, first.fingerprint)
    assert torch.equal(again.sizes(torch.arange(len(again))), first.sizes(torch.arange(len(first))))
    (tmp_path / "a" / "0.png").write_bytes(png(7))
    assert open_own(tmp_path, "train", 0.0).mean
    assert tmp_path / "a" / "0.png" in read
    assert len([path for path in read if isinstance(path, Path)]) == 1


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"[]"])
def test_a_damaged_cache_costs_time_only(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_cls.data import headers

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    pictures(tmp_path / "images")
    first = open_own(tmp_path / "images", "train", 0.0)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 2
    for path in kept:
        path.write_bytes(content)
    headers._last.clear()
    again = open_own(tmp_path / "images", "train", 0.0)
    assert (again.mean, again.fingerprint) == (first.mean, first.fingerprint)


def test_without_a_place_for_the_cache_all_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    pictures(tmp_path / "images")
    assert len(open_own(tmp_path / "images", "train", 0.0)) > 20


def test_what_breaks_off_leaves_no_temporary_file_in_the_cache(tmp_path: Path) -> None:
    def broken(file: IO[bytes]) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.keep(tmp_path / "x", broken)
    assert list(tmp_path.iterdir()) == []
