"""Leakage guard: test images that stand, exactly or nearly, among the images an encoder was pretrained on."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_cls.augment.augment import centre_boxes
from ssl_cls.cores import usable_cores
from ssl_cls.data.source import Source
from ssl_cls.errors import UserError

THRESHOLD = 0.99  # correlation of two images' pixels from which they count as near duplicates
_SIDE = 32  # pixels: larger images are compared at this size
_DIRECTIONS = 48  # principal axes of the filter that comes before the exact comparison
_BATCH = 250
MOST = 200_000  # images of a set
_SHOWN = 8


@dataclass(frozen=True)
class Leakage:
    """What was found between two sets. `pairs`: (test image, pretraining image, correlation), the closest first."""

    pretraining: str
    num_pretraining: int
    test: str
    num_test: int
    exact: int  # test images whose pixels, all of them, are those of a pretraining image
    near: int  # other test images that correlate with one above THRESHOLD
    pairs: list[tuple[int, int, float]]

    @property
    def sentence(self) -> str:
        share = 100 * (self.exact + self.near) / self.num_test
        return (
            f"Leakage check: of {self.num_test:,} test images, {self.exact:,} are pixel for pixel among the "
            f"{self.num_pretraining:,} of {self.pretraining}, and {self.near:,} more correlate with one above "
            f"{THRESHOLD}, mirrored or not, at {_SIDE} pixels or less ({share:.2f} % together)."
        )


def find(pretraining: Source, test: Source, cache: Path) -> Leakage:
    """Duplicates of `test` in `pretraining`; kept in `cache` by the fingerprints of both.

    Exact: SHA-256 of the pixels as they are (of images of differing size, after the resize to 32 pixels).
    Near: the Pearson correlation of grey pixels at 32 x 32 or less, the larger of the image's and its mirror image's,
    which brightness and contrast do not change. Sets of images of different sizes are compared at 32 x 32. Shifted
    copies are not found, and things that look alike, such as trousers, count too.

    Raises:
        UserError: a set of more images than are held in memory.
    """
    parts = (pretraining.fingerprint, len(pretraining), test.fingerprint, len(test), THRESHOLD, _SIDE, "v2")
    path = cache / f"leakage-{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Leakage(**{**kept, "pairs": [(int(a), int(b), float(r)) for a, b, r in kept["pairs"]]})
    except (OSError, ValueError, KeyError, TypeError):
        found = _find(pretraining, test)
    with suppress(OSError):  # a folder that cannot be written costs time, not the answer
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(asdict(found)), encoding="utf-8")
        partial.replace(path)
    return found


def _find(pretraining: Source, test: Source) -> Leakage:
    side = None if pretraining.size == test.size else _SIDE
    (hashes, bank), (test_hashes, queries) = _images(pretraining, side), _images(test, side)
    known: dict[bytes, int] = {}
    for index, digest in enumerate(hashes):
        known.setdefault(digest, index)
    exact = {index: known[digest] for index, digest in enumerate(test_hashes) if digest in known}
    both = [_near(bank, queries), _near(bank, queries.flip(2))]
    near: dict[int, tuple[int, float]] = {}
    for index, pair in (item for found in both for item in found.items()):
        if index not in exact and pair[1] > near.get(index, (0, 0.0))[1]:
            near[index] = pair
    pairs = [(index, place, 1.0) for index, place in exact.items()]
    pairs += [(index, place, r) for index, (place, r) in near.items()]
    pairs.sort(key=lambda pair: (-pair[2], pair[0]))
    counts = {"exact": len(exact), "near": len(near), "pairs": pairs[:_SHOWN]}
    return Leakage(pretraining.name, len(pretraining), test.name, len(test), **counts)  # type: ignore[arg-type]


def _images(source: Source, side: int | None) -> tuple[list[bytes], Tensor]:
    """A hash of each image, and its grey pixels without mean and length, float32 [N, h, w]: dots are correlations.

    side: of all images, in pixels; None: their own, 32 at most.

    Raises:
        UserError: more images than are held in memory.
    """
    if len(source) > MOST:
        raise UserError(f"{len(source):,} images are more than are compared in memory, {MOST:,}", source.name)
    parts = torch.split(torch.arange(len(source)), _BATCH)
    with ThreadPoolExecutor(usable_cores()) as pool:  # decoders release the interpreter
        done = list(pool.map(lambda part: _normalised(_pixels(source, part), side), parts))
    return [digest for hashes, _ in done for digest in hashes], torch.cat([rows for _, rows in done])


def _normalised(pixels: Tensor, side: int | None) -> tuple[list[bytes], Tensor]:
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in pixels.numpy()]
    grey = pixels.float().mean(1, keepdim=True)
    if side and max(grey.shape[2:]) < side:
        grey = F.interpolate(grey, size=(side, side), mode="bilinear", align_corners=False)
    elif side or max(grey.shape[2:]) > _SIDE:
        grey = F.interpolate(grey, size=(_SIDE, _SIDE), mode="area")
    flat = grey.flatten(1)
    return hashes, F.normalize(flat - flat.mean(1, keepdim=True), dim=1).view(len(grey), *grey.shape[2:])


def _pixels(source: Source, part: Tensor) -> Tensor:
    if source.size is not None:
        return source.pixels(part).cpu()
    boxes = centre_boxes(source.sizes(part), fraction=1.0)
    return source.crops(part, [boxes], [_SIDE], "bilinear")[0].cpu()


def _near(bank: Tensor, queries: Tensor) -> dict[int, tuple[int, float]]:
    """For each query the bank's most correlated row at or above THRESHOLD: its place and correlation.

    Exact, and fast: along a few orthonormal directions two images are never further apart than in all of them,
    so that what is too far there needs no further look.
    """
    bank, queries = bank.flatten(1), queries.flatten(1)
    axes = torch.linalg.eigh(bank.T @ bank).eigenvectors[:, -_DIRECTIONS:]
    limit = 2 * (1 - THRESHOLD) + 1e-5  # squared distance of unit vectors of that correlation
    found: dict[int, tuple[int, float]] = {}
    for query, place in _candidates(bank @ axes, queries @ axes, limit):
        correlation = (bank[place] * queries[query]).sum(1)
        for q, p, r in zip(*(x.tolist() for x in (query, place, correlation)), strict=True):
            if r >= THRESHOLD and r > found.get(q, (0, 0.0))[1]:
                found[q] = (p, r)
    return found


def _candidates(bank: Tensor, queries: Tensor, limit: float) -> Iterator[tuple[Tensor, Tensor]]:
    lengths = bank.square().sum(1)
    for first in range(0, len(queries), _BATCH):
        some = queries[first : first + _BATCH]
        distances = torch.addmm(lengths[None], some, bank.T, alpha=-2).add_(some.square().sum(1, keepdim=True))
        query, place = np.nonzero((distances <= limit).numpy())
        yield torch.from_numpy(query) + first, torch.from_numpy(place)
