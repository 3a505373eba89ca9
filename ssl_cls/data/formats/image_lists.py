"""Data sets of one folder of images and text files that list them: CUB, FGVC Aircraft, Pets, Food-101."""

from pathlib import Path

import torch

from ssl_cls.data.entry import Part
from ssl_cls.data.files import below
from ssl_cls.errors import UserError


def cub200(folder: Path, part: str) -> Part:
    """Wah et al. 2011: images.txt, image_class_labels.txt and train_test_split.txt, joined by a number."""
    inner = folder / "CUB_200_2011"
    paths, labels, is_train = (
        dict(_pairs(inner / f"{name}.txt")) for name in ("images", "image_class_labels", "train_test_split")
    )
    classes = dict(_pairs(inner / "classes.txt"))
    order = sorted(classes, key=int)
    own = [number for number in paths if is_train.get(number) == ("1" if part == "train" else "0")]
    names = [classes[number].partition(".")[2].replace("_", " ") for number in order]
    return _part(
        inner / "image_class_labels.txt",
        [f"CUB_200_2011/images/{paths[n]}" for n in own],
        [labels.get(n, "") for n in own],
        order,
        names,
    )


def fgvc_aircraft(folder: Path, part: str) -> Part:
    """Maji et al. 2013, variants: data/images_variant_train.txt has an image's number and its variant a line."""
    inner = folder / "fgvc-aircraft-2013b" / "data"
    names = [line.strip() for line in _lines(inner / "variants.txt")]
    listed = inner / f"images_variant_{part}.txt"
    pairs = _pairs(listed)
    paths = [f"fgvc-aircraft-2013b/data/images/{image}.jpg" for image, _ in pairs]
    return _part(listed, paths, [name for _, name in pairs], names, names)


def pets(folder: Path, part: str) -> Part:
    """Parkhi et al. 2012, 37 breeds: annotations/trainval.txt has image, class, species and breed a line."""
    listed = folder / "annotations" / f"{'trainval' if part == 'train' else part}.txt"
    rows = [line.split() for line in _lines(listed) if not line.startswith("#")]
    if any(len(row) != 4 for row in rows):
        raise UserError("a line that is not image, class, species and breed", str(listed), "unpack it again")
    numbers = sorted({row[1] for row in rows}, key=lambda text: (len(text), text))
    breeds = {row[1]: row[0].rpartition("_")[0].replace("_", " ") for row in rows}
    names = [breeds[number] for number in numbers]
    return _part(listed, [f"images/{row[0]}.jpg" for row in rows], [row[1] for row in rows], numbers, names)


def food101(folder: Path, part: str) -> Part:
    """Bossard et al. 2014: meta/train.txt lists apple_pie/1005649 and so on, without the ending."""
    inner = folder / "food-101"
    names = [line.strip() for line in _lines(inner / "meta" / "classes.txt")]
    listed = [line.strip() for line in _lines(inner / "meta" / f"{part}.txt")]
    paths = [f"food-101/images/{name}.jpg" for name in listed]
    readable = [name.replace("_", " ") for name in names]
    return _part(inner / "meta" / f"{part}.txt", paths, [name.split("/")[0] for name in listed], names, readable)


def _part(where: Path, paths: list[str], labels: list[str], order: list[str], names: list[str]) -> Part:
    """order: what the list calls each class, in the order of their numbers."""
    numbers = {name: number for number, name in enumerate(order)}
    if strange := next((name for name in labels if name not in numbers), None):
        raise UserError(f"{strange!r} is no class of this data set", str(where), "unpack the annotations again")
    if not paths or "" in labels:
        raise UserError("lists no images, or images of no class", str(where), "unpack the annotations again")
    safe = [below(path, str(where)) for path in paths]
    return Part(safe, torch.tensor([numbers[name] for name in labels]), names)


def _pairs(path: Path) -> list[tuple[str, str]]:
    """The first word of each line, and the rest."""
    return [(line.split(" ", 1)[0], line.split(" ", 1)[-1].strip()) for line in _lines(path)]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", str(path), "unpack the annotations again") from error
