"""Mean and standard deviation of pixels, which encoders normalise with: of the data themselves."""

import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from ssl_cls.data import cache
from ssl_cls.data.decode import cut
from ssl_cls.data.files import Store
from ssl_cls.data.planes import Window
from ssl_cls.rng import DrawKey, permute

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

SAMPLE = 5_000  # images: their mean is within 0.01 of that of all of them
_SIDE = 64  # pixels that files are reduced to
_EPOCH = -3  # keeps these draws apart from training's, splits' and labels'
_QUIET_SECONDS = 5.0
# Where no image can be decoded: ImageNet's, and their luma
_PHOTOGRAPHS: dict[int, Statistics] = {
    3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    1: ((0.459,), (0.226,)),
}


def sample(n: int) -> Tensor:
    """The same at most 5,000 of n images each time, int64, ascending."""
    return permute(torch.arange(min(n, SAMPLE)), n, DrawKey(0, _EPOCH)).sort().values


def moments(images: Iterable[Tensor]) -> Statistics:
    """(mean, std) per channel, of pixels in [0, 1], to four digits, of uint8 [B, C, H, W].

    From the counts of the 256 values, so exact: no order of summing, and no number of threads, changes them.
    """
    counts = sum(
        torch.stack([torch.bincount(plane.reshape(-1), minlength=256) for plane in part.transpose(0, 1)]).double()
        for part in images
    )
    assert isinstance(counts, Tensor), "no images"
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    std = ((values - mean[:, None]).square() * share).sum(1).sqrt()
    return (
        tuple(round(value, 4) for value in mean.tolist()),
        tuple(max(round(value, 4), 1e-3) for value in std.tolist()),  # of a constant channel: never a division by 0
    )


def of_files(name: str, store: Store, channels: int, window: Window | None, fingerprint: str) -> Statistics:
    """The moments of a sample of `store`, each reduced to 64 x 64 pixels; computed once, then from the cache.

    fingerprint: of the images of `store`: what the cached figures belong to.
    """
    target = cache.path("statistics", f"{fingerprint} {channels}")
    if (known := _remembered(target, channels)) is not None:
        return known
    numbers = sample(len(store)).tolist()
    said = time.monotonic()
    decoded = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoders release the interpreter
        found = pool.map(lambda number: _square(store, number, channels, window), numbers)
        for done, image in enumerate(found, 1):
            if image is not None:
                decoded.append(image)
            if time.monotonic() - said > _QUIET_SECONDS:
                print(f"{name}: mean and std, {done} of {len(numbers)} images", file=sys.stderr, flush=True)
                said = time.monotonic()
    if not decoded:
        return _PHOTOGRAPHS.get(channels, ((0.5,) * channels, (0.25,) * channels))
    made = moments([torch.stack(decoded)])
    text = json.dumps({"mean": made[0], "std": made[1]})
    cache.keep(target, lambda file: file.write(text.encode()))
    return made


def _square(store: Store, number: int, channels: int, window: Window | None) -> Tensor | None:
    """uint8 [C, 64, 64], of the whole image: its shape matters little here. None where it cannot be decoded."""
    try:
        return cut(store.encoded(number), channels, [(0, 0, 1, 1)], [_SIDE], "bilinear", window)[0]
    except Exception:  # decoders raise what they like on damaged bytes; training will name the file
        return None


def _remembered(target: Path, channels: int) -> Statistics | None:
    try:
        stored = json.loads(target.read_text())
        mean, std = (tuple(float(value) for value in stored[key]) for key in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (mean, std) if len(mean) == len(std) == channels and min(std) > 0 else None
