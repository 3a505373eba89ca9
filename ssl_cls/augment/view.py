"""What a view is. Presets of the papers are lists of these; a recipe may write its own."""

from typing import Annotated, Literal

from annotated_types import Ge, Le

from ssl_cls.spec import Count, Fraction, Natural, NonNegative, Positive, spec


@spec
class View:
    """`count` independent draws of one pipeline: crop or pad, flip, rotate, jitter, gray, blur, solarize.

    Probabilities are `flip`, `jitter_p`, `gray`, `blur`, `solarize`. Jitter strengths follow torchvision's
    ColorJitter: a factor is uniform in [max(0, 1-s), 1+s] (hue: a shift in [-s, s] of a turn), the order
    random. On one-channel data saturation, hue and gray have nothing to act on.
    """

    kind: Literal["global", "local"] = "global"
    count: Count = 1
    size: Count | None = None  # side in pixels; None: the data's own, at least 28
    scale: tuple[Fraction, Fraction] | None = None  # resized crop: range of the area fraction; None: the whole image
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # aspect ratio of that crop, drawn log-uniformly
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    pad: Natural = 0  # padding crop: a shift of up to `pad` pixels each way, zeros outside
    rotate: NonNegative = 0.0  # degrees each way
    flip: Fraction = 0.0
    brightness: NonNegative = 0.0
    contrast: NonNegative = 0.0
    saturation: NonNegative = 0.0
    hue: Annotated[float, Ge(0), Le(0.5)] = 0.0
    jitter_p: Fraction = 0.0
    gray: Fraction = 0.0
    blur: Fraction = 0.0
    blur_sigma: tuple[Positive, Positive] = (0.1, 2.0)
    solarize: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be 0 < low <= high <= 1, not {list(self.scale)}")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio must be low <= high, not {list(self.ratio)}")
        if self.scale is not None and (self.pad or self.rotate):
            raise ValueError("a view has either a resized crop (scale) or a padding crop and rotation (pad, rotate)")


def expand(views: tuple[View, ...]) -> list[View]:
    """One entry a drawn view, in the order of their numbers: the `view` that `rng.uniform` is keyed with."""
    return [view for view in views for _ in range(view.count)]


def is_pair(views: tuple[View, ...]) -> bool:
    """Exactly two global views, alike or not."""
    return len(expand(views)) == 2 and all(view.kind == "global" for view in views)
