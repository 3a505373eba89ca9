"""A person's own images, recognised by their path: a folder, a manifest, tar shards, Parquet, Arrow, .npz or a pack."""

from pathlib import Path

import torch

from ssl_cls.data import manifest, npz, parquet, scan, shards
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.files import Files
from ssl_cls.data.folder import list_folder
from ssl_cls.data.listing import Found, open_listing
from ssl_cls.data.packed import Packed, is_pack
from ssl_cls.data.planes import Window
from ssl_cls.errors import UserError

_CONTAINERS = {".tar": shards.list_shards, ".parquet": parquet.list_parquet, ".arrow": parquet.list_parquet}


def open_own(
    path: Path,
    split: str,
    max_bad_fraction: float,
    labels: Path | None = None,
    window: Window | None = None,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> Arrays | Files | Packed:
    """One split of the images at `path`; arrays, and packs that fit, are put on `device`.

    labels: a manifest of some or all of these images, which adds to what their places say, or replaces it.
    Without splits of their own, images are held out from train; see `splits.hold_out`.

    Raises:
        UserError: nothing there that can be read, or nothing of this split.
    """
    if is_pack(path):
        if labels:
            raise UserError("a pack has its labels in itself", "data.labels", "pack again, with data.labels=FILE")
        return Packed(path, split, device)
    if path.suffix.lower() == ".npz":
        if labels:
            raise UserError("a .npz file has its labels in itself", "data.labels", "leave it out")
        return npz.open_npz(path, split, window, device)
    found = _found(path)
    if labels:
        found = manifest.annotate(found, manifest.read(labels), labels)
    return open_listing(found.listing(), split, max_bad_fraction, window)


def passed_over(path: Path) -> str:
    """What of a folder of images counts as none, see `scan.passed_over`; "" for images that lie in something else."""
    if not path.is_dir() or is_pack(path) or any(_files(path, ending) for ending in _CONTAINERS):
        return ""
    return scan.passed_over(path)


def _found(path: Path) -> Found:
    if path.suffix.lower() in manifest.ENDINGS and path.is_file():
        return manifest.list_manifest(path)
    for ending, read in _CONTAINERS.items():
        if files := _files(path, ending):
            return read(path.resolve().name, files)
    return list_folder(path)


def _files(path: Path, ending: str) -> list[Path]:
    """`path`, or the files of that kind in it, at any depth, if there is nothing beside them that could hold images."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == ending else []
    if any(name.lower().endswith(scan.ENDINGS) for name in scan.visible(path)):
        return []
    return [path / name for name in sorted(scan.visible(path)) if name.lower().endswith(ending)]
