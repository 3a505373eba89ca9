"""The stream of indices, views and masks over numbers of workers and ranks: one value."""

import hashlib
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from campaign import Row
from ssl_cls.augment import presets
from ssl_cls.augment.augment import Augment
from ssl_cls.data.own import open_own
from ssl_cls.data.stream import Stream
from ssl_cls.methods.mae import random_masking

STEPS, BATCH = 4, 24


def images(folder: Path, count: int = 60) -> Path:
    """JPEGs of different sizes, one of them cut short: its stand-in is part of the stream."""
    chance = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        shape = (int(chance.integers(30, 60)), int(chance.integers(30, 60)), 3)
        Image.fromarray(chance.integers(0, 256, shape, np.uint8)).save(folder / f"{number}.jpg")
    cut = folder / "7.jpg"
    cut.write_bytes(cut.read_bytes()[:-400])
    return folder


def digest(folder: Path, workers: int, num_ranks: int) -> str:
    """Of the global batches, from the batches of all ranks side by side."""
    sides = []
    for rank in range(num_ranks):
        source = open_own(folder, "train", 1.0)
        augment = Augment(presets.moco(32, 3), source.mean, source.std)
        stream = Stream(
            source, augment, seed=3, batch_size=BATCH, rank=rank, num_ranks=num_ranks,
            device=torch.device("cpu"), workers=workers, max_bad_fraction=1.0,
        )  # fmt: skip
        sides.append([batches[0] for batches in stream.batches(0, STEPS)])
    found = hashlib.sha256()
    for step in range(STEPS):
        parts = [side[step] for side in sides]
        found.update(torch.cat([part.index for part in parts]).numpy().tobytes())
        for views in zip(*(part.views["global"] for part in parts), strict=True):
            found.update(torch.cat(views).contiguous().numpy().tobytes())
        for part in parts:
            found.update(random_masking(part.key, part.index, 16, 12)[0].numpy().tobytes())
    return found.hexdigest()


def run(combinations: int, folder: Path) -> list[Row]:
    where = images(folder / "images")
    chosen = list(product((0, 1, 2, 4), (1, 2, 4)))
    if combinations < len(chosen):  # the corners
        chosen = [(0, 1), (2, 1), (0, 2), (4, 4)][:combinations]
    values = [digest(where, workers, ranks) for workers, ranks in chosen]
    same = sum(value == values[0] for value in values)
    return [Row("stream: workers x ranks", len(values), same, f"distinct values: {len(set(values))}")]
