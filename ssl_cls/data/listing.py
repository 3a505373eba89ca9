"""From a list of image files, with labels and splits, to the Source of one split."""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_cls.data import statistics
from ssl_cls.data.files import Files, Index, Store, refuse_bad, shown
from ssl_cls.data.headers import read_headers
from ssl_cls.data.planes import Window
from ssl_cls.data.splits import hold_out
from ssl_cls.errors import NoImagesError, UserError


class Listing(NamedTuple):
    """The images of all splits, before one is opened."""

    name: str  # of the data set
    store: Store
    splits: list[str]  # of each image; other words than train, val, test: in none
    labels: Tensor  # int64 [N], -1 where there is none; or float [N, K], -1 where it is not known
    class_names: list[str] | None


class Found(NamedTuple):
    """Images with what is known of them, before anything is held out: what every reader of own images makes."""

    name: str
    store: Store
    labels: Tensor  # as Listing's
    class_names: list[str] | None
    splits: list[str]  # as given: "" where nobody said
    groups: list[str] | None = None  # "" for an image of none

    def listing(self) -> Listing:
        """With the splits that nobody gave; see `splits.hold_out`."""
        paths = [self.store.path(number) for number in range(len(self.store))]
        splits = hold_out(paths, self.labels, self.splits, self.groups)
        return Listing(self.name, self.store, splits, self.labels, self.class_names)


def open_listing(
    listing: Listing,
    split: str,
    max_bad_fraction: float,
    window: Window | None = None,
    channels: int | None = None,
    normalisation: statistics.Statistics | None = None,
) -> Files:
    """The images of `split`.

    channels: of all images; None: as many as the images have, grey only if all of all splits are.
    normalisation: (mean, std); None: of the training images themselves.

    Raises:
        NoImagesError: none in this split.
        UserError: images of different channels, or too many whose headers cannot be read.
    """
    store, where = listing.store, str(listing.store.root)
    stamps = [store.stamp(number) for number in range(len(store))]
    headers = read_headers(listing.name, store, stamps)
    members = [number for number, own in enumerate(listing.splits) if own == split]
    chosen = [number for number in members if not headers.faults[number]]
    bad = [f"{shown(store.path(number))}: {headers.faults[number]}" for number in members if headers.faults[number]]
    refuse_bad(bad, len(members), max_bad_fraction, where)
    if bad and not chosen:
        raise UserError(
            f"all {len(bad)} images of the {split} split cannot be read, first {bad[0]}", where, "replace them"
        )
    if not chosen:
        fix = "add images, or give each split its own: folders train/, val/ and test/, or a column `split`"
        raise NoImagesError(f"none of the {len(store)} images is in the {split} split", where, fix)
    channels = channels or _channels(store, headers.shapes, headers.faults)

    def digest(numbers: list[int]) -> str:
        lines = "\n".join(stamps[number] for number in numbers).encode(errors="surrogateescape")
        made = hashlib.sha256(lines)
        made.update(listing.labels[numbers].numpy().tobytes())
        made.update(repr(window).encode() if window else b"")
        return made.hexdigest()

    if normalisation is None:
        learnt = [n for n, own in enumerate(listing.splits) if own == "train" and not headers.faults[n]] or chosen
        normalisation = statistics.of_files(listing.name, store.chosen(learnt), channels, window, digest(learnt))
    unlabelled = "\n".join(stamps[n].rpartition("\0")[0] for n in chosen)  # nor does a copy's time matter
    which = hashlib.sha256(unlabelled.encode(errors="surrogateescape"))
    index = Index(
        store.chosen(chosen),
        torch.from_numpy(headers.shapes[chosen, :2]).long(),
        listing.labels[chosen],
        [shown(name) for name in listing.class_names] if listing.class_names else None,
        channels,
        *normalisation,
        digest(chosen),
        which.hexdigest(),
        bad,
        window,
    )
    return Files(f"{listing.name}/{split}", index)


def _channels(store: Store, shapes: NDArray[np.int32], faults: list[str]) -> int:
    """Of all images together: grey ones may stand among others, whose number must be one."""
    whole = np.array([not fault for fault in faults])
    found = sorted(set(shapes[whole, 2].tolist()) - {1})
    if len(found) > 1:
        first, other = (store.path(int(np.flatnonzero(whole & (shapes[:, 2] == n))[0])) for n in found[:2])
        raise UserError(
            f"images of {found[0]} and of {found[1]} channels: {shown(first)} and {shown(other)}",
            str(store.root),
            "give all images the same channels",
        )
    return found[0] if found else 1
