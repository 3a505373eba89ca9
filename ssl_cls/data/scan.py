"""What a directory holds: image files, and the splits and classes that their places mean."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from ssl_cls.data.files import shown
from ssl_cls.data.splits import NAMES
from ssl_cls.errors import UserError

ENDINGS = (
    ".jpg",
    ".jpeg",
    ".jfif",
    ".jp2",
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
_NAMED = 5  # endings that a list of files passed over has
_UNLABELLED = {"unlabeled", "unlabelled"}  # what STL-10 and others call images to train on that have no label


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

    found = [path for path in visible(root) if path.lower().endswith(ENDINGS)]
    if not found:
        fix = f"files count as images by their ending: {' '.join(ENDINGS)}"
        raise UserError("there are no images here", str(root), fix)
    return sorted(found)


def passed_over(root: Path) -> str:
    """Files below `root` that do not count as images, by their endings: "500 .heic, 3 without an ending"; or ""."""
    endings = Counter(Path(path).suffix.lower() for path in visible(root) if not path.lower().endswith(ENDINGS))
    return ", ".join(
        f"{n:,} {shown(ending) or 'without an ending'}"
        for ending, n in sorted(endings.items(), key=lambda own: (-own[1], own[0]))[:_NAMED]
    )


def visible(root: Path) -> Iterator[str]:
    """Files that are not hidden, at any depth, relative to `root`; see `image_files`."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"a folder cannot be read: {error.strerror}", str(error.filename), "allow this user to read it"
        ) from error

    visited = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=refuse):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + name for name in names if name[0] != ".")


def places(paths: Sequence[str]) -> Places:
    """Given split and class of each image, from its path alone; see `folder.list_folder` for the rules.

    Raises:
        UserError: folders of which it is not clear whether they are splits or classes; or a class has images to be
            tested on, but none to learn from.
    """
    folders = [path.split("/")[:-1] for path in paths]
    tops = {own[0] for own in folders if own}
    given = _are_splits(tops)
    _refuse_unclear(tops, {own[1] for own in folders if len(own) > 1}, given)
    if given:
        splits = [NAMES.get(own[0].lower(), "train") if own else "train" for own in folders]
        classes = [own[1] if len(own) > 1 and own[0].lower() in NAMES else "" for own in folders]
    else:
        splits, classes = [""] * len(paths), [own[0] if own else "" for own in folders]
    learnt = {name for name, split in zip(classes, splits, strict=True) if split in ("", "train")}
    names = sorted(learnt - {""})
    if names and (strange := sorted(set(classes) - {"", *names})):
        fix = "give all splits the same class folders"
        raise UserError("a class has images to test on, but none in train/", shown(strange[0]), fix)
    return Places(splits, classes, names if len(names) > 1 else [])


def _are_splits(folders: set[str]) -> bool:
    """Whether these name splits: train is among them, and beside it another split, or nothing that could be a class."""
    others = {name for name in folders if name.lower() not in {*NAMES, *_UNLABELLED}}
    return "train" in (meant := _meant(folders)) and (len(meant) > 1 or not others)


def _meant(folders: set[str]) -> set[str]:
    return {NAMES[name.lower()] for name in folders if name.lower() in NAMES}


def _refuse_unclear(tops: set[str], inner: set[str], given: bool) -> None:
    """tops, inner: folders of the first and of the second level."""
    shown_tops = ", ".join(f"{shown(name)}/" for name in sorted(tops)[:5])
    if _meant(tops) and not given:
        name = shown(min(name for name in tops if name.lower() in NAMES))
        fix = "splits are train/, and val/ or test/ beside it; rename a class, or list the images in a manifest"
        raise UserError(f"is {name}/ a split or a class?", shown_tops, fix)
    if "train" in _meant(inner) and len(_meant(inner)) > 1:
        fix = "give the folder that train/ is in; or move train/, val/ and test/ to the top, with the classes in them"
        raise UserError("folders that look like splits are inside of others", shown_tops, fix)
