"""The data sets by name: opened, checked and split."""

from typing import Literal

from ssl_cls.spec import Fraction, Natural, spec


@spec
class DataConfig:
    source: Literal["fashion_mnist", "digits", "folder"] = "fashion_mnist"
    path: str | None = None  # folder: the directory; arrays: where files are kept, ./data when left out
    workers: Natural | Literal["auto"] = "auto"  # decoding processes of file sources; array sources need none
    max_bad_fraction: Fraction = 0.01  # of unreadable images that a run may replace before it is refused
