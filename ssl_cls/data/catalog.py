"""The data sets by name: opened, checked and split."""

from pathlib import Path
from typing import Literal

import torch

from ssl_cls.data.source import Source
from ssl_cls.errors import UserError
from ssl_cls.spec import Fraction, Natural, spec

Split = Literal["train", "val", "test"]


@spec
class DataConfig:
    source: Literal["fashion_mnist", "digits", "folder"] = "fashion_mnist"
    path: str | None = None  # folder: the directory; arrays: where files are kept, ./data when left out
    workers: Natural | Literal["auto"] = "auto"  # decoding processes of file sources; array sources need none
    max_bad_fraction: Fraction = 0.01  # of unreadable images that a run may replace before it is refused


def open(config: DataConfig, split: Split, device: torch.device = torch.device("cpu")) -> Source:  # noqa: B008
    """One split of a data set; arrays are put on `device`.

    Raises:
        UserError: it cannot be fetched or read, or has no such split.
    """
    from ssl_cls.data import arrays, folder

    if config.source == "folder":
        if config.path is None:
            raise UserError("data.source=folder needs to know which folder", "data.path", "add data.path=DIR")
        return folder.open_folder(Path(config.path).expanduser(), split, config.max_bad_fraction)
    read = {"fashion_mnist": arrays.fashion_mnist, "digits": arrays.digits}[config.source]
    return read(split, Path(config.path or "data").expanduser(), device)


def input_size(source: Source) -> int:
    """The side of views where a recipe sets none: the images' own, at least 28, or 224 where they differ."""
    return 224 if source.size is None else max(28, *source.size)
