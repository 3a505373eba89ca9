from itertools import permutations, product

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ssl_cls.augment.apply import luminance, normalise, recolour, resample
from ssl_cls.augment.draw import Colour, Geometry, colour, geometry
from ssl_cls.augment.view import View
from ssl_cls.rng import DrawKey

KEY = DrawKey(1, 2)
MODES = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def pictures(b: int, c: int, height: int, width: int) -> Tensor:
    """Noise on top of a gradient, with saturated and black parts: uint8 [b, c, height, width]."""
    generator = torch.Generator().manual_seed(height * width + c)
    ramp = torch.linspace(-80, 300, width).expand(b, c, height, width)
    return (ramp + 60 * torch.randn(b, c, height, width, generator=generator)).clamp(0, 255).to(torch.uint8)


def fixed(b: int, box: Tensor, flip: bool = False, angle: float = 0.0) -> Geometry:
    return Geometry(box.float().expand(b, 4), torch.full((b,), angle), torch.full((b,), flip))


def unchanged(b: int) -> Colour:
    neutral = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(b, 4)
    off = torch.zeros(b, dtype=torch.bool)
    return Colour(torch.arange(4).expand(b, 4), neutral, off, torch.zeros(b), off)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("channels", "height", "width", "size"),
    [(1, 28, 28, 28), (3, 32, 32, 32), (3, 64, 50, 24), (1, 17, 23, 48), (3, 300, 401, 32)],
)
def test_crop_resize_and_flip_equal_torchvisions(mode: str, channels: int, height: int, width: int, size: int) -> None:
    view = View(size=size, scale=(0.08, 1.0), flip=0.5)
    drawn = geometry(view, KEY, torch.arange(24), 0, torch.tensor([height, width]).expand(24, 2))
    pixels = pictures(24, channels, height, width)
    ours = resample(pixels, drawn, size, mode)
    for picture, box, flip, got in zip(pixels, drawn.box.int().tolist(), drawn.flip, ours, strict=True):
        for image, exact in ((picture.float() / 255, True), (picture, False)):
            want = tv.resized_crop(image, *box, size=[size, size], interpolation=MODES[mode], antialias=True)
            want = tv.horizontal_flip(want) if flip else want
            if exact:
                torch.testing.assert_close(got, want.clamp(0, 1), atol=2e-5, rtol=0)
            else:  # uint8 images are rounded after each axis
                assert (got - want.float() / 255).abs().mean() < 0.6 / 255


def test_a_crop_sees_nothing_outside_its_box() -> None:
    """Cut, then resized: not resized, then cut. Pixels beside the box are as if they did not exist."""
    pixels = pictures(1, 1, 28, 28)
    box = torch.tensor([5, 6, 10, 12])
    elsewhere = pixels.clone()
    elsewhere[:] = 255
    elsewhere[..., 5:15, 6:18] = pixels[..., 5:15, 6:18]
    assert torch.equal(
        resample(pixels, fixed(1, box), 28, "bicubic"), resample(elsewhere, fixed(1, box), 28, "bicubic")
    )


def test_resizing_keeps_a_flat_image_flat() -> None:
    flat = torch.full((4, 3, 37, 53), 200, dtype=torch.uint8)
    drawn = geometry(View(size=29, scale=(0.05, 1.0)), KEY, torch.arange(4), 0, torch.tensor([37, 53]).expand(4, 2))
    for mode in MODES:
        torch.testing.assert_close(resample(flat, drawn, 29, mode), torch.full((4, 3, 29, 29), 200 / 255))


@pytest.mark.parametrize("shift", [(0, 0), (4, -3), (-4, 4), (-1, 0)])
@pytest.mark.parametrize(("height", "size"), [(28, 28), (12, 28), (40, 28)])
def test_padding_crop_is_torchvisions_after_the_resize(shift: tuple[int, int], height: int, size: int) -> None:
    pixels = pictures(2, 3, height, height)
    step = height / size
    ours = resample(
        pixels, fixed(2, torch.tensor([shift[0] * step, shift[1] * step, height, height])), size, "bilinear"
    )
    resized = tv.resize(pixels.float() / 255, [size, size], antialias=True)
    want = tv.crop(tv.pad(resized, [4, 4, 4, 4]), 4 + shift[0], 4 + shift[1], size, size)
    torch.testing.assert_close(ours, want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("angle", [-30.0, 7.0, 90.0])
def test_rotation_is_torchvisions_and_comes_after_the_flip(angle: float, flip: bool) -> None:
    pixels = pictures(2, 3, 28, 28)
    image = pixels.float() / 255
    want = tv.rotate(tv.horizontal_flip(image) if flip else image, angle, InterpolationMode.BILINEAR)
    ours = resample(pixels, fixed(2, torch.tensor([0, 0, 28, 28]), flip, angle), 28, "bilinear")
    torch.testing.assert_close(ours, want, atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("operation", range(4))
@pytest.mark.parametrize("strength", [-0.5, -0.13, 0.0, 0.21, 0.5])
def test_one_colour_operation_is_torchvisions(channels: int, operation: int, strength: float) -> None:
    factor = strength if operation == 3 else 1 + 2 * strength  # hue in [-.5, .5], the others in [0, 2]
    images = pictures(3, channels, 16, 16).float() / 255
    drawn = unchanged(3)
    factors = drawn.factors.clone()
    factors[:, operation] = factor
    ours = recolour(images.clone(), drawn._replace(factors=factors))
    torch.testing.assert_close(ours, ADJUST[operation](images, factor), atol=5e-6, rtol=0)


def test_hue_of_every_kind_of_colour() -> None:
    """All of {0, 1/4, ..., 1}^3: greys, black, white, and pixels whose largest channels tie."""
    levels = torch.tensor(list(product(torch.linspace(0, 1, 5).tolist(), repeat=3)))  # [125, 3]
    image = levels.T.reshape(1, 3, 5, 25).repeat(1, 1, 5, 1)
    for turn in (-0.5, -0.31, -1 / 6, 0.1, 1 / 3, 0.5):
        drawn = unchanged(1)
        ours = recolour(image.clone(), drawn._replace(factors=torch.tensor([[1.0, 1.0, 1.0, turn]])))
        torch.testing.assert_close(ours, tv.adjust_hue(image, turn), atol=5e-6, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_in_all_24_orders_at_once_is_torchvisions_one_by_one(channels: int) -> None:
    orders = torch.tensor(list(permutations(range(4))))
    images = pictures(24, channels, 16, 16).float() / 255
    factors = colour(
        View(size=16, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.4, jitter_p=0.8),
        KEY,
        torch.arange(24),
        0,
    ).factors
    ours = recolour(images.clone(), unchanged(24)._replace(order=orders, factors=factors))
    for image, order, factor, got in zip(images, orders.tolist(), factors.tolist(), ours, strict=True):
        for operation in order:
            image = ADJUST[operation](image, factor[operation])
        torch.testing.assert_close(got, image, atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_blur_and_solarize_are_torchvisions_on_the_drawn_images_alone(channels: int) -> None:
    images = pictures(8, channels, 64, 64).float() / 255
    bits = torch.arange(8)
    drawn = unchanged(8)._replace(
        gray=bits % 2 == 1,
        sigma=torch.where(bits // 2 % 2 == 1, 0.1 + 0.25 * bits, 0.0),
        solarize=bits // 4 == 1,
    )
    ours = recolour(images.clone(), drawn)
    for image, gray, sigma, invert, got in zip(
        images, drawn.gray, drawn.sigma.tolist(), drawn.solarize, ours, strict=True
    ):
        image = tv.rgb_to_grayscale(image, num_output_channels=channels) if gray else image
        image = tv.gaussian_blur(image, [7, 7], [sigma, sigma]) if sigma else image  # 10 % of 64 pixels, odd
        image = tv.solarize(image, 0.5) if invert else image
        torch.testing.assert_close(got, image, atol=5e-6, rtol=0)
    torch.testing.assert_close(
        luminance(images.expand(-1, 3, -1, -1)), tv.rgb_to_grayscale(images.expand(-1, 3, -1, -1))
    )


@pytest.mark.parametrize(("size", "kernel"), [(48, 5), (96, 9), (224, 23)])
def test_blur_kernel_is_a_tenth_of_the_side(size: int, kernel: int) -> None:
    image = pictures(1, 3, size, size).float() / 255
    ours = recolour(image.clone(), unchanged(1)._replace(sigma=torch.tensor([1.7])))
    torch.testing.assert_close(ours, tv.gaussian_blur(image, [kernel, kernel], [1.7, 1.7]), atol=5e-6, rtol=0)


def test_images_that_nothing_was_drawn_for_keep_every_bit() -> None:
    images = pictures(6, 3, 32, 32).float() / 255
    some = colour(
        View(size=32, brightness=0.4, saturation=0.4, hue=0.1, jitter_p=1.0, gray=1.0, solarize=1.0),
        KEY,
        torch.arange(6),
        0,
    )
    mixed = Colour(*(torch.cat((a[:3], b[3:])) for a, b in zip(some, unchanged(6), strict=True)))
    ours = recolour(images.clone(), mixed)
    assert torch.equal(ours[3:], images[3:])
    assert not torch.equal(ours[:3], images[:3])


def test_normalise_is_torchvisions() -> None:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (0.1, 0.4, 0.6), (0.2, 0.3, 0.5)
    torch.testing.assert_close(normalise(images.clone(), mean, std), tv.normalize(images, list(mean), list(std)))
