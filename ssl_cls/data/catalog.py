"""The data sets by name: a recipe's `data`, opened, checked and split."""

import difflib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import torch
from annotated_types import MinLen

from ssl_cls.augment.view import View
from ssl_cls.data.entries import ENTRIES
from ssl_cls.data.source import Source
from ssl_cls.errors import NoImagesError, UserError
from ssl_cls.spec import Count, Fraction, Natural, spec

Split = Literal["train", "val", "test"]

OWN = "folder"  # a person's own images
NAMES = (*ENTRIES, OWN)


@spec
class DataConfig:
    source: str = "fashion_mnist"  # a published data set, or `folder`: your own images, whatever they lie in
    # published: where data sets are kept, ./data when left out. folder: a directory of images or of tar shards, a
    # manifest (.csv, .jsonl), .npz, .parquet or a pack (tools/data.py pack), recognised by its name
    path: str | None = None
    workers: Natural | Literal["auto"] = "auto"  # decoding processes of file sources; array sources need none
    max_bad_fraction: Fraction = 0.01  # of unreadable images that a run may replace before it is refused
    labels: Annotated[str, MinLen(1)] | None = None  # folder: a manifest for some or all of its images
    window: tuple[float, float] | None = None  # folder: which values of deep pixels (16 bits, float) are 0 and 255
    size: Count | None = None  # side of the views where a recipe sets none, in pixels; None: the images' own, or 224

    def __post_init__(self) -> None:
        if self.source not in NAMES:
            near = difflib.get_close_matches(self.source, NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"source must be one of {', '.join(NAMES)}{hint}")
        if self.source != OWN and (self.labels or self.window):
            raise ValueError(f"{'labels' if self.labels else 'window'} is for your own images: source: {OWN}")
        if self.window and not self.window[0] < self.window[1]:
            raise ValueError(f"window must be [low, high] with low < high, not {list(self.window)}")


def open(config: DataConfig, split: Split, device: torch.device = torch.device("cpu")) -> Source:  # noqa: B008
    """One split of a data set; arrays are put on `device`.

    Raises:
        UserError: it cannot be fetched or read, or has no such split.
    """
    from ssl_cls.data.own import open_own
    from ssl_cls.data.packed import Packed
    from ssl_cls.data.published import open_published

    if config.source == OWN:
        if config.path is None:
            raise UserError(f"data.source={OWN} needs to know which folder", "data.path", "add data.path=DIR")
        labels = Path(config.labels).expanduser() if config.labels else None
        path = Path(config.path).expanduser()
        source = open_own(path, split, config.max_bad_fraction, labels, config.window, device)
        if isinstance(source, Packed) and config.size and config.size > source.side:
            what = f"a pack of {source.side} pixels has not the detail for views of {config.size}"
            raise UserError(what, "data.size", f"give at most {source.side}, or pack again with --size {config.size}")
        return source
    root = Path(config.path or "data").expanduser()
    entry = ENTRIES[config.source]
    return open_published(config.source, entry, root, split, config.max_bad_fraction, device)


def passed_over(config: DataConfig) -> str:
    """Files in a folder of own images that count as none, "500 .heic, 3 .txt"; "" where there are none."""
    from ssl_cls.data.own import passed_over

    return passed_over(Path(config.path).expanduser()) if config.source == OWN and config.path else ""


def fitting(name: str, views: tuple[View, ...]) -> tuple[View, ...]:
    """`views` without what is wrong for the data set `name` ("svhn", "svhn/train"): flips of digits and letters."""
    entry = ENTRIES.get(name.partition("/")[0])
    return views if entry is None or entry.flip else tuple(replace(view, flip=0.0) for view in views)


def unfit(name: str, views: tuple[View, ...]) -> str:
    """What a recipe's own views do that is wrong for a data set, in a sentence; "" if nothing is."""
    if fitting(name, views) == views:
        return ""
    return f"these views flip images, and a mirrored image of {name} is another one, or none: set flip: 0"


def input_size(source: Source) -> int:
    """The side of views where a recipe sets none: the images' own, at least 28; where they differ, a pack's, or 224."""
    return getattr(source, "side", 224) if source.size is None else max(28, *source.size)


def open_splits(config: DataConfig) -> dict[str, Source]:
    """Those splits that have images, by name.

    Raises:
        NoImagesError: there are none to train on.
        UserError: as `open`.
    """
    splits: dict[str, Source] = {}
    for split in get_args(Split):
        try:
            splits[split] = open(config, split)
        except NoImagesError:
            if split == "train":
                raise
    return splits
