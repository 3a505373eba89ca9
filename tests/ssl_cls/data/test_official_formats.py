"""Every published data set, from a miniature in its official format: pixels, labels, splits, names."""

from pathlib import Path

import miniatures
import numpy as np
import pytest
import torch
from PIL import Image

from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.entries import ENTRIES
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError

SPLITS = ("train", "val", "test")


def folder_of(name: str, root: Path) -> Path:
    folder = root / (ENTRIES[name].folder or name)
    folder.mkdir(parents=True)
    return folder


def opened(name: str, root: Path) -> dict[str, catalog.Source]:
    return {split: catalog.open(DataConfig(source=name, path=str(root)), split) for split in SPLITS}


def parts_of(name: str) -> dict[str, str]:
    """part -> the split that all of its images are in; "" where some are held out."""
    entry = ENTRIES[name]
    said = {entry.val: "val", entry.test: "test"}
    return {part: said.get(part, "") for split in SPLITS for part in entry.parts(split)}


def test_every_entry_has_a_miniature_or_is_tested_whole() -> None:
    assert {*miniatures.ARRAYS, *miniatures.FILES, "fashion_mnist", "digits"} == set(ENTRIES)


@pytest.mark.parametrize("name", miniatures.ARRAYS)
def test_arrays_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    write, class_names = miniatures.ARRAYS[name]
    written = write(folder_of(name, tmp_path))
    sources = opened(name, tmp_path)

    images, labels = written["test"]  # in the order of the file
    assert np.array_equal(sources["test"].pixels(torch.arange(len(images))), images)
    assert np.array_equal(all_labels(sources["test"]), labels)

    expected = {
        image.tobytes(): label for part in ENTRIES[name].train for image, label in zip(*written[part], strict=True)
    }
    found = {}
    for split in ("train", "val"):
        pixels = sources[split].pixels(torch.arange(len(sources[split]))).numpy()
        found |= {
            image.tobytes(): label for image, label in zip(pixels, all_labels(sources[split]).tolist(), strict=True)
        }
    assert found == expected
    num_labelled = int((written["train"][1] >= 0).sum())
    assert len(sources["val"]) == num_labelled // 10
    assert len(sources["train"]) == sum(len(written[part][0]) for part in ENTRIES[name].train) - num_labelled // 10

    for split, source in sources.items():
        assert source.name == f"{name}/{split}"
        assert source.class_names is not None
        assert source.class_names[: len(class_names)] == class_names
        assert source.num_classes == len(source.class_names) == ENTRIES[name].num_classes
        assert (source.channels, *(source.size or ())) == images.shape[1:]
        assert (source.mean, source.std) == (sources["train"].mean, sources["train"].std)
    if ENTRIES[name].normalisation is None:
        learnt = written["train"][0] / 255
        assert sources["test"].mean == pytest.approx(learnt.mean((0, 2, 3)), abs=6e-5)
        assert sources["test"].std == pytest.approx(learnt.std((0, 2, 3)), abs=6e-5)


@pytest.mark.parametrize("name", miniatures.FILES)
def test_files_are_read_as_they_were_written(name: str, tmp_path: Path) -> None:
    write, class_names = miniatures.FILES[name]
    folder = folder_of(name, tmp_path)
    written = write(folder)
    sources = opened(name, tmp_path)

    found = {}
    for split, source in sources.items():
        labels = all_labels(source).tolist()
        found |= {path: (split, label) for path, label in zip(source.paths(), labels, strict=True)}
        assert source.class_names is not None
        assert source.class_names[: len(class_names)] == class_names
        assert source.name == f"{name}/{split}"
        assert source.channels == (1 if name == "medical_mnist" else 3)
        assert source.num_classes == len(source.class_names)
        for number in (0, len(source) - 1):
            image = Image.open(folder / source.paths()[number])
            side = min(image.size)
            crop = source.crops(torch.tensor([number]), [torch.tensor([[0.0, 0, side, side]])], [side], "bilinear")[0]
            expected = np.asarray(image.crop((0, 0, side, side))).reshape(side, side, -1)
            assert np.array_equal(crop[0].permute(1, 2, 0), expected)
    assert len(found) == sum(map(len, sources.values()))  # no image is in two splits
    assert {path: label for path, (_, label) in found.items()} == {
        p: k for own in written.values() for p, k in own.items()
    }
    for part, said in parts_of(name).items():
        splits = {found[path][0] for path in written[part]}
        assert splits == {said} if said else ("train" in splits and "test" not in splits) or ENTRIES[name].test is None
    assert all(len(source) for source in sources.values())


def test_imagenets_val_may_be_sorted_into_folders(tmp_path: Path) -> None:
    written = miniatures.imagenet(folder_of("imagenet", tmp_path), sorted_val=True)
    test = opened("imagenet", tmp_path)["test"]
    assert dict(zip(test.paths(), all_labels(test).tolist(), strict=True)) == written["val"]
    assert test.class_names == ["tench", "flamingo", "tabby"]


def test_unlabelled_images_are_in_train_only(tmp_path: Path) -> None:
    miniatures.stl10(folder_of("stl10", tmp_path))
    unknown = {split: int((all_labels(source) < 0).sum()) for split, source in opened("stl10", tmp_path).items()}
    assert unknown == {"train": 20, "val": 0, "test": 0}


@pytest.mark.parametrize("name", ["mnist", "imagenet", "coco", "stanford_cars"])
def test_a_missing_file_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not there: no ") as refused:
        catalog.open(DataConfig(source=name, path=str(tmp_path)), "train")
    assert refused.value.where == str(tmp_path / name)
    assert ENTRIES[name].needs[0] in refused.value.what
    assert "tools/data.py get" in refused.value.fix or ENTRIES[name].how == refused.value.fix != ""


def test_entries_are_complete() -> None:
    for name, entry in ENTRIES.items():
        assert entry.title, name
        assert entry.url.startswith("http"), name
        assert entry.licence, name
        assert entry.get or entry.how or name in ("fashion_mnist", "digits"), name
        assert set(entry.counts) == set(parts_of(name)), name
        assert all(len(file.md5 or "0" * 32) == 32 for file in entry.get), name
        if entry.normalisation:
            assert len(entry.normalisation[0]) == len(entry.normalisation[1]) in (1, 3), name


# --- files that lie ---


def damaged(name: str, path: str, content: bytes | None, root: Path) -> UserError:
    """The refusal of a miniature, one file of which holds something else."""
    {**miniatures.ARRAYS, **miniatures.FILES}[name][0](folder_of(name, root))
    target = root / (ENTRIES[name].folder or name) / path
    assert target.exists()
    target.write_bytes(target.read_bytes()[:-1] if content is None else content)
    with pytest.raises(UserError) as refused:
        opened(name, root)
    return refused.value


XML = "VOCdevkit/VOC2007/Annotations/2007_000001.xml"
BOMB = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
UTF16_BOMB = BOMB.decode().replace("?>", ' encoding="UTF-16"?>').encode("utf-16")
CLIMBING = b'{"categories": [], "annotations": [], "images": [{"id": 1, "file_name": "../../x.jpg"}]}'


def packed_idx(*, value: int, count: int) -> bytes:
    return miniatures.gzip.compress(miniatures.idx(np.full(count, value, np.uint8)))


def one_sign(label: int, pixel: int) -> bytes:
    return ("label" + ",p" * 784 + f"\n{label}" + f",{pixel}" * 784).encode()


LIES = {
    "cut idx": ("mnist", "train-images-idx3-ubyte.gz", None),
    "other labels": ("mnist", "train-labels-idx1-ubyte.gz", packed_idx(value=10, count=30)),
    "letters from 0": (
        "emnist_letters",
        "gzip/emnist-letters-test-labels-idx1-ubyte.gz",
        packed_idx(value=0, count=70),
    ),
    "cut cifar": ("cifar10", "cifar-10-batches-bin/data_batch_3.bin", None),
    "a pickle": ("cifar10", "cifar-10-batches-bin/test_batch.bin", b"\x80\x04csomething"),
    "no names": ("cifar100", "cifar-100-binary/fine_label_names.txt", b"one\n"),
    "no mat": ("svhn", "test_32x32.mat", b"MATLAB? no" * 99),
    "cut stl": ("stl10", "stl10_binary/train_X.bin", None),
    "letter J": ("sign_language_mnist", "sign_mnist_test.csv", one_sign(9, 0)),
    "bright pixel": ("sign_language_mnist", "sign_mnist_test.csv", one_sign(1, 256)),
    "not json": ("coco", "annotations/instances_train2017.json", b"{"),
    "deep json": ("coco", "annotations/instances_train2017.json", b"[" * 200_000),
    "other json": ("coco", "annotations/instances_train2017.json", b'{"images": 3}'),
    "a path that climbs": ("coco", "annotations/instances_val2017.json", CLIMBING),
    "entities": ("voc2007", XML, BOMB),
    "entities in UTF-16": ("voc2007", XML, UTF16_BOMB),
    "huge xml": ("voc2007", XML, b"<a>" + b" " * 2**20 + b"</a>"),
    "no such class": ("voc2007", XML, b"<a><object><name>\x1b[31municorn</name></object></a>"),
    "absolute name": ("voc2007", "VOCdevkit/VOC2007/ImageSets/Main/test.txt", b"/etc/passwd\n"),
    "climbing list": ("food101", "food-101/meta/test.txt", b"apple_pie/../../../x\n"),
    "unknown class": ("food101", "food-101/meta/test.txt", b"soup/1\n"),
    "no label": ("cub200", "CUB_200_2011/image_class_labels.txt", b"1 1\n"),
    "unknown variant": ("fgvc_aircraft", "fgvc-aircraft-2013b/data/images_variant_val.txt", b"0000001 Zeppelin\n"),
    "short line": ("pets", "annotations/test.txt", b"Bengal_1 3\n"),
    "fewer labels": ("imagenet", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", b"1\n2\n"),
    "no such number": ("imagenet", "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", b"9\n" * 12),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie_are_refused_by_name(lie: str, tmp_path: Path) -> None:
    name, path, content = LIES[lie]
    refused = damaged(name, path, content, tmp_path)
    assert str(refused).isprintable() or "\x1b" not in str(refused)
    assert Path(path).name.removesuffix(".gz") in refused.where or Path(path).name in refused.what, str(refused)
    assert refused.fix
