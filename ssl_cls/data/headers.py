"""Size and kind of every image, read once and remembered: a start does not read a million files again."""

import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssl_cls.data import cache
from ssl_cls.data.decode import read_header
from ssl_cls.data.files import Store, shown

_QUIET_SECONDS = 5.0


class Headers(NamedTuple):
    shapes: NDArray[np.int32]  # [N, 3]: height, width, channels
    faults: list[str]  # why a header could not be read, or ""


_last: list[tuple[tuple[str, ...], Headers]] = []  # of this process: splits of one data set are opened in turn


def read_headers(name: str, store: Store, stamps: Sequence[str]) -> Headers:
    """Of each image of `store`: from the last scan where size and time are as they were then, else from the file.

    Faults are not remembered: a file that could not be read may be readable now, and its time tells nothing.
    """
    stamped = tuple(stamps)
    if _last and _last[0][0] == stamped:
        return _last[0][1]
    target = cache.path("headers", f"{name}\0{store.root.resolve()}")
    known = _remembered(target)
    shapes, faults = np.zeros((len(stamped), 3), np.int32), [""] * len(stamped)
    said, new = time.monotonic(), False
    for number, stamp in enumerate(stamped):
        if (found := known.get(stamp)) is not None:
            shapes[number] = found
            continue
        try:
            shapes[number] = read_header(store.encoded(number))
            new = True
        except Exception as error:  # decoders raise what they like on damaged bytes
            faults[number] = str(error) or type(error).__name__
        if time.monotonic() - said > _QUIET_SECONDS:
            print(f"{shown(str(store.root))}: {number + 1} of {len(stamped)} headers read", file=sys.stderr, flush=True)
            said = time.monotonic()
    headers = Headers(shapes, faults)
    _last[:] = [(stamped, headers)]
    if new:
        whole = [number for number, fault in enumerate(faults) if not fault]
        names = np.array([stamped[number].encode(errors="surrogateescape") for number in whole])
        cache.keep(target, lambda file: np.savez(file, stamps=names, shapes=shapes[whole]))
    return headers


def _remembered(target: Path) -> dict[str, NDArray[np.int32]]:
    """Shape of each stamp in a file of the last scan; nothing where it is missing or damaged."""
    try:
        with np.load(target, allow_pickle=False) as stored:
            stamps, shapes = stored["stamps"], stored["shapes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}
    if shapes.shape != (len(stamps), 3) or shapes.dtype != np.int32 or stamps.dtype.kind != "S":
        return {}
    texts = (bytes(stamp).decode(errors="surrogateescape") for stamp in stamps)
    return dict(zip(texts, shapes, strict=True))
