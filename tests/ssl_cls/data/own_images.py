"""Own images in miniature, and what a source made of them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import all_labels

RNG = np.random.default_rng(0)


SPLITS = ("train", "val", "test")


def png(side: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def pictures(root: Path, n: int = 40) -> dict[str, bytes]:
    """a/0.png, b/1.png, ...: two folders that may or may not be classes."""
    content = {f"{'ab'[number % 2]}/{number}.png": png() for number in range(n)}
    for path, data in content.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return content


def opened(path: Path, labels: Path | None = None) -> dict[str, catalog.Source]:
    config = DataConfig(source="folder", path=str(path), labels=None if labels is None else str(labels))
    return {split: catalog.open(config, split) for split in SPLITS}


def found(sources: dict[str, catalog.Source]) -> dict[str, tuple[str, object]]:
    """path -> (split, label or labels by name)."""
    places = {}
    for split, source in sources.items():
        names = source.class_names or []
        for path, label in zip(source.paths(), all_labels(source).tolist(), strict=True):
            if isinstance(label, list):
                label = None if -1 in label else {name for name, own in zip(names, label, strict=True) if own}
            else:
                label = names[label] if label >= 0 else None
            assert path not in places
            places[path] = (split, label)
    return places


def decoded(source: catalog.Source, number: int) -> np.ndarray:
    height, width = source.sizes(torch.tensor([number]))[0].tolist()
    side = min(height, width)
    return source.crops(torch.tensor([number]), [torch.tensor([[0.0, 0, side, side]])], [side], "bilinear")[0][
        0
    ].numpy()


def as_shown(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)


# --- manifests ---


def shard(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


class Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("planted"),)  # type: ignore[return-value]
