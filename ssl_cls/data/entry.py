"""What the catalog knows of a published data set."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ssl_cls.data.statistics import Statistics
from ssl_cls.errors import UserError

MERGING = ".merging-"  # begins the name of a file that lies beside what an archive held while not all of it is there


class Part(NamedTuple):
    """One part of a data set as its authors divided it."""

    images: Tensor | list[str]  # uint8 [N, C, H, W], or files relative to the data set's folder
    labels: Tensor  # int64 [N], -1: unknown; or float [N, K], -1: unknown
    class_names: list[str]


@dataclass(frozen=True)
class Download:
    """One file as published."""

    url: str
    md5: str | None = None  # of the file; None: its authors publish none
    archive: bool = False  # to be unpacked beside itself

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True, eq=False)  # each is itself, and can be a key
class Entry:
    """A published data set.

    Args:
        title, url, licence: what it is, where its authors describe it, and on what terms it is used, in their words.
        read: (folder, part) -> that part, from the official files.
        counts: images of each part, as published.
        num_classes: as published.
        needs: files or folders that must be there, relative to the folder; a missing one is named.
        get: what can be fetched without a login, in any order; empty: see `how`.
        how: what a person does to get it where it cannot be fetched.
        train, val, test: the parts that our splits are. Without a val, a tenth of the labelled images of the
            first training part is it; without a test, a fifth: by a hash, always the same.
        normalisation: (mean, std) per channel that everyone uses; None: computed from a sample of the training images.
        flip: whether a mirrored image is still what its label says.
        folder: below the data directory, where it is not the entry's own name.
        classes: SHA-256 of the sorted class names with blanks between, where people use different classes.
    """

    title: str
    url: str
    licence: str
    read: Callable[[Path, str], Part]
    counts: dict[str, int]
    num_classes: int
    needs: tuple[str, ...]
    get: tuple[Download, ...] = ()
    how: str = ""
    train: tuple[str, ...] = ("train",)
    val: str | None = None
    test: str | None = "test"
    normalisation: Statistics | None = None
    flip: bool = True
    folder: str = ""
    classes: str = ""

    def parts(self, split: str) -> tuple[str, ...]:
        """The published parts in which images of `split` are."""
        if split == "train":
            return self.train
        own = self.val if split == "val" else self.test
        return (self.train[0],) if own is None else (own,)


def place(name: str, entry: Entry, root: Path) -> Path:
    """The folder of a data set below the data directory."""
    return root / (entry.folder or name)


def missing(entry: Entry, folder: Path) -> list[str]:
    """What reading needs and is not there; a gzipped file may also lie there unpacked.

    All of it where an archive is only half unpacked, see `archives.unpack`.
    """
    if next(folder.glob(f"{MERGING}*"), None):
        return list(entry.needs)
    return [
        path
        for path in entry.needs
        if not (folder / path).exists() and not (folder / path.removesuffix(".gz")).exists()
    ]


def require(name: str, entry: Entry, root: Path) -> Path:
    """The folder, with everything in it that reading needs.

    Raises:
        UserError: something is missing; says what to put where, or how it is fetched.
    """
    folder = place(name, entry, root)
    if absent := missing(entry, folder):
        fetch = f"python tools/data.py get {name} --dir {root}"
        raise UserError(
            f"{entry.title} is not there: no {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}",
            str(folder),
            entry.how or fetch,
        )
    return folder
