"""Data sets that are a folder of images for each class."""

from collections.abc import Mapping
from pathlib import Path

import torch

from ssl_cls.data import scan
from ssl_cls.data.entry import Part
from ssl_cls.errors import UserError


def class_folders(inner: Mapping[str, str], names: Mapping[str, str], folder: Path, part: str) -> Part:
    """inner: part -> the folder of its class folders. names: class folder -> what people call it.

    Classes are numbered in the order of their folders' names, those of the first part; another part may lack
    some, as miniatures do, but has no others.

    Raises:
        UserError: no images, or a class that the first part does not have.
    """
    first = next(iter(inner.values()))
    classes = [path.name for path in sorted((folder / first).iterdir()) if path.is_dir() and path.name[0] != "."]
    numbers = {name: number for number, name in enumerate(classes)}
    paths = [path for path in scan.image_files(folder / inner[part]) if "/" in path]
    if strange := sorted({path.split("/")[0] for path in paths} - set(classes)):
        raise UserError(f"a class that {first} does not have", str(folder / inner[part] / strange[0]), "remove it")
    labels = torch.tensor([numbers[path.split("/")[0]] for path in paths])
    prefix = f"{inner[part]}/" if inner[part] != "." else ""
    return Part([prefix + path for path in paths], labels, [names.get(name, name) for name in classes])
