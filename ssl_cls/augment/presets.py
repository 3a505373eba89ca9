"""The views of the papers, as data, for images of `size` pixels a side with `channels` channels.

Papers give them for 224 pixels and RGB; what smaller or one-channel images need is in the functions at the
top. A flip turns some digits and letters into others: recipes for such data set `views` themselves.
"""

from typing import TypedDict

from ssl_cls.augment.view import View

_FLIP = 0.5  # every paper below
_BYOL_BLUR_SOLARIZE = (
    (1.0, 0.0),
    (0.1, 0.2),
)  # Grill et al. 2020, table 6: probabilities in view 1 and in view 2


def _is_small(size: int) -> bool:
    """Up to the 64 pixels of Tiny-ImageNet, papers follow their recipes for CIFAR."""
    return size <= 64


def _crop(low: float, size: int, channels: int) -> tuple[float, float]:
    """Area of a resized crop. Small images: from .2, as MoCo's CIFAR-10 demo; 8 % of 32 x 32 pixels is 9 x 9.

    One channel: from .4. There is no colour to recognise an image by, so less for a hard crop to prevent, and
    in the MNIST family the object fills the image.
    """
    if channels == 1:
        return (0.4, 1.0)
    return (max(low, 0.2) if _is_small(size) else low, 1.0)


def _blur(p: float, size: int) -> float:
    """None on CIFAR (SimCLR, B.9): a tenth of up to 40 pixels is not a kernel."""
    return p if size > 40 else 0.0


class _Jitter(TypedDict):
    brightness: float
    contrast: float
    saturation: float
    hue: float
    jitter_p: float
    gray: float


def _jitter(brightness: float, contrast: float, saturation: float, hue: float) -> _Jitter:
    """Applied with p = .8, then gray with p = .2: SimCLR, appendix A, and all that follow it."""
    return _Jitter(brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, jitter_p=0.8, gray=0.2)


def simclr(size: int, channels: int) -> tuple[View, ...]:
    """Chen et al. 2020, appendix A: crop .08 to 1, jitter (.8, .8, .8, .2); on CIFAR (B.9) half of it."""
    s = 0.5 if _is_small(size) else 1.0
    jitter = _jitter(0.8 * s, 0.8 * s, 0.8 * s, 0.2 * s)
    crop = _crop(0.08, size, channels)
    return (View(count=2, size=size, scale=crop, flip=_FLIP, blur=_blur(0.5, size), **jitter),)


def moco(size: int, channels: int) -> tuple[View, ...]:
    """MoCo v2 (Chen et al. 2020b, main_moco.py --aug-plus), SimSiam: milder crop and jitter than SimCLR's."""
    jitter = _jitter(0.4, 0.4, 0.4, 0.1)
    crop = _crop(0.2, size, channels)
    return (View(count=2, size=size, scale=crop, flip=_FLIP, blur=_blur(0.5, size), **jitter),)


def byol(size: int, channels: int) -> tuple[View, ...]:
    """Grill et al. 2020, appendix B: two different distributions. Also those of Barlow Twins and VICReg."""
    return _asymmetric(_crop(0.08, size, channels), size)


def _asymmetric(crop: tuple[float, float], size: int) -> tuple[View, ...]:
    return tuple(
        View(
            size=size,
            scale=crop,
            interpolation="bicubic",
            flip=_FLIP,
            blur=_blur(blur, size),
            solarize=solarize,
            **_jitter(0.4, 0.4, 0.2, 0.1),
        )
        for blur, solarize in _BYOL_BLUR_SOLARIZE
    )


def dino(size: int, channels: int) -> tuple[View, ...]:
    """Caron et al. 2021, section 3.1 and main_dino.py: two global views with BYOL's colours, and local ones.

    Eight local views; four of small images, where each costs a larger part of a global one.
    """
    local = View(
        kind="local",
        count=4 if _is_small(size) else 8,
        size=_local_size(size),
        # Small images: from (96/224)^2, so that no crop is enlarged; 5 % of 28 x 28 pixels is 6 x 6.
        scale=(0.18, 0.4) if _is_small(size) else (0.05, 0.4),
        interpolation="bicubic",
        flip=_FLIP,
        blur=_blur(0.5, size),
        **_jitter(0.4, 0.4, 0.2, 0.1),
    )
    return (*_asymmetric((0.4, 1.0), size), local)


def _local_size(size: int) -> int:
    """96 of 224 pixels, in whole patches of the size that is usual there: 12 of 28, 40 of 96."""
    patch = 4 if size < 64 else 8 if size < 128 else 16
    return max(patch, round(size * 96 / 224 / patch) * patch)


def mae(size: int, channels: int) -> tuple[View, ...]:
    """He et al. 2022, appendix A.1, and main_pretrain.py: resized crop, bicubic, and flip; no colour."""
    return (View(size=size, scale=(0.2, 1.0), interpolation="bicubic", flip=_FLIP),)


def supervised(size: int, channels: int) -> tuple[View, ...]:
    """Small images: padding crop, 4 of 32 pixels, and flip (He et al. 2016, 4.2); one channel: rotation too.

    Larger ones: the resized crop of Szegedy et al. 2015, section 6, and flip, as torchvision and timm train.
    """
    if not _is_small(size):
        return (View(size=size, scale=(0.08, 1.0), flip=_FLIP),)
    rotate = 10.0 if channels == 1 else 0.0  # degrees, as is usual for handwriting; black corners vanish there
    return (View(size=size, pad=round(size / 8), rotate=rotate, flip=_FLIP),)
