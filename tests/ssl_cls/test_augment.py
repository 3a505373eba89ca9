"""Whole views: against torchvision's uint8 pipeline, across batches, and from crops that a source has cut."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ssl_cls.augment import augment
from ssl_cls.augment.augment import Augment, centre_boxes, whole
from ssl_cls.augment.draw import colour, geometry
from ssl_cls.augment.view import View
from ssl_cls.rng import DrawKey

KEY = DrawKey(1, 2)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def pictures(b: int, c: int, height: int, width: int) -> Tensor:
    """Smooth random blobs, uint8."""
    blobs = torch.rand(b, c, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    return tv.resize(blobs, [height, width]).to(torch.uint8)


EVERYTHING = View(
    size=32,
    scale=(0.2, 1.0),
    flip=0.5,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    hue=0.1,
    jitter_p=0.8,
    gray=0.2,
    solarize=0.2,
)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "kernel"), [(32, 3), (64, 7)])  # to blur by: a tenth of the side, odd
def test_a_whole_view_is_torchvisions_pipeline(channels: int, mode: str, size: int, kernel: int) -> None:
    """To rounding in floating point, to two levels on average in uint8, truncated after each step."""
    view = View(**{**vars(EVERYTHING), "interpolation": mode, "size": size, "blur": 0.5})
    pixels, index = pictures(32, channels, 40, 44), torch.arange(32) * 17
    ours = Augment((view,), (0.0,) * channels, (1.0,) * channels).from_pixels(pixels, index, KEY)["global"][0]
    place = geometry(view, KEY, index, 0, torch.tensor([40, 44]).expand(32, 2))
    drawn = colour(view, KEY, index, 0)

    def theirs(i: int, image: Tensor) -> Tensor:
        box = place.box[i].int().tolist()
        image = tv.resized_crop(image, *box, size=[size, size], interpolation=MODES[mode], antialias=True)
        image = image.clamp(0, 255 if image.dtype == torch.uint8 else 1)
        image = tv.horizontal_flip(image) if place.flip[i] else image
        for operation in drawn.order[i].tolist():
            image = ADJUST[operation](image, float(drawn.factors[i, operation]))
        image = tv.rgb_to_grayscale(image, channels) if drawn.gray[i] else image
        sigma = float(drawn.sigma[i])
        image = tv.gaussian_blur(image, [kernel, kernel], [sigma, sigma]) if sigma else image
        half = 128 if image.dtype == torch.uint8 else 0.5
        image = tv.solarize(image, half) if drawn.solarize[i] else image
        return tv.to_dtype(image, scale=True)

    exact = torch.stack([theirs(i, image / 255) for i, image in enumerate(pixels)])
    rounded = torch.stack([theirs(i, image) for i, image in enumerate(pixels)])
    torch.testing.assert_close(ours, exact, atol=5e-5, rtol=0)
    assert (ours - rounded).abs().mean() < 2 / 255


def test_a_view_does_not_depend_on_the_rest_of_the_batch() -> None:
    pixels, index = pictures(48, 3, 32, 32), torch.arange(48) + 100
    augment = Augment(
        (EVERYTHING, View(kind="local", count=2, size=16, scale=(0.05, 0.4), interpolation="bicubic")),
        (0.5,) * 3,
        (0.25,) * 3,
    )
    together = augment.from_pixels(pixels, index, KEY)
    for part in (torch.arange(24, 48), torch.tensor([5, 40, 3])):
        apart = augment.from_pixels(pixels[part], index[part], KEY)
        assert [len(together[kind]) for kind in ("global", "local")] == [1, 2]
        for kind in together:
            for all_, some in zip(together[kind], apart[kind], strict=True):
                assert torch.equal(all_[part], some)


@pytest.mark.parametrize("cached", [1, 10_000, 40_000])
def test_views_made_piece_by_piece_are_the_views_made_at_once(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, index = pictures(13, 3, 40, 44), torch.arange(13)
    for kept in (augment._KEPT, 0):  # in torch's memory and in numpy's
        views = [EVERYTHING, View(size=24, count=2, scale=(0.5, 1.0), blur=0.5), View(size=32, pad=4, rotate=10)]
        made = []
        for bound in (2**40, cached):
            monkeypatch.setattr(augment, "_CACHED", bound)
            monkeypatch.setattr(augment, "_KEPT", kept)
            several = Augment(tuple(views), (0.4,) * 3, (0.3,) * 3)
            crops = [pictures(13, 3, size, size) for size in several.sizes]
            made += [several.from_pixels(pixels, index, KEY), several.from_crops(crops, index, KEY)]
        for one, other in zip(made[:2], made[2:], strict=True):
            assert all(map(torch.equal, one["global"], other["global"]))


def test_views_of_the_same_settings_differ_and_depend_on_their_number_alone() -> None:
    """They are made together where they are neighbours, one by one where they are not."""
    pixels, index = pictures(24, 3, 32, 32), torch.arange(24) + 7
    other = View(**{**vars(EVERYTHING), "solarize": 0.7})

    def made(*views: View) -> list[Tensor]:
        return Augment(views, (0.5,) * 3, (0.25,) * 3).from_pixels(pixels, index, KEY)["global"]

    twice = made(View(**{**vars(EVERYTHING), "count": 2}), EVERYTHING)
    between = made(EVERYTHING, other, EVERYTHING)
    assert torch.equal(twice[0], between[0])
    assert torch.equal(twice[2], between[2])
    assert not torch.equal(twice[0], twice[1])
    assert not torch.equal(twice[1], twice[2])


def test_crops_cut_by_a_source_give_the_views_of_pixels() -> None:
    """To a rounding of uint8, whatever kind of geometry the view has."""
    mean, std = (0.5,) * 3, (0.25,) * 3
    pixels, index = pictures(16, 3, 40, 30), torch.arange(16)
    views = (
        View(size=24, scale=(0.2, 1.0), flip=0.5, brightness=0.4, jitter_p=0.8),
        View(size=40, pad=4, rotate=10.0, flip=0.5),
        View(kind="local", size=12, scale=(0.05, 0.4), interpolation="bicubic"),
    )
    augment = Augment(views, mean, std)
    boxes = augment.boxes(KEY, index, torch.tensor([40, 30]).expand(16, 2))
    crops = [
        torch.stack(
            [
                tv.resized_crop(p, *map(int, b), [s, s], MODES[mode], antialias=True)
                for p, b in zip(pixels, box, strict=True)
            ]
        )
        for box, s, mode in zip(boxes, augment.sizes, augment.interpolation, strict=True)
    ]
    from_crops, from_pixels = augment.from_crops(crops, index, KEY), augment.from_pixels(pixels, index, KEY)
    for kind in ("global", "local"):
        for cut, whole_ in zip(from_crops[kind], from_pixels[kind], strict=True):
            assert (cut - whole_).abs().mean() < 1 / 255 / 0.25


def test_evaluation_transforms() -> None:
    sizes = torch.tensor([[256, 256], [300, 500], [28, 28], [1, 9]])
    assert centre_boxes(sizes).tolist() == [
        [16, 16, 224, 224],
        [19, 119, 262, 262],
        [2, 2, 24, 24],
        [0, 4, 1, 1],
    ]
    pixels = pictures(2, 1, 28, 28)
    mean, std = (0.286,), (0.353,)
    torch.testing.assert_close(whole(pixels, 28, mean, std), tv.normalize(pixels.float() / 255, list(mean), list(std)))
    bigger = tv.normalize(tv.resize(pixels.float() / 255, [40, 40], antialias=True), list(mean), list(std))
    torch.testing.assert_close(whole(pixels, 40, mean, std), bigger, atol=1e-4, rtol=0)
