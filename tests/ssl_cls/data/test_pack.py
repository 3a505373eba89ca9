"""A pack holds the pixels that decoding gives, however often its making was broken off; a million open at once."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from ssl_cls.augment.augment import Augment
from ssl_cls.augment.view import View
from ssl_cls.data import catalog, pack, packed
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.decode import reduced
from ssl_cls.data.files import Files
from ssl_cls.data.own import open_own
from ssl_cls.data.packed import Packed
from ssl_cls.data.source import all_labels
from ssl_cls.data.stream import Stream
from ssl_cls.errors import UserError

SPLITS = ("train", "val", "test")
VIEWS = (View(size=16, count=2, scale=(0.2, 1.0), flip=0.5), View(kind="local", size=8, scale=(0.05, 0.3)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images of two classes: JPEGs and PNGs, grey, transparent and turned ones, 20 to 60 pixels."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(120):
        channels = (3, 1, 4)[number % 3]
        coarse = rng.integers(0, 256, (6, 6, channels), np.uint8)
        image = Image.fromarray(coarse.squeeze()).resize(
            tuple(rng.integers(20, 60, 2).tolist()), Image.Resampling.BICUBIC
        )
        path = root / "ab"[number % 2] / f"{number}.{'png' if channels == 4 or number % 5 == 0 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 7 == 0 else 1
        image.save(path, exif=exif)
    return root


def sources(root: Path) -> dict[str, Files]:
    return {split: open_own(root, split, 0.1) for split in SPLITS}


def content(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(root.iterdir())}


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packs") / "whole.pack"
    pack.pack(sources(photos), target, 1000, 0.0)
    return target


def test_a_pack_of_unreduced_images_gives_the_views_that_files_give(photos: Path, whole: Path) -> None:
    for split, files in sources(photos).items():
        own = Packed(whole, split)
        assert (len(own), own.paths(), own.class_names) == (len(files), files.paths(), files.class_names)
        assert (own.mean, own.std, own.channels) == (files.mean, files.std, files.channels)
        everything = torch.arange(len(own))
        assert torch.equal(own.sizes(everything), files.sizes(everything))
        assert torch.equal(all_labels(own), all_labels(files))

    def batches(source: Files | Packed, workers: int) -> list[torch.Tensor]:
        augment = Augment(VIEWS, source.mean, source.std)
        stream = Stream(source, augment, seed=0, batch_size=16, device=torch.device("cpu"), workers=workers)
        made = [batch.views for (batch,) in stream.batches(0, 2)]
        return [view for views in made for kind in views.values() for view in kind]

    # no crop of at most 60 pixels to 16 is large enough for a draft: see decode._decoded
    for a, b in zip(batches(sources(photos)["train"], 0), batches(Packed(whole, "train"), 1), strict=True):
        assert torch.equal(a, b)


def test_images_are_reduced_to_the_size_and_never_enlarged(photos: Path, tmp_path: Path) -> None:
    pack.pack(sources(photos), tmp_path / "x.pack", 32, 0.0)
    for split, files in sources(photos).items():
        own, everything = Packed(tmp_path / "x.pack", split), torch.arange(len(files))
        before, after = files.sizes(everything), own.sizes(everything)
        assert torch.equal(after.amin(1), before.amin(1).clamp(max=32))
        ratio = before.amax(1) / before.amin(1)
        assert ((after.amax(1) - ratio * after.amin(1)).abs() <= 0.5).all()
    number = next(n for n in torch.nonzero(before.amin(1) > 32)[:, 0].tolist() if own.paths()[n].endswith(".jpg"))
    stored = ImageOps.exif_transpose(Image.open(photos / own.paths()[number])).convert("RGB")
    height, width = after[number].tolist()
    expected = np.asarray(stored.resize((width, height), Image.Resampling.BICUBIC))[:32, :32]
    crop = own.crops(torch.tensor([number]), [torch.tensor([[0.0, 0.0, 32.0, 32.0]])], [32], "bilinear")[0][0]
    assert np.array_equal(crop.permute(1, 2, 0).numpy(), expected)


def test_images_of_one_small_size_are_taken_all_at_once(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "in" / f"{number:02}.png")
    pack.pack({"train": open_own(tmp_path / "in", "train", 0.0)}, tmp_path / "x.pack", 8, 0.0)
    own = Packed(tmp_path / "x.pack", "train")
    assert own.size == (8, 8)
    expected = [int(path[:2]) for path in own.paths()]
    assert own.pixels(torch.arange(len(own)))[:, 0, 0, 0].tolist() == expected
    assert (own.num_classes, all_labels(own).tolist()) == (None, [-1] * len(own))


def test_a_pack_that_fits_lives_on_the_training_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for an accelerator: it says where a tensor would be, and holds nothing."""
    (tmp_path / "in").mkdir()
    for number in range(30):
        Image.fromarray(np.full((8, 9, 3), number, np.uint8)).save(tmp_path / "in" / f"{number:02}.png")
    pack.pack({"train": open_own(tmp_path / "in", "train", 0.0)}, tmp_path / "x.pack", 8, 0.0)
    accelerator, some = torch.device("meta"), torch.tensor([3, 1])
    config = DataConfig(source="folder", path=str(tmp_path / "x.pack"))
    there = catalog.open(config, "train", accelerator).pixels(some)
    assert (there.device, there.shape) == (accelerator, (2, 3, 8, 9))
    here = catalog.open(config, "train").pixels(some)
    assert here.device == torch.device("cpu")
    n = len(Packed(tmp_path / "x.pack", "train"))
    monkeypatch.setattr(packed, "ON_DEVICE", n * 8 * 9 * 3 - 1)
    mapped = Packed(tmp_path / "x.pack", "train", accelerator).pixels(some)
    assert torch.equal(mapped, here)


class StoppedError(Exception):
    pass


def stop_after(parts: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= parts * pack._PART:
            raise StoppedError

    return progress


def test_an_interrupted_pack_is_resumed_and_is_the_same_bytes(
    photos: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, partial = tmp_path / "x.pack", tmp_path / "x.pack.partial"
    monkeypatch.setattr(pack, "_PART", 8)
    pack.pack(sources(photos), tmp_path / "other.pack", 1000, 0.0)
    with pytest.raises(StoppedError):
        pack.pack(sources(photos), target, 1000, 0.0, stop_after(5))
    assert not target.exists()
    assert not packed.is_pack(partial)
    logged = (partial / "done.jsonl").read_text().splitlines()
    assert len(logged) >= 5
    damaged = json.loads(logged[0])["part"]
    start, _ = pack._planned(sources(photos), 1000).bounds(damaged)
    with (partial / packed.PIXELS).open("r+b") as file:  # as a machine that lost its power may leave it
        file.seek(start)
        file.write(b"\0" * 50)
    with (partial / "done.jsonl").open("a") as file:
        file.write('{"part": 3, "sha')
    decoded = []
    monkeypatch.setattr(pack, "reduced", lambda *given: decoded.append(given[0]) or reduced(*given))
    pack.pack(sources(photos), target, 1000, 0.0)
    assert len(decoded) == 120 - 8 * (len(logged) - 1)  # what was there and whole is not done again
    assert content(target) == content(tmp_path / "other.pack")
    assert (target / packed.PIXELS).read_bytes() == (whole / packed.PIXELS).read_bytes()
    assert not partial.exists()
    assert pack.verify(target) == []


def test_a_pack_that_was_begun_with_other_images_is_begun_anew(photos: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        pack.pack(sources(photos), tmp_path / "x.pack", 16, 0.0, stop_after(1))
    pack.pack(sources(photos), tmp_path / "x.pack", 1000, 0.0)
    assert content(tmp_path / "x.pack") == content(whole)


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
def test_a_full_disk_leaves_nothing_that_looks_whole(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(UserError, match="No space left on device") as refused:
            pack.pack(sources(photos), tmp_path / "x.pack", 32, 0.0)
    assert "make room" in refused.value.fix
    assert not (tmp_path / "x.pack").exists()
    assert not packed.is_pack(tmp_path / "x.pack.partial")
    pack.pack(sources(photos), tmp_path / "x.pack", 32, 0.0)
    assert pack.verify(tmp_path / "x.pack") == []


def test_undecodable_images_are_left_out_and_counted(photos: Path, tmp_path: Path) -> None:
    root = tmp_path / "photos"
    for path in photos.rglob("*.*"):
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / path.name).write_bytes(path.read_bytes())
    cut = root / "a" / "2.png"
    cut.write_bytes(cut.read_bytes()[:200])
    files = sources(root)
    with pytest.raises(UserError, match="1 of 120 images cannot be read"):
        pack.pack(files, tmp_path / "x.pack", 1000, 0.0)
    pack.pack(files, tmp_path / "x.pack", 1000, 0.01)
    kept = [path for split in SPLITS for path in Packed(tmp_path / "x.pack", split).paths()]
    assert sorted(kept) == sorted(path for own in files.values() for path in own.paths() if path != "a/2.png")
    assert len(kept) == 119


def test_a_changed_pack_is_refused_or_found(photos: Path, tmp_path: Path) -> None:
    pack.pack(sources(photos), tmp_path / "x.pack", 16, 0.0)
    pixels = tmp_path / "x.pack" / packed.PIXELS
    content = bytearray(pixels.read_bytes())
    content[1000] ^= 1
    pixels.write_bytes(content)
    assert len(pack.verify(tmp_path / "x.pack")) == 1
    pixels.write_bytes(content[:-1])
    with pytest.raises(UserError, match="the pack is damaged"):
        Packed(tmp_path / "x.pack", "train")


def test_a_recipe_names_a_pack_by_its_path_and_gets_views_of_its_size(photos: Path, tmp_path: Path) -> None:
    pack.pack(sources(photos), tmp_path / "x.pack", 32, 0.0)
    config = DataConfig(source="folder", path=str(tmp_path / "x.pack"))
    opened = catalog.open(config, "train")
    assert isinstance(opened, Packed)
    assert catalog.input_size(opened) == 32
    with pytest.raises(UserError, match="a pack of 32 pixels has not the detail for views of 64"):
        catalog.open(DataConfig(source="folder", path=str(tmp_path / "x.pack"), size=64), "train")


MILLION = """
import resource, sys, time
from pathlib import Path
from ssl_cls.data.packed import Packed
import torch
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
source = Packed(Path(sys.argv[1]), "train")
crop = source.crops(torch.tensor([0, 999_999]), [torch.tensor([[0.0, 0.0, 256.0, 256.0]] * 2)], [8], "bilinear")[0]
seconds = time.process_time() - begun
print(len(source), crop.shape == (2, 3, 8, 8), seconds < 1, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_million_packed_images_open_at_once_in_little_memory(tmp_path: Path) -> None:
    root, n, bytes_each = tmp_path / "x.pack", 10**6, 256 * 341 * 3
    root.mkdir()
    (root / packed.PIXELS).touch()
    os.truncate(root / packed.PIXELS, n * bytes_each)  # 262 GB, sparse
    np.save(root / "starts.npy", np.arange(n) * bytes_each)
    np.save(root / "sizes.npy", np.full((n, 2), (256, 341), np.int32))
    np.save(root / "labels.npy", np.arange(n) % 1000)
    np.save(root / "paths.npy", np.full(n, b"n01440764/n01440764_10026.JPEG"))
    head = {
        "format": packed.FORMAT, "size": 256, "channels": 3, "class_names": None, "mean": [0.5] * 3, "std": [0.2] * 3,
        "splits": {"train": {"first": 0, "last": n, "fingerprint": "0"}}, "one_size": [256, 341],
        "bytes": n * bytes_each,
    }  # fmt: skip
    (root / packed.HEAD).write_text(json.dumps(head))
    done = subprocess.run([sys.executable, "-c", MILLION, str(root)], capture_output=True, text=True, check=True)
    length, whole, quick, kilobytes = done.stdout.split()
    assert (length, whole, quick) == (str(n), "True", "True")
    assert int(kilobytes) < 100_000
