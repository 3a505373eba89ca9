import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import RandomResizedCrop

from ssl_cls.augment.draw import colour, geometry
from ssl_cls.augment.view import View
from ssl_cls.rng import DrawKey

KEY = DrawKey(seed=3, epoch=5)
N = 4000
INDEX = torch.arange(N)
CROP = View(size=32, scale=(0.08, 0.5), flip=0.5)
JITTER = View(
    size=32,
    brightness=0.8,
    contrast=0.4,
    saturation=1.5,
    hue=0.1,
    jitter_p=0.8,
    gray=0.2,
    blur=0.3,
    solarize=0.1,
)


def square(side: int, n: int = N) -> torch.Tensor:
    return torch.full((n, 2), side)


def uniform_p(values: torch.Tensor, low: float, high: float) -> float:
    return float(stats.kstest(values.double().numpy(), stats.uniform(low, high - low).cdf).pvalue)


def test_crop_area_and_log_ratio_are_uniform() -> None:
    box = geometry(CROP, KEY, INDEX, 0, square(4000)).box.double()
    height, width = box[:, 2], box[:, 3]
    assert uniform_p(height * width / 4000**2, 0.08, 0.5) > 0.01
    assert uniform_p((width / height).log(), math.log(3 / 4), math.log(4 / 3)) > 0.01


def test_crop_position_is_uniform_over_all_places_where_it_fits() -> None:
    box = geometry(CROP, KEY, INDEX, 0, square(28)).box
    for start, length in ((0, 2), (1, 3)):
        places = 28 - box[:, length] + 1
        assert (
            uniform_p((box[:, start] + torch.rand(N, generator=torch.Generator().manual_seed(0))) / places, 0, 1) > 0.01
        )


@pytest.mark.parametrize(("height", "width"), [(28, 28), (20, 45)])
def test_boxes_are_distributed_as_torchvision_draws_them_where_many_tries_fail(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, [0.5, 1.0], [3 / 4, 4 / 3]) for _ in range(N)])
    ours = geometry(View(size=28, scale=(0.5, 1.0)), KEY, INDEX, 0, torch.tensor([[height, width]]).expand(N, 2)).box
    for side in range(4):
        assert stats.ks_2samp(ours[:, side], theirs[:, side]).pvalue > 0.01


@pytest.mark.parametrize("size", [(10, 400), (400, 10), (7, 300), (33, 2)])
def test_an_image_that_no_ratio_fits_gets_torchvisions_central_crop(size: tuple[int, int]) -> None:
    ours = geometry(View(size=28, scale=(1.0, 1.0)), KEY, INDEX[:2], 0, torch.tensor([size, size])).box
    theirs = RandomResizedCrop.get_params(torch.zeros(1, *size), [1.0, 1.0], [3 / 4, 4 / 3])
    assert ours.tolist() == [list(map(float, theirs))] * 2


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 500),
    st.integers(1, 500),
    st.floats(0.01, 1.0),
    st.floats(0.0, 1.0),
    st.floats(0.2, 1.0),
    st.floats(1.0, 5.0),
)
def test_a_crop_is_never_empty_nor_outside(
    height: int, width: int, low: float, more: float, narrow: float, wide: float
) -> None:
    view = View(size=32, scale=(low, low + more * (1 - low)), ratio=(narrow, wide))
    top, left, h, w = geometry(view, KEY, INDEX[:64], 0, torch.tensor([height, width]).expand(64, 2)).box.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h >= 1).all()
    assert (w >= 1).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    assert all((x == x.round()).all() for x in (top, left, h, w))


def test_padding_crop_shifts_by_whole_pixels_of_the_view_uniformly() -> None:
    box = geometry(View(size=28, pad=3), KEY, INDEX, 0, square(14)).box
    shift = box[:, :2] * 28 / 14
    assert torch.equal(box[:, 2:], square(14).float())
    for axis in range(2):
        counts = torch.bincount(shift[:, axis].long() + 3, minlength=7)
        assert len(counts) == 7
        assert stats.chisquare(counts).pvalue > 0.01


def test_flip_angle_and_probabilities() -> None:
    drawn = geometry(View(size=28, rotate=15.0, flip=0.3), KEY, INDEX, 0, square(28))
    assert stats.binomtest(int(drawn.flip.sum()), N, 0.3).pvalue > 0.01
    assert uniform_p(drawn.angle, -15, 15) > 0.01
    colours = colour(JITTER, KEY, INDEX, 0)
    for happened, p in (
        (colours.gray, 0.2),
        (colours.sigma > 0, 0.3),
        (colours.solarize, 0.1),
        (colours.factors[:, 0] != 1, 0.8),
    ):
        assert stats.binomtest(int(happened.sum()), N, p).pvalue > 0.01
    assert uniform_p(colours.sigma[colours.sigma > 0], 0.1, 2.0) > 0.01


def test_every_order_of_the_four_operations_is_equally_likely() -> None:
    order = colour(JITTER, KEY, INDEX, 0).order
    assert torch.equal(order.sort(1).values, torch.arange(4).expand(N, 4))
    counts = torch.bincount(order @ torch.tensor([64, 16, 4, 1]))
    assert (counts > 0).sum() == 24
    assert stats.chisquare(counts[counts > 0]).pvalue > 0.01


def test_jitter_factors_are_uniform_in_torchvisions_ranges_and_neutral_where_off() -> None:
    factors = colour(JITTER, KEY, INDEX, 0).factors
    on = factors[:, 0] != 1
    for column, (low, high) in enumerate(((0.2, 1.8), (0.6, 1.4), (0.0, 2.5), (-0.1, 0.1))):
        assert uniform_p(factors[on, column], low, high) > 0.01
    assert torch.equal(factors[~on], torch.tensor([1.0, 1.0, 1.0, 0.0]).expand(int((~on).sum()), 4))


def test_draws_of_one_sample_do_not_depend_on_its_batch() -> None:
    chosen = torch.tensor([3999, 7, 512])
    places = geometry(CROP, KEY, INDEX, 1, square(28)), geometry(CROP, KEY, chosen, 1, square(28, 3))
    colours = colour(JITTER, KEY, INDEX, 1), colour(JITTER, KEY, chosen, 1)
    for of_all, alone in (places, colours):
        assert all(torch.equal(a[chosen], b) for a, b in zip(of_all, alone, strict=True))


def test_copies_of_an_image_and_views_of_it_differ() -> None:  # X15
    """At least 95 % of 64 copies have a box of their own, and two views agree in next to none."""
    view = View(size=28, scale=(0.2, 1.0), flip=0.5, brightness=0.4, jitter_p=1.0)
    first, second = (geometry(view, KEY, INDEX[:64], number, square(28, 64)) for number in (0, 1))
    assert len(first.box.unique(dim=0)) >= 0.95 * 64
    assert (first.box == second.box).all(1).float().mean() < 0.05
    assert 0.25 < (first.flip == second.flip).float().mean() < 0.75
    factors = [colour(view, KEY, INDEX[:64], number).factors[:, 0] for number in (0, 1)]
    assert len(torch.cat(factors).unique()) == 128


@pytest.mark.parametrize("other", [DrawKey(4, 5), DrawKey(3, 6)])
def test_draws_of_two_views_epochs_and_seeds_are_uncorrelated(other: DrawKey) -> None:  # X16
    here = geometry(CROP, KEY, INDEX, 0, square(500)).box
    for there in (
        geometry(CROP, KEY, INDEX, 1, square(500)).box,
        geometry(CROP, other, INDEX, 0, square(500)).box,
    ):
        for side in range(4):
            assert stats.pearsonr(here[:, side], there[:, side]).pvalue > 0.001


def test_geometry_and_colour_share_no_randomness() -> None:
    drawn, colours = geometry(CROP, KEY, INDEX, 0, square(500)), colour(JITTER, KEY, INDEX, 0)
    on = colours.factors[:, 0] != 1
    for box_side in drawn.box[on].T:
        for factor in colours.factors[on].T:
            assert stats.pearsonr(box_side, factor).pvalue > 0.001


def test_boxes_stay_what_they_are() -> None:
    """These numbers are part of what a recipe and a seed mean: if they change, no old run can be repeated."""
    drawn = geometry(CROP, DrawKey(0, 0), torch.arange(3), 0, square(28, 3))
    assert drawn.box.tolist() == [[6.0, 13.0, 12.0, 15.0], [6.0, 5.0, 9.0, 9.0], [9.0, 0.0, 13.0, 15.0]]
    assert drawn.flip.tolist() == [True, False, True]
