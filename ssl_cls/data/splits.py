"""Which images are held out where nobody has said so: by a hash, class by class, and never half a group."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence

from torch import Tensor

from ssl_cls.errors import UserError

NAMES = {  # what people call the splits, in lower case
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_FRACTIONS = {"test": 0.2, "val": 0.1}  # of the images; of those that are not test
_HASH_BYTES = {"test": slice(0, 8), "val": slice(8, 16)}  # two independent draws


def hold_out(
    paths: Sequence[str], labels: Tensor, given: Sequence[str], groups: Sequence[str] | None = None
) -> list[str]:
    """The split of each image: the given one, or train, of which a test or val that nobody gave is held out.

    Of each class a fifth (test), then a tenth (val), those with the smallest hashes of their paths; where some
    images have labels, those without stay in train, for nothing can be scored on them. Images of one group
    (a patient, a scene) stay together and count as its commonest class. Adding images moves few others.

    Args:
        paths: what is hashed for images of no group; it does not depend on where the root is.
        labels: int64 [N], or float [N, K]; see Listing.
        given: "train", "val", "test", or "" where nothing is said.
        groups: of each image, "" for none.

    Raises:
        UserError: a group is in two given splits.
    """
    units = _units(paths, groups)
    splits = list(given)
    for name, members in units.items():
        said = {given[n] for n in members} - {""}
        if len(said) > 1:
            raise UserError(
                f"group {name!r} has images in {' and in '.join(sorted(said))}: what is tested would be known",
                "group",
                "give all images of a group the same split",
            )
        for n in members:
            splits[n] = next(iter(said), "train")
    strata = labels.tolist() if labels.ndim == 1 else [0 if known else -1 for known in (labels >= 0).any(1).tolist()]
    for split in ("test", "val"):
        if split not in given:
            for name in _chosen(split, units, splits, strata):
                for n in units[name]:
                    splits[n] = split
    return splits


def _units(paths: Sequence[str], groups: Sequence[str] | None) -> dict[str, list[int]]:
    """What is moved as one, by a name: the images of a group, else each by itself."""
    units = defaultdict(list)
    for number, path in enumerate(paths):
        group = groups[number] if groups else ""
        units[f"group {group}" if group else path].append(number)
    return units


def _chosen(split: str, units: dict[str, list[int]], splits: list[str], strata: list[int]) -> list[str]:
    """The units of train that are held out: the fraction of all images, and of each class to within one unit.

    Within a class units stand in the order of their hashes, at the share of its images that comes before their
    middles. Those of all classes are taken in the order of these shares, so that classes too small for a whole
    image take turns. The last unit of a class is never taken.
    """
    by_class: dict[int, list[str]] = defaultdict(list)
    for name, members in units.items():
        if splits[members[0]] == "train":
            known = Counter(strata[n] for n in members if strata[n] >= 0)
            by_class[min(known, key=lambda label: (-known[label], label)) if known else -1].append(name)
    if len(by_class) > 1:
        by_class.pop(-1, None)
    fraction, total = _FRACTIONS[split], 0
    candidates = []
    for names in by_class.values():
        images, taken, left = sum(len(units[name]) for name in names), 0, len(names)
        total += images
        for name in sorted(names, key=lambda name: (_hash(name, split), name)):
            middle = taken + len(units[name]) / 2
            if left > 1 and middle <= fraction * images + 0.5:
                candidates.append((middle / images, _hash(name, split), name))
                taken, left = taken + len(units[name]), left - 1
    chosen, wanted, taken = [], round(fraction * total), 0
    for _, _, name in sorted(candidates):
        if taken + len(units[name]) / 2 <= wanted:  # a group, where it comes nearer than leaving it
            chosen.append(name)
            taken += len(units[name])
    return chosen


def _hash(name: str, split: str) -> bytes:
    return hashlib.sha256(os.fsencode(name)).digest()[_HASH_BYTES[split]]
