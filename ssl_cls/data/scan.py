"""What a directory holds: image files, their headers, and the splits and classes that their places mean."""

import hashlib
import os
import sys
import time
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssl_cls.data.decode import read_header
from ssl_cls.errors import UserError

_ENDINGS = (
    ".jpg",
    ".jpeg",
    ".png",
    ".webp",
    ".bmp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".avif",
)
_SPLITS = {"train", "val", "test"}
_TEST, _VAL = 0.2, 0.1  # of all images; of those that are not test
_QUIET_SECONDS = 5.0


class Headers(NamedTuple):
    shapes: np.ndarray[tuple[int, int], np.dtype[np.int32]]  # [N, 3]: height, width, gray
    faults: list[str]  # why a header could not be read, or ""


class Places(NamedTuple):
    splits: list[str]
    classes: list[str]  # "" for an image in no class folder
    class_names: list[str]  # sorted; empty if there are fewer than two


def image_files(root: Path) -> list[str]:
    """Image files at any depth, relative to `root`, with forward slashes, sorted; without hidden ones.

    Symbolic links to folders are followed, each folder once.

    Raises:
        UserError: `root` is no folder, cannot be read, or has no images.
    """
    if not root.is_dir():
        if root.exists():
            raise UserError("this is a file, not a folder of images", str(root), "give the folder it is in")
        siblings = [path.name for path in root.parent.iterdir()] if root.parent.is_dir() else []
        near = get_close_matches(root.name, siblings, n=1)
        fix = f"did you mean {root.parent / near[0]}?" if near else "give a folder that exists"
        raise UserError("there is no such folder", str(root), fix)

    def refuse(error: OSError) -> None:
        raise UserError(
            f"a folder cannot be read: {error.strerror}", str(error.filename), "allow this user to read it"
        ) from error

    found, visited = [], set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        found += [prefix + name for name in names if name.lower().endswith(_ENDINGS) and name[0] != "."]
    if not found:
        fix = f"files count as images by their ending: {' '.join(_ENDINGS)}"
        raise UserError("there are no images here", str(root), fix)
    return sorted(found)


def places(paths: Sequence[str]) -> Places:
    """Split and class of each image, from its path alone; see `folder.open_folder` for the rules.

    Raises:
        UserError: a class has images to be tested on, but none to learn from.
    """
    tops = {path.split("/")[0] if "/" in path else "" for path in paths}
    given = tops if tops <= _SPLITS and "train" in tops else set()
    depth = 1 if given else 0
    classes = [parts[depth] if len(parts := path.split("/")) > depth + 1 else "" for path in paths]
    learnt = [name for name, path in zip(classes, paths, strict=True) if not given or path.startswith("train/")]
    names = sorted(set(learnt) - {""})
    if names and (strange := sorted(set(classes) - {"", *names})):
        fix = "give all splits the same class folders"
        raise UserError("a class has images to test on, but none in train/", shown(strange[0]), fix)
    return Places([_split(path, given) for path in paths], classes, names if len(names) > 1 else [])


def _split(path: str, given: set[str]) -> str:
    if given and not path.startswith("train/"):
        return path.split("/")[0]
    chance = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8], "big") / 2**64
    test = 0.0 if "test" in given else _TEST
    if chance < test:
        return "test"
    if "val" not in given and chance >= 1 - _VAL * (1 - test):
        return "val"
    return "train"


def stamps(root: Path, paths: Sequence[str]) -> tuple[str, ...]:
    """What changes when an image does: path, size and time of each, separated by NUL."""
    lines = []
    for path in paths:
        try:
            status = (root / path).stat()
            lines.append(f"{path}\0{status.st_size}\0{status.st_mtime_ns}")
        except OSError:  # a broken link, of which the header will tell
            lines.append(f"{path}\0")
    return tuple(lines)


@lru_cache(maxsize=2)
def headers(root: Path, stamped: tuple[str, ...]) -> Headers:
    """Of each image in `stamps`: read once for all splits, unless files have changed in between."""
    shapes, faults = np.zeros((len(stamped), 3), np.int32), [""] * len(stamped)
    said = time.monotonic()
    for number, stamp in enumerate(stamped):
        try:
            shapes[number] = read_header(root / stamp.split("\0")[0])
        except Exception as error:  # decoders raise what they like on damaged bytes
            faults[number] = str(error) or type(error).__name__
        if time.monotonic() - said > _QUIET_SECONDS:
            print(f"{root}: {number + 1} of {len(stamped)} headers read", file=sys.stderr, flush=True)
            said = time.monotonic()
    return Headers(shapes, faults)


def shown(path: str) -> str:
    """A file's name may hold any bytes: those that are not UTF-8, or would steer a terminal, as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in path)
