"""Multi-label data sets: the objects that are in an image, from annotations made for detection. COCO, Pascal VOC."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import torch

from ssl_cls.data.entry import Part
from ssl_cls.data.files import below
from ssl_cls.errors import UserError

_MAX_JSON, _MAX_XML = 2**31, 2**20  # bytes: COCO's largest file has 448 MB, VOC's 20 kB
_FIX = "unpack the annotations again"
VOC_CLASSES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
]


def coco(folder: Path, part: str) -> Part:
    """Lin et al. 2014, the 2017 division: 1 for each of 80 categories that an image has an instance of, else 0."""
    path = folder / "annotations" / f"instances_{part}2017.json"
    stored = _json(path)
    try:
        categories = sorted((int(row["id"]), str(row["name"])) for row in stored["categories"])
        images = sorted((int(row["id"]), str(row["file_name"])) for row in stored["images"])
        pairs = [(int(row["image_id"]), int(row["category_id"])) for row in stored["annotations"]]
        column = {number: place for place, (number, _) in enumerate(categories)}
        row = {number: place for place, (number, _) in enumerate(images)}
        labels = torch.zeros(len(images), len(categories))
        places = torch.tensor([(row[image], column[category]) for image, category in pairs], dtype=torch.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"not COCO's instances: {error!r}", str(path), _FIX) from error
    labels[tuple(places.view(-1, 2).T)] = 1
    paths = [below(f"{part}2017/{name}", str(path)) for _, name in images]
    return Part(paths, labels, [name for _, name in categories])


def voc(year: int, folder: Path, part: str) -> Part:
    """Everingham et al. 2010: 1 for each of 20 classes that an image shows, 0 for one it does not.

    -1 where all of a class's objects in the image are marked difficult: the challenge does not count those.
    """
    inner = Path("VOCdevkit") / f"VOC{year}"
    listed = folder / inner / "ImageSets" / "Main" / f"{part}.txt"
    try:
        names = [below(name, str(listed)) for name in listed.read_text(encoding="ascii").split()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {error}", str(listed), _FIX) from error
    labels = torch.zeros(len(names), len(VOC_CLASSES))
    for number, name in enumerate(names):
        path = folder / inner / "Annotations" / f"{name}.xml"
        for shown in read_xml(path).iter("object"):
            kind = shown.findtext("name", "").strip()
            if kind not in VOC_CLASSES:
                raise UserError(f"{kind[:60]!r} is no class of VOC", str(path), _FIX)
            column = VOC_CLASSES.index(kind)
            if shown.findtext("difficult", "0").strip() != "1":
                labels[number, column] = 1
            elif labels[number, column] == 0:
                labels[number, column] = -1
    return Part([str(inner / "JPEGImages" / f"{name}.jpg") for name in names], labels, VOC_CLASSES)


def read_xml(path: Path) -> ElementTree.Element:
    """An XML file as a tree. A document type is refused, and with it every entity that could grow or reach out.

    Raises:
        UserError: missing, too large, not XML, or with a document type.
    """

    def refuse(*_: Any) -> None:
        raise ValueError("it declares a document type, which annotations have no use for")

    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler = builder.start, builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(_bytes(path, _MAX_XML), True)
        return builder.close()
    except (expat.ExpatError, ValueError) as error:
        raise UserError(f"not XML that can be read: {error}", str(path), _FIX) from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_bytes(path, _MAX_JSON))
    except (ValueError, RecursionError) as error:  # also text that is not UTF-8
        raise UserError(f"not JSON that can be read: {error}", str(path), _FIX) from error


def _bytes(path: Path, at_most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(at_most + 1)
    except OSError as error:
        raise UserError(f"cannot be read: {error}", str(path), _FIX) from error
    if len(content) > at_most:
        raise UserError(f"more than {at_most:,} bytes", str(path), _FIX)
    return content
