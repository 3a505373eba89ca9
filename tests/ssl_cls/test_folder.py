"""A folder of images: classes, splits, and what cannot be read."""

import io
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from image_files import RNG, alone, noise, place, whole
from PIL import Image

from ssl_cls.data import catalog, headers, scan
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.own import open_own
from ssl_cls.errors import UserError


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
