"""Published data sets with a few images each, written as their authors' files are: what the catalog must read.

A writer takes the data set's folder and returns, by part, what is in it: arrays and labels, or the label of each path.
"""

import gzip
import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # part -> uint8 [N, C, H, W], int [N]
Paths = dict[str, dict[str, Any]]  # part -> path -> label, or the labels
RNG = np.random.default_rng(0)


def _pixels(n: int, *shape: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, *shape), np.uint8)


def _labels(n: int, classes: int) -> np.ndarray:
    """Every class at least once, in no order."""
    return RNG.permutation(np.arange(n) % classes)


def _save(folder: Path, path: str, channels: int = 3) -> str:
    """A picture that no other one is."""
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    height, width = RNG.integers(20, 40, 2)
    grain = Image.fromarray(_pixels(5, 5, 3)[..., 0] if channels == 1 else _pixels(5, 5, 3))
    grain.resize((int(width), int(height)), Image.Resampling.BICUBIC).save(target, "jpeg")
    return path


def _text(folder: Path, name: str, lines: list[str]) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


# --- arrays ---


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist(folder: Path, classes: int = 10) -> Arrays:
    made = {}
    for part, stem in (("train", "train"), ("test", "t10k")):
        images, labels = _pixels(30, 28, 28), _labels(30, classes)
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels.astype(np.uint8))))
        made[part] = (images[:, None], labels)
    return made


def emnist(subset: str, classes: int, folder: Path) -> Arrays:
    made = {}
    (folder / "gzip").mkdir()
    for part in ("train", "test"):
        images, labels = _pixels(70, 28, 28), _labels(70, classes)
        stem = f"gzip/emnist-{subset}-{part}"
        stored = np.ascontiguousarray(images.transpose(0, 2, 1))
        (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(stored)))
        written = (labels + (subset == "letters")).astype(np.uint8)
        (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(written)))
        made[part] = (images[:, None], labels)
    return made


def sign_language_mnist(folder: Path) -> Arrays:
    made = {}
    for part in ("train", "test"):
        images, labels = _pixels(48, 28, 28), _labels(48, 24)
        header = ",".join(["label", *(f"pixel{n}" for n in range(1, 785))])
        rows = [
            ",".join(map(str, [label + (label > 8), *image.ravel()]))  # 9 would be J, which is a movement
            for image, label in zip(images, labels, strict=True)
        ]
        _text(folder, f"sign_mnist_{part}.csv", [header, *rows])
        made[part] = (images[:, None], labels)
    return made


def cifar10(folder: Path) -> Arrays:
    inner, made = folder / "cifar-10-batches-bin", {}
    for part, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        images, labels = _pixels(6 * len(names), 3, 32, 32), _labels(6 * len(names), 10)
        for number, name in enumerate(names):
            own = slice(6 * number, 6 * number + 6)
            records = np.concatenate((labels[own, None].astype(np.uint8), images[own].reshape(6, -1)), 1)
            _text(inner, f"{name}.bin", [])
            (inner / f"{name}.bin").write_bytes(records.tobytes())
        made[part] = (images, labels)
    _text(
        inner,
        "batches.meta.txt",
        [*["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"], ""],
    )
    return made


def cifar100(folder: Path) -> Arrays:
    inner, made = folder / "cifar-100-binary", {}
    _text(inner, "fine_label_names.txt", [f"fine_{n}" for n in range(100)])
    for part in ("train", "test"):
        images, labels = _pixels(30, 3, 32, 32), RNG.permutation(100)[:30]
        coarse = _labels(30, 20)
        records = np.concatenate((np.stack((coarse, labels), 1).astype(np.uint8), images.reshape(30, -1)), 1)
        (inner / f"{part}.bin").write_bytes(records.tobytes())
        made[part] = (images, labels)
    return made


def svhn(parts: tuple[str, ...], folder: Path) -> Arrays:
    made = {}
    for part in parts:
        images, labels = _pixels(30, 3, 32, 32), _labels(30, 10)
        stored = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
        savemat(folder / f"{part}_32x32.mat", {"X": images.transpose(2, 3, 1, 0), "y": stored}, do_compression=True)
        made[part] = (images, labels)
    return made


def stl10(folder: Path) -> Arrays:
    inner, made = folder / "stl10_binary", {}
    _text(
        inner, "class_names.txt", ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    )
    for part in ("train", "unlabeled", "test"):
        images, labels = _pixels(20, 3, 96, 96), _labels(20, 10)
        (inner / f"{part}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        if part == "unlabeled":
            labels = np.full(20, -1)
        else:
            (inner / f"{part}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
        made[part] = (images, labels)
    return made


# --- files ---


def class_folders(inner: dict[str, str], classes: list[str], channels: int, folder: Path) -> Paths:
    return {
        part: {
            _save(folder, f"{below}{name}/{part}_{number}.JPEG", channels): label
            for label, name in enumerate(sorted(classes))
            for number in range(10)
        }
        for part, below in inner.items()
    }


def imagenet(folder: Path, sorted_val: bool = False) -> Paths:
    wnids = ["n02123045", "n01440764", "n02007558"]  # in the devkit's order, which is not that of labels
    words = ["tabby, tabby cat", "tench, Tinca tinca", "flamingo"]
    label = {wnid: number for number, wnid in enumerate(sorted(wnids))}
    fields = [
        ("ILSVRC2012_ID", object),
        ("WNID", object),
        ("words", object),
        ("gloss", object),
        ("num_children", object),
    ]
    rows = [(n, wnid, text, "a thing", 0) for n, (wnid, text) in enumerate(zip(wnids, words, strict=True), 1)]
    synsets = np.array([*rows, (4, "n00001740", "entity", "all", 3)], dtype=fields)
    (folder / "ILSVRC2012_devkit_t12" / "data").mkdir(parents=True)
    savemat(folder / "ILSVRC2012_devkit_t12" / "data" / "meta.mat", {"synsets": synsets[:, None]})
    made: Paths = {"train": {}, "val": {}}
    for wnid in wnids:
        for number in range(10):
            made["train"][_save(folder, f"train/{wnid}/{wnid}_{number}.JPEG")] = label[wnid]
    truth = _labels(12, 3) + 1  # numbers of the devkit
    for number, own in enumerate(truth, 1):
        below = f"{wnids[own - 1]}/" if sorted_val else ""
        made["val"][_save(folder, f"val/{below}ILSVRC2012_val_{number:08}.JPEG")] = label[wnids[own - 1]]
    _text(folder, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", [str(own) for own in truth])
    return made


def coco(folder: Path) -> Paths:
    made: Paths = {}
    categories = [{"id": number, "name": name} for number, name in ((3, "car"), (1, "person"), (90, "toothbrush"))]
    column = {1: 0, 3: 1, 90: 2}
    for part in ("train", "val"):
        images, annotations, made[part] = [], [], {}
        for number in RNG.permutation(20):
            image, name = 1000 + int(number), f"{int(number):012}.jpg"
            labels = [0.0, 0.0, 0.0]
            for category in RNG.choice([1, 3, 90], number % 4):  # some twice, some images with nothing
                labels[column[int(category)]] = 1.0
                annotations.append(
                    {"id": len(annotations), "image_id": image, "category_id": int(category), "iscrowd": 0}
                )
            images.append({"id": image, "file_name": name, "height": 1, "width": 1})
            made[part][_save(folder, f"{part}2017/{name}")] = labels
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        _text(folder, f"annotations/instances_{part}2017.json", [json.dumps(content)])
    return made


def voc(year: int, parts: tuple[str, ...], folder: Path) -> Paths:
    inner, made, number = f"VOCdevkit/VOC{year}", {}, 0
    names = ["aeroplane", "cat", "tvmonitor"]
    column = {"aeroplane": 0, "cat": 7, "tvmonitor": 19}
    for part in parts:
        made[part] = {}
        listed = []
        for _ in range(20):
            number += 1
            name, labels, objects = f"{year}_{number:06}", [0.0] * 20, ""
            for kind in RNG.choice(names, number % 3):
                difficult = int(RNG.integers(2))
                place = column[str(kind)]
                labels[place] = 1.0 if not difficult or labels[place] == 1 else -1.0
                objects += f"<object><name>{kind}</name><difficult>{difficult}</difficult><bndbox/></object>"
            _text(
                folder, f"{inner}/Annotations/{name}.xml", [f"<annotation><filename>x</filename>{objects}</annotation>"]
            )
            made[part][_save(folder, f"{inner}/JPEGImages/{name}.jpg")] = labels
            listed.append(name)
        _text(folder, f"{inner}/ImageSets/Main/{part}.txt", listed)
    return made


def cub200(folder: Path) -> Paths:
    classes = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Red_winged_Blackbird"]
    made: Paths = {"train": {}, "test": {}}
    images, labels, split = [], [], []
    for number in range(1, 37):
        label = number % 3
        path = f"{classes[label]}/{number:04}.jpg"
        images.append(f"{number} {path}")
        labels.append(f"{number} {label + 1}")
        split.append(f"{number} {number % 2}")
        made["train" if number % 2 else "test"][_save(folder, f"CUB_200_2011/images/{path}")] = label
    for name, lines in {
        "images": images,
        "image_class_labels": labels,
        "train_test_split": split,
        "classes": [f"{n} {name}" for n, name in enumerate(classes, 1)],
    }.items():
        _text(folder, f"CUB_200_2011/{name}.txt", lines)
    return made


def stanford_cars(folder: Path) -> Paths:
    made: Paths = {}
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Type-S 2008"], dtype=object)
    (folder / "devkit").mkdir()
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for part, target in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        labels = _labels(15, 3)
        rows = [(1, 1, 9, 9, int(label) + 1, f"{number:05}.jpg") for number, label in enumerate(labels, 1)]
        savemat(folder / target, {"annotations": np.array(rows, dtype=fields)})
        made[part] = {_save(folder, f"cars_{part}/{row[5]}"): row[4] - 1 for row in rows}
    return made


def fgvc_aircraft(folder: Path) -> Paths:
    inner, made = "fgvc-aircraft-2013b/data", {}
    variants = ["707-320", "A300B4", "Cessna 172", "F/A-18"]
    _text(folder, f"{inner}/variants.txt", variants)
    for hundreds, part in enumerate(("train", "val", "test")):
        labels = _labels(20, 4)
        numbers = [f"{100 * hundreds + n:07}" for n in range(20)]
        _text(
            folder,
            f"{inner}/images_variant_{part}.txt",
            [f"{n} {variants[k]}" for n, k in zip(numbers, labels, strict=True)],
        )
        made[part] = {_save(folder, f"{inner}/images/{n}.jpg"): k for n, k in zip(numbers, labels, strict=True)}
    return made


def flowers102(folder: Path) -> Paths:
    labels = _labels(60, 102)
    order = RNG.permutation(60) + 1
    ids = {"trnid": order[:20], "valid": order[20:40], "tstid": order[40:]}
    savemat(folder / "imagelabels.mat", {"labels": (labels + 1).astype(np.uint8)[None]})
    savemat(folder / "setid.mat", {name: own.astype(np.uint16)[None] for name, own in ids.items()})
    for number in range(1, 61):
        _save(folder, f"jpg/image_{number:05}.jpg")
    parts = {"train": "trnid", "val": "valid", "test": "tstid"}
    return {part: {f"jpg/image_{n:05}.jpg": labels[n - 1] for n in ids[key]} for part, key in parts.items()}


def pets(folder: Path) -> Paths:
    made: Paths = {}
    breeds = ["Abyssinian", "american_bulldog", "Bengal"]
    for part, listed in (("train", "trainval"), ("test", "test")):
        labels = _labels(15, 3)
        names = [f"{breeds[label]}_{part}{n}" for n, label in enumerate(labels)]
        rows = [f"{name} {label + 1} 1 1" for name, label in zip(names, labels, strict=True)]
        _text(folder, f"annotations/{listed}.txt", ["#Image CLASS-ID SPECIES BREED ID", *rows])
        made[part] = {_save(folder, f"images/{name}.jpg"): label for name, label in zip(names, labels, strict=True)}
    return made


def food101(folder: Path) -> Paths:
    made: Paths = {}
    classes = ["apple_pie", "baby_back_ribs", "waffles"]
    _text(folder, "food-101/meta/classes.txt", classes)
    for part in ("train", "test"):
        labels = _labels(15, 3)
        listed = [f"{classes[label]}/{part}{n}" for n, label in enumerate(labels)]
        _text(folder, f"food-101/meta/{part}.txt", listed)
        made[part] = {_save(folder, f"food-101/images/{n}.jpg"): k for n, k in zip(listed, labels, strict=True)}
    return made


ARRAYS: dict[str, tuple[Callable[[Path], Arrays], list[str]]] = {  # with the first names of classes
    "mnist": (mnist, ["0", "1"]),
    "kmnist": (mnist, ["o", "ki"]),
    "emnist_balanced": (partial(emnist, "balanced", 47), list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")),
    "emnist_byclass": (partial(emnist, "byclass", 62), ["0", "1"]),
    "emnist_bymerge": (partial(emnist, "bymerge", 47), ["0", "1"]),
    "emnist_letters": (partial(emnist, "letters", 26), ["a", "b"]),
    "emnist_digits": (partial(emnist, "digits", 10), ["0", "1"]),
    "sign_language_mnist": (sign_language_mnist, list("ABCDEFGHIK")),
    "cifar10": (cifar10, ["airplane", "automobile"]),
    "cifar100": (cifar100, ["fine_0", "fine_1"]),
    "svhn": (partial(svhn, ("train", "test")), ["0", "1"]),
    "svhn_extra": (partial(svhn, ("train", "extra", "test")), ["0", "1"]),
    "stl10": (stl10, ["airplane", "bird", "car"]),
}
_TWO = {"train": "train/", "val": "val/"}
_WNIDS = ["n01440764", "n02102040", "n03888257"]
_MEDICAL = ["AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT"]
FILES: dict[str, tuple[Callable[[Path], Paths], list[str]]] = {
    "medical_mnist": (partial(class_folders, {"all": ""}, _MEDICAL, 1), _MEDICAL),
    "imagenette": (
        partial(class_folders, {part: f"imagenette2-160/{part}/" for part in ("train", "val")}, _WNIDS, 3),
        ["tench", "English springer", "parachute"],
    ),
    "imagenet100": (partial(class_folders, _TWO, _WNIDS, 3), _WNIDS),
    "imagenet": (imagenet, ["tench", "flamingo", "tabby"]),
    "imagenet21k": (partial(class_folders, {"all": "images/"}, _WNIDS, 3), _WNIDS),
    "coco": (coco, ["person", "car", "toothbrush"]),
    "voc2007": (partial(voc, 2007, ("train", "val", "test")), ["aeroplane", "bicycle"]),
    "voc2012": (partial(voc, 2012, ("train", "val")), ["aeroplane", "bicycle"]),
    "cub200": (cub200, ["Black footed Albatross", "Laysan Albatross", "Red winged Blackbird"]),
    "stanford_cars": (stanford_cars, ["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Acura TL Type-S 2008"]),
    "fgvc_aircraft": (fgvc_aircraft, ["707-320", "A300B4", "Cessna 172", "F/A-18"]),
    "flowers102": (flowers102, ["pink primrose", "hard-leaved pocket orchid"]),
    "pets": (pets, ["Abyssinian", "american bulldog", "Bengal"]),
    "food101": (food101, ["apple pie", "baby back ribs", "waffles"]),
    "eurosat": (
        partial(class_folders, {"all": "2750/"}, ["Forest", "River", "SeaLake"], 3),
        ["Forest", "River", "SeaLake"],
    ),
}
