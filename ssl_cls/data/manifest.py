"""Tables of images: CSV or JSON lines with path, label or labels, split, group, of which only path must be there."""

import csv
import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ssl_cls.data import splits
from ssl_cls.data.files import Store, below, shown
from ssl_cls.data.listing import Found
from ssl_cls.errors import UserError

ENDINGS = (".csv", ".tsv", ".jsonl")
_COLUMNS = ("path", "label", "labels", "split", "group")
_PATHS = ("filename", "file", "file_name", "filepath", "image", "image_path", "img")  # what others call the path
ROW_RULES = 2  # part of caches' keys: raised when the same values become another Row than before
_SEPARATOR = ";"  # between the labels of one image in a CSV file


class Row(NamedTuple):
    path: str
    labels: tuple[str, ...] | None  # None: not labelled; () is an image that shows none of the classes
    split: str
    group: str


class Table(NamedTuple):
    columns: set[str]  # of `_COLUMNS`
    rows: list[Row]


def read(path: Path) -> Table:
    """A manifest. Columns of other names are passed over, unless they look like one of these misspelt.

    `labels` are separated by semicolons, or a JSON list, of which an empty one is an image that shows no class; an
    empty cell, nan or -1 is an image that is not labelled.

    Raises:
        UserError: not such a file; the line is named.
    """
    columns: set[str] = set()
    rows = []
    for where, values in _lines(path):
        if not columns:
            _refuse_misspelt(values, where)
        columns |= {name for name in _COLUMNS if name in values}
        rows.append(row_of(values, where))
    if not rows:
        raise UserError("the manifest has no rows", str(path), "give each image a row")
    if {"label", "labels"} <= columns:
        raise UserError("has both `label` and `labels`", str(path), "one class an image is `label`, several `labels`")
    return Table(columns, rows)


def list_manifest(path: Path) -> Found:
    """The images that a manifest names, relative to the folder it is in.

    Raises:
        UserError: as `read`; also a path that is outside of that folder, or comes twice.
    """
    table = read(path)
    names = [_relative(row.path, path.parent, path) for row in table.rows]
    _refuse_twice(names, path)
    store = Store(path.resolve().parent, np.array([os.fsencode(name) for name in names]))
    unknown = Found(path.resolve().name, store, torch.full((len(names),), -1), None, [""] * len(names))
    return annotate(unknown, table, path)


def annotate(found: Found, table: Table, where: Path) -> Found:
    """`found` with what a manifest says of its images; images it does not name have no label, split or group.

    A column that the manifest does not have leaves what the images' places said.

    Raises:
        UserError: it names an image that is not there, or one twice; or as `refuse_unlearnt`.
    """
    numbers = {found.store.path(number): number for number in range(len(found.store))}
    names = [_relative(row.path, found.store.root, where) for row in table.rows]
    _refuse_twice(names, where)
    if absent := [name for name in names if name not in numbers]:
        near = difflib.get_close_matches(absent[0], list(numbers)[:10_000], n=1)
        raise UserError(
            f"{len(absent)} of {len(names)} rows name an image that is not there, first {shown(absent[0])}",
            str(where),
            f"give paths relative to {found.store.root}" + (f", such as {shown(near[0])}" if near else ""),
        )
    rows: list[Row | None] = [None] * len(found.store)
    for name, row in zip(names, table.rows, strict=True):
        rows[numbers[name]] = row
    if table.columns & {"label", "labels"}:
        labels, class_names = encode([row.labels if row else None for row in rows], "labels" in table.columns)
        found = found._replace(labels=labels, class_names=class_names)
    if "split" in table.columns:
        found = found._replace(splits=[row.split if row else "" for row in rows])
    if "group" in table.columns:
        found = found._replace(groups=[row.group if row else "" for row in rows])
    refuse_unlearnt(found.labels, found.splits, found.class_names, where)
    return found


def from_slices(
    name: str, root: Path, containers: Sequence[str], rows: Sequence[Row], slices: Sequence[tuple[int, int, int]]
) -> Found:
    """Images that lie in larger files below `root`, as `Store` has them, with what their rows say."""
    paths = np.array([os.fsencode(row.path) for row in rows])
    store = Store(root, paths, tuple(containers), np.array(slices, np.int64))
    several = any(row.labels is not None and len(row.labels) != 1 for row in rows)
    labels, class_names = encode([row.labels for row in rows], several)
    groups = [row.group for row in rows] if any(row.group for row in rows) else None
    found = Found(name, store, labels, class_names, [row.split for row in rows], groups)
    refuse_unlearnt(labels, found.splits, class_names, root)
    return found


def encode(labels: Sequence[tuple[str, ...] | None], several: bool) -> tuple[Tensor, list[str] | None]:
    """Names of classes to labels as Listing has them, and the classes in order: of numbers by value, else by name."""
    names = {name for own in labels if own for name in own}
    numeric = all(name.isdecimal() for name in names)
    classes = sorted(names, key=lambda name: (int(name) if numeric else 0, name))
    numbers = {name: number for number, name in enumerate(classes)}
    if not several:
        return torch.tensor([numbers[own[0]] if own else -1 for own in labels]), classes or None
    encoded = torch.full((len(labels), len(classes)), -1.0)
    for row, own in enumerate(labels):
        if own is not None:
            encoded[row] = 0
            encoded[row, [numbers[name] for name in own]] = 1
    return encoded, classes or None


def row_of(values: Mapping[str, Any], where: str) -> Row:
    """One image from the values of its columns. `where` is what an error names."""
    path = values.get("path")
    if not isinstance(path, str) or not path:
        raise UserError("a row without a path", where, "the columns are path, label or labels, split, group")
    split = text_of(values.get("split")).lower()
    if split and split not in splits.NAMES:
        raise UserError(f"{split[:60]!r} is no split", where, "it is train, val, test, or empty")
    return Row(path, _labels(values, where), splits.NAMES.get(split, ""), text_of(values.get("group")))


def text_of(value: Any) -> str:
    """What a cell says, as text without blanks around it; "" for what is empty: nothing, blanks, or no number (nan)."""
    text = "" if value is None else str(value).strip()
    return "" if text.lower() == "nan" else text


def _labels(values: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    label, several = values.get("label"), values.get("labels")
    if several is None:
        name = class_of(label, where)
        return (name,) if name else None
    cells = several.split(_SEPARATOR) if isinstance(several, str) else several if isinstance(several, list) else [{}]
    names = tuple(dict.fromkeys(name for own in cells if (name := class_of(own, where))))
    return names if names or several == [] else None  # [] says that none of the classes is there


def class_of(label: Any, where: str) -> str:
    """A class by its name, of a text or a whole number; "" where it is not known: nothing, blanks, nan or -1.

    Raises:
        UserError: anything else.
    """
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, bool) or not (label is None or isinstance(label, str | int) or label != label):
        raise UserError("a label that is neither text nor a whole number, nor a list of such", where, "correct it")
    text = text_of(label)
    return "" if text in ("-1", "-1.0") else text


def refuse_unlearnt(labels: Tensor, given: Sequence[str], class_names: Sequence[str] | None, where: Path) -> None:
    """Raise a UserError if a class has given val or test images, but none to learn from, while other classes do.

    Of images with several classes each, rare ones may be in one split alone.
    """
    if labels.ndim > 1 or class_names is None:
        return
    pairs = set(zip(labels.tolist(), (split in ("", "train") for split in given), strict=True))
    learnt = {label for label, to_learn in pairs if to_learn and label >= 0}
    strange = sorted({label for label, to_learn in pairs if not to_learn and label >= 0} - learnt)
    if learnt and strange:
        what = f"a class has images to test on, but none to learn from: {shown(class_names[strange[0]])}"
        raise UserError(what, str(where), "give it images of train too, or leave their labels out")


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row is, and its values by column."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() == ".jsonl":
                for number, line in enumerate(file, 1):
                    if line.strip():
                        values = json.loads(line)
                        if not isinstance(values, dict):
                            raise UserError("a line that is no JSON object", f"{path}:{number}", "correct it")
                        yield f"{path}:{number}", values
                return
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            for values in reader:
                if None in values:
                    raise UserError("more values than columns", f"{path}:{reader.line_num}", "quote values with commas")
                yield f"{path}:{reader.line_num}", values
    except FileNotFoundError:
        raise UserError("there is no such manifest", str(path), "give the path of a .csv or .jsonl file") from None
    except (OSError, ValueError, csv.Error, RecursionError) as error:
        raise UserError(f"not a manifest that can be read: {error}", str(path), "it is CSV or JSON lines") from error


def _relative(name: str, root: Path, where: Path) -> str:
    """A row's path relative to `root`, which it may begin with."""
    path = Path(name)
    for folder in (root.absolute(), root.resolve()):
        if path.is_absolute() and path.is_relative_to(folder):
            name = path.relative_to(folder).as_posix()
    return below(name, str(where))


def _refuse_misspelt(values: dict[str, Any], where: str) -> None:
    if len(values) == 1 and (separator := next((own for own in ";\t" if own in next(iter(values))), "")):
        what = "columns separated by semicolons" if separator == ";" else "columns separated by tabs"
        fix = "separate them with commas; labels of one image are what semicolons are for" if separator == ";" else ""
        raise UserError(what, where, fix or "name the file .tsv")
    if "path" not in values and (other := [name for name in values if str(name).strip().lower() in _PATHS]):
        raise UserError(f"no column `path`, but {shown(other[0])!r}", where, "rename it to path")
    for name in values:
        near = difflib.get_close_matches(str(name).strip().lower(), _COLUMNS, n=1, cutoff=0.75)
        if name not in _COLUMNS and near and near[0] not in values:
            raise UserError(f"a column {shown(str(name))!r}", where, f"did you mean {near[0]}?")


def _refuse_twice(names: list[str], where: Path) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"{shown(name)} comes twice", str(where), "give each image one row")
        seen.add(name)
