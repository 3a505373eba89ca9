"""What a directory holds: image files, and the splits and classes that their places mean."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from ssl_cls.data.files import shown
from ssl_cls.errors import UserError

ENDINGS = (
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
    ".npy",
)
_SPLITS = {"train", "val", "test"}


class Places(NamedTuple):
    splits: list[str]  # "" where places say nothing
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
        found += [prefix + name for name in names if name.lower().endswith(ENDINGS) and name[0] != "."]
    if not found:
        fix = f"files count as images by their ending: {' '.join(ENDINGS)}"
        raise UserError("there are no images here", str(root), fix)
    return sorted(found)


def places(paths: Sequence[str]) -> Places:
    """Given split and class of each image, from its path alone; see `folder.list_folder` for the rules.

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
    splits = [path.split("/")[0] if given else "" for path in paths]
    return Places(splits, classes, names if len(names) > 1 else [])
