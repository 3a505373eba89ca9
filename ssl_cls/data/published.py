"""A published data set from its official files: our three splits from the parts its authors made."""

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ssl_cls.data import statistics
from ssl_cls.data.arrays import Arrays, carve
from ssl_cls.data.entry import Entry, Part, require
from ssl_cls.data.files import Files, Store
from ssl_cls.data.listing import Found, open_listing

_VAL = 1  # draws of splits are apart: that of test is 0


def open_published(
    name: str, entry: Entry, root: Path, split: str, max_bad_fraction: float, device: torch.device
) -> Arrays | Files:
    """One split of a data set below `root`; arrays are put on `device`.

    Raises:
        UserError: files are missing, are not what they should be, or too many cannot be read.
    """
    folder = require(name, entry, root)
    parts = {part: entry.read(folder, part) for part in entry.parts(split)}
    first = next(iter(parts.values()))
    if isinstance(first.images, list):
        parts |= {part: entry.read(folder, part) for part in _all_parts(entry) if part not in parts}
        listing = _found(name, entry, folder, parts).listing()
        return open_listing(listing, split, max_bad_fraction, normalisation=entry.normalisation)
    members = [_members(entry, number, part.labels, split) for number, part in parts.items()]
    labels = torch.cat([part.labels[own] for part, own in zip(parts.values(), members, strict=True)])
    mean, std = entry.normalisation or _measured(entry, folder)
    images = _gathered(list(parts.values()), members).to(device)
    return Arrays(f"{name}/{split}", images, labels, first.class_names, mean, std)


def _all_parts(entry: Entry) -> list[str]:
    return list(dict.fromkeys(part for split in ("train", "val", "test") for part in entry.parts(split)))


def _members(entry: Entry, part: str, labels: Tensor, split: str) -> Tensor:
    """Which images of a part are of `split`, int64 [M]: all, but of the first training part a tenth may be val."""
    everything = torch.arange(len(labels))
    if entry.val is not None or part != entry.train[0] or split == "test":
        return everything
    known = everything[labels >= 0]
    _, val = carve(known, len(known) // 10, _VAL)
    return val if split == "val" else everything[~torch.isin(everything, val)]


def _gathered(parts: list[Part], members: list[Tensor]) -> Tensor:
    """The chosen images of all parts, copied once: some parts are gigabytes."""
    shape = _pixels(parts[0]).shape[1:]
    gathered = torch.empty(sum(map(len, members)), *shape, dtype=torch.uint8)
    start = 0
    for part, own in zip(parts, members, strict=True):
        torch.index_select(_pixels(part), 0, own, out=gathered[start : start + len(own)])
        start += len(own)
    return gathered


def _pixels(part: Part) -> Tensor:
    assert isinstance(part.images, Tensor), "a data set is of arrays or of files, not of both"
    return part.images


@lru_cache
def _measured(entry: Entry, folder: Path) -> statistics.Statistics:
    """Of a sample of the first training part, where its authors or users have published none."""
    images = _pixels(entry.read(folder, entry.train[0]))
    return statistics.moments(images[own] for own in torch.split(statistics.sample(len(images)), 500))


def _found(name: str, entry: Entry, folder: Path, parts: dict[str, Part]) -> Found:
    """All files of all parts. A part that is val or test is that; the others' images may be held out from them."""
    said = {entry.val: "val", entry.test: "test"}
    paths = [str(path) for part in parts.values() for path in part.images]
    splits = [said.get(part, "") for part, own in parts.items() for _ in own.images]
    store = Store(folder, np.array([os.fsencode(path) for path in paths]))
    labels = torch.cat([part.labels for part in parts.values()])
    return Found(name, store, labels, parts[entry.train[0]].class_names, splits)
