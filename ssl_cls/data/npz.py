"""Images of one size in a .npz file of NumPy arrays; nothing in it is unpickled."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_cls.data import statistics
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.manifest import class_of, encode, refuse_unlearnt, text_of
from ssl_cls.data.planes import Window, eight_bit
from ssl_cls.data.splits import NAMES, hold_out
from ssl_cls.errors import NoImagesError, UserError

_FIX = "the arrays are images, and labels, splits, groups if known; or train_images, train_labels and so on"


def open_npz(path: Path, split: str, window: Window | None, device: torch.device) -> Arrays:
    """One split of the arrays `images` [N, H, W], [N, H, W, C] or [N, C, H, W], and where there are such `labels`
    (whole numbers with -1 for unknown, or text, [N]; or 0 and 1 [N, K]), `splits`, `groups` and `class_names`.

    Or one pair of arrays a split: train_images and train_labels (as MedMNIST's), or x_train and y_train (Keras').

    Raises:
        UserError: no such file, arrays that do not go together, or nothing of this split.
    """
    arrays = _arrays(path)
    images, labels, splits = _joined(arrays, path)
    n = len(images)
    encoded, class_names = _encoded(labels, arrays.get("class_names"), n, path)
    groups = [text_of(group) for group in arrays["groups"]] if "groups" in arrays else None
    if len(splits) != n or (groups and len(groups) != n):
        raise UserError(f"{n} images, and another number of splits or groups", str(path), _FIX)
    try:
        pixels = torch.from_numpy(_planes(eight_bit(images, window)))
    except ValueError as error:
        raise UserError(str(error), str(path), _FIX) from error
    refuse_unlearnt(encoded, splits, class_names, path)
    own = hold_out([str(number) for number in range(n)], encoded, splits, groups)
    members = {name: torch.tensor([i for i, s in enumerate(own) if s == name]).long() for name in (split, "train")}
    if not len(members[split]):
        raise NoImagesError(f"none of the {n} images is in the {split} split", str(path), _FIX)
    learnt = members["train"] if len(members["train"]) else members[split]
    sample = learnt[statistics.sample(len(learnt))]
    mean, std = statistics.moments(pixels[part] for part in torch.split(sample, 500))
    chosen = members[split]
    name = f"{path.resolve().name}/{split}"
    return Arrays(name, pixels[chosen].to(device), encoded[chosen], class_names, mean, std)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(info.file_size for info in packed.infolist())
        if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
            raise UserError(f"{size / 1e9:,.0f} GB do not fit into memory", str(path), "save image files instead")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:  # type: ignore[attr-defined]
        raise UserError(f"not arrays that can be read: {error}", str(path), _FIX) from error


def _joined(arrays: dict[str, NDArray[Any]], path: Path) -> tuple[NDArray[Any], NDArray[Any] | None, list[str]]:
    """Images, labels and given splits of all images, one split after the other."""
    if "images" in arrays:
        splits = [str(own).strip().lower() for own in arrays.get("splits", np.full(len(arrays["images"]), ""))]
        if strange := sorted(set(splits) - {"", *NAMES}):
            raise UserError(f"{strange[0][:60]!r} is no split", str(path), "it is train, val, test, or empty")
        return arrays["images"], arrays.get("labels"), [NAMES.get(own, "") for own in splits]
    for images, labels in (("{}_images", "{}_labels"), ("x_{}", "y_{}")):
        found = [split for split in ("train", "val", "test") if images.format(split) in arrays]
        if found:
            given = [split for split in found for _ in arrays[images.format(split)]]
            own = [arrays[labels.format(split)] for split in found if labels.format(split) in arrays]
            try:
                joined = np.concatenate([arrays[images.format(split)] for split in found])
                return joined, np.concatenate(own) if len(own) == len(found) else None, given
            except ValueError as error:
                raise UserError(f"the splits are of different shapes: {error}", str(path), _FIX) from error
    raise UserError(f"no images among its arrays, {', '.join(arrays)[:200]}", str(path), _FIX)


def _encoded(
    labels: NDArray[Any] | None, names: NDArray[Any] | None, n: int, path: Path
) -> tuple[Tensor, list[str] | None]:
    if labels is None:
        return torch.full((n,), -1), None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if len(labels) != n or labels.ndim > 2:
        raise UserError(f"{n} images, and labels of shape {labels.shape}", str(path), _FIX)
    if labels.ndim == 1 and labels.dtype.kind == "f" and (np.isnan(labels) | (labels % 1 == 0)).all():
        labels = np.nan_to_num(labels, nan=-1).astype(np.int64)
    if labels.ndim == 2:
        encoded: Tensor = torch.from_numpy(labels.astype(np.float32))
        if not bool(torch.isin(encoded, torch.tensor([-1.0, 0.0, 1.0])).all()):
            raise UserError("labels of several classes that are not 1, 0, or -1 for unknown", str(path), _FIX)
        count = labels.shape[1]
    elif labels.dtype.kind in "iu":
        encoded = torch.from_numpy(labels.astype(np.int64)).clamp(min=-1)
        count = int(encoded.max()) + 1
    elif labels.dtype.kind in "US":
        known = [class_of(str(own), str(path)) for own in labels]
        return encode([(own,) if own else None for own in known], several=False)
    else:
        raise UserError(f"labels of type {labels.dtype}", str(path), _FIX)
    class_names = [str(name) for name in names] if names is not None else [str(number) for number in range(count)]
    if len(class_names) < count:
        raise UserError(f"{count} classes, and {len(class_names)} names", str(path), _FIX)
    return encoded, class_names or None


def _planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, H, W], [N, H, W, C] or [N, C, H, W] -> [N, C, H, W]; the shorter outer axis of an image counts channels."""
    if images.ndim == 3:
        return np.ascontiguousarray(images[:, None])
    if images.ndim != 4 or not all(images.shape):
        raise ValueError(f"an array of shape {images.shape} holds no images")
    return np.ascontiguousarray(images if images.shape[1] < images.shape[3] else images.transpose(0, 3, 1, 2))
