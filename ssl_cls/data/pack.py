"""Decode a data set once, into a pack (see `packed`): by several threads, to be broken off and resumed at will.

All happens in NAME.partial beside the pack, which gets its name when it is whole. Each part of the pixels is written
down with its SHA-256 once it is there, and read again before it is relied on.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_cls.cores import usable_cores
from ssl_cls.data import packed
from ssl_cls.data.decode import reduced
from ssl_cls.data.files import Files, refuse_bad, shown
from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError

_PART = 32  # images
_DONE = "done.jsonl"


class _Plan(NamedTuple):
    """Where each image goes, before one is decoded."""

    sources: dict[str, Files]  # by split
    sizes: NDArray[np.int32]  # [N, 2]: height, width in the pack
    starts: NDArray[np.int64]  # [N + 1]: first bytes, and the end

    def parts(self) -> range:
        return range(-(-len(self.sizes) // _PART))

    def members(self, part: int) -> range:
        return range(part * _PART, min((part + 1) * _PART, len(self.sizes)))

    def bounds(self, part: int) -> tuple[int, int]:
        """First byte of a part, and its end."""
        numbers = self.members(part)
        return int(self.starts[numbers.start]), int(self.starts[numbers.stop])

    def image(self, number: int) -> tuple[Files, int]:
        """The source that an image is of, and its number there."""
        for source in self.sources.values():
            if number < len(source):
                return source, number
            number -= len(source)
        raise IndexError(number)


class _Part(NamedTuple):
    """What is known of a part that is written."""

    part: int
    sha256: str
    bad: dict[str, str]  # number of each image that could not be decoded (a string, as in JSON): the reason


def pack(
    sources: dict[str, Files],
    target: Path,
    size: int,
    max_bad_fraction: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the images of `sources`, by split, to the pack `target`, none with a shorter side above `size` pixels.

    Images are reduced (bicubic, antialiased), never enlarged, and keep their shape; those that are small enough keep
    their pixels. What cannot be decoded is left out. An interrupted pack is taken up where it was. progress: (images
    done, of how many), after each part.

    Raises:
        UserError: the disk is full, or has no right to be written; too many images cannot be decoded; `target` is
            there already.
    """
    if target.exists():
        raise UserError("there is something of this name already", str(target), "remove it, or give another --out")
    plan = _planned(sources, size)
    partial = target.with_name(target.name + ".partial")
    try:
        done = _begun(partial, plan, _identity(sources, size))
        with (partial / packed.PIXELS).open("r+b") as file, (partial / _DONE).open("a", encoding="utf-8") as log:
            os.posix_fallocate(file.fileno(), 0, max(1, int(plan.starts[-1])))  # a disk too small says so now
            for one in _written(plan, [part for part in plan.parts() if part not in done], file.fileno()):
                log.write(json.dumps(one._asdict()) + "\n")
                log.flush()
                done[one.part] = one
                progress(min(len(done) * _PART, len(plan.sizes)), len(plan.sizes))
            os.fsync(file.fileno())
        _finish(partial, plan, size, [done[part] for part in plan.parts()], max_bad_fraction)
        partial.rename(target)
    except OSError as error:
        fix = "make room, or give another place with --out, and run this again: it goes on where it was"
        raise UserError(f"the pack cannot be written: {error.strerror or error}", str(partial), fix) from error


def verify(root: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """What of a pack is not as it was written: a sentence a part; [] if all is.

    Raises:
        UserError: no pack that can be read.
    """
    packed.head(root)  # is in order
    sums, wrong = json.loads((root / packed.SUMS).read_text(encoding="utf-8")), []
    with (root / packed.PIXELS).open("rb") as file:
        for number, (start, end, sha256) in enumerate(sums, 1):
            if _digest(file.fileno(), start, end) != sha256:
                wrong.append(f"{packed.PIXELS}: bytes {start:,} to {end:,} have changed")
            progress(number, len(sums))
    return wrong


def encoded(splits: dict[str, Source]) -> dict[str, Files]:
    """Those of encoded images, which alone there is a reason to pack.

    Raises:
        UserError: none is.
    """
    files = {split: source for split, source in splits.items() if isinstance(source, Files)}
    if not files:
        named = next(iter(splits.values())).name
        raise UserError("these images are not encoded: there is nothing to pack", named, "use them as they are")
    return files


def is_of(root: Path, sources: dict[str, Files], size: int) -> bool:
    """Whether the pack `root` is of these images, with these labels and splits, at this size."""
    splits = packed.head(root)["splits"]
    return splits.keys() == sources.keys() and all(
        own["fingerprint"] == _fingerprint(sources[split], size, own["last"] - own["first"])
        for split, own in splits.items()
    )


def _fingerprint(source: Files, size: int, kept: int) -> str:
    return hashlib.sha256(f"{source.fingerprint} {size} {kept}".encode()).hexdigest()


def _planned(sources: dict[str, Files], size: int) -> _Plan:
    shapes = torch.cat([source.sizes(torch.arange(len(source))) for source in sources.values()])
    scale = (size / shapes.amin(1).double()).clamp(max=1)
    sizes = (shapes * scale[:, None]).round().clamp(min=1).int().numpy()
    channels = next(iter(sources.values())).channels
    starts = np.concatenate([[0], np.cumsum(sizes.prod(1, dtype=np.int64) * channels)])
    return _Plan(sources, sizes, starts)


def _identity(sources: dict[str, Files], size: int) -> str:
    """What a pack that was broken off must have been begun with, to be resumed."""
    parts = {split: (source.fingerprint, len(source)) for split, source in sources.items()}
    return json.dumps([packed.FORMAT, size, _PART, parts])


def _begun(partial: Path, plan: _Plan, identity: str) -> dict[int, _Part]:
    """The parts that are there, of a pack begun with the same images; else a fresh folder."""
    known = partial / "identity.json"
    if not known.is_file() or known.read_text(encoding="utf-8") != identity:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        (partial / packed.PIXELS).touch()
        known.write_text(identity, encoding="utf-8")
        return {}
    done = {}
    log = partial / _DONE
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        try:
            one = _Part(**json.loads(line))
        except (ValueError, TypeError):  # cut off in the middle of a line
            continue
        done[one.part] = one
    with (partial / packed.PIXELS).open("rb") as file:
        return {n: one for n, one in done.items() if _digest(file.fileno(), *plan.bounds(n)) == one.sha256}


def _written(plan: _Plan, parts: list[int], file: int) -> Iterator[_Part]:
    """Each part as it is done, in no order; few are under way at a time, so that stopping is quick."""
    workers = usable_cores()
    waiting = iter(parts)
    with ThreadPoolExecutor(workers) as pool:  # decoders release the interpreter
        under_way: set[Future[_Part]] = {pool.submit(_write, plan, part, file) for part in islice(waiting, 2 * workers)}
        while under_way:
            finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            under_way |= {pool.submit(_write, plan, part, file) for part in islice(waiting, len(finished))}
            for one in finished:
                yield one.result()


def _write(plan: _Plan, part: int, file: int) -> _Part:
    start, end = plan.bounds(part)
    pixels, bad = np.zeros(end - start, np.uint8), {}
    for number in plan.members(part):
        source, own = plan.image(number)
        (height, width), at = plan.sizes[number].tolist(), int(plan.starts[number]) - start
        try:
            image = reduced(source.store.encoded(own), source.channels, height, width, source.window)
            pixels[at : at + image.size] = image.reshape(-1)
        except Exception as error:  # decoders raise what they like on damaged bytes
            bad[str(number)] = str(error)
    left, at = memoryview(pixels.data), start
    while left:
        written = os.pwrite(file, left, at)
        left, at = left[written:], at + written
    return _Part(part, hashlib.sha256(pixels.data).hexdigest(), bad)


def _digest(file: int, start: int, end: int) -> str:
    return hashlib.sha256(os.pread(file, end - start, start)).hexdigest()


def _finish(partial: Path, plan: _Plan, size: int, parts: list[_Part], max_bad_fraction: float) -> None:
    """The index, without the images that could not be decoded; and what makes it a pack."""
    reasons = {int(number): reason for one in parts for number, reason in one.bad.items()}
    where = {number: plan.image(number) for number in reasons}
    bad = [f"{shown(source.store.path(own))}: {reasons[n]}" for n, (source, own) in sorted(where.items())]
    first = next(iter(plan.sources.values()))
    refuse_bad(bad, len(plan.sizes), max_bad_fraction, str(first.store.root))
    whole = np.ones(len(plan.sizes), bool)
    whole[list(reasons)] = False
    splits: dict[str, Any] = {}
    at = kept = 0
    for split, source in plan.sources.items():
        count = int(whole[at : at + len(source)].sum())
        if count:
            fingerprint = _fingerprint(source, size, count)
            splits[split] = {"first": kept, "last": kept + count, "fingerprint": fingerprint}
        at, kept = at + len(source), kept + count
    sizes = plan.sizes[whole]
    arrays: dict[str, NDArray[Any]] = {
        "starts": plan.starts[:-1][whole],
        "sizes": sizes,
        "labels": torch.cat([all_labels(source) for source in plan.sources.values()]).numpy()[whole],
        "paths": np.concatenate([source.store.paths for source in plan.sources.values()])[whole],
    }
    for name, array in arrays.items():
        np.save(partial / f"{name}.npy", array)
    head = {
        "format": packed.FORMAT,
        "size": size,
        "channels": first.channels,
        "class_names": first.class_names,
        "mean": first.mean,
        "std": first.std,
        "splits": splits,
        "one_size": sizes[0].tolist() if len(sizes) and bool((sizes == sizes[0]).all()) else None,
        "bytes": max(1, int(plan.starts[-1])),
        "bad": bad,
    }
    sums = [(*plan.bounds(one.part), one.sha256) for one in parts]
    (partial / packed.SUMS).write_text(json.dumps(sums), encoding="utf-8")
    (partial / packed.HEAD).write_text(json.dumps(head), encoding="utf-8")
    for name in (_DONE, "identity.json"):
        (partial / name).unlink()
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
