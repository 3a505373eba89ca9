"""What a method is given."""

from typing import NamedTuple

from torch import Tensor

from ssl_cls.rng import DrawKey


class Batch(NamedTuple):
    """One rank's share of one micro-batch."""

    views: dict[str, list[Tensor]]  # "global", "local": float32 [B, C, H, W] each, normalised
    index: Tensor  # type: ignore[assignment]  # int64 [B]: masks and mixup are drawn from (key, index, view, slot)
    key: DrawKey
    labels: Tensor | None  # int64 [B]; None unless the method needs labels
