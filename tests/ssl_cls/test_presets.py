"""Against lightly's transforms, whose constants are the papers', and for all sizes and channels."""

from collections.abc import Callable

import pytest
import torch
from lightly.transforms import BYOLTransform, DINOTransform, MAETransform, MoCoV2Transform, SimCLRTransform
from torchvision.transforms import v2 as tv

from ssl_cls.augment import presets
from ssl_cls.augment.augment import Augment
from ssl_cls.augment.view import View, expand
from ssl_cls.rng import DrawKey

Preset = Callable[[int, int], tuple[View, ...]]
PRESETS: tuple[Preset, ...] = (
    presets.simclr,
    presets.byol,
    presets.moco,
    presets.dino,
    presets.mae,
    presets.supervised,
)


def drawn_by(pipeline: tv.Compose) -> dict[str, object]:
    """What a pipeline of lightly draws, as fields of a View."""
    found: dict[str, object] = {"gray": 0.0, "blur": 0.0, "solarize": 0.0, "jitter_p": 0.0}
    for step in pipeline.transforms:
        match type(step).__name__:
            case "RandomResizedCrop":
                found |= {"size": step.size[0], "scale": step.scale}
            case "RandomHorizontalFlip":
                found["flip"] = step.p
            case "RandomGrayscale":
                found["gray"] = step.p
            case "GaussianBlur":
                found["blur"] = step.prob
            case "RandomSolarization":
                found["solarize"] = step.prob
            case "RandomApply":
                jitter = step.transforms[0]
                strengths = {name: getattr(jitter, name)[1] - 1 for name in ("brightness", "contrast", "saturation")}
                found |= {"jitter_p": step.p, "hue": jitter.hue[1], **strengths}
    return found


@pytest.mark.parametrize(
    ("preset", "oracle"),
    [
        (presets.simclr, SimCLRTransform(input_size=224)),
        (presets.byol, BYOLTransform()),
        (presets.moco, MoCoV2Transform()),
        (presets.dino, DINOTransform(n_local_views=8)),
        (presets.mae, MAETransform()),
    ],
    ids=["simclr", "byol", "moco", "dino", "mae"],
)
def test_at_paper_scale_the_constants_are_those_of_lightly(preset: Preset, oracle: object) -> None:
    theirs = [view.transform for view in getattr(oracle, "transforms", [oracle])]
    ours = expand(preset(224, 3))
    assert len(ours) == len(theirs)
    for view, pipeline in zip(ours, theirs, strict=True):
        for name, value in drawn_by(pipeline).items():
            assert getattr(view, name) == pytest.approx(value), name


def test_cifar_gets_half_the_jitter_and_no_blur() -> None:
    """SimCLR, B.9."""
    (view,) = presets.simclr(32, 3)
    assert (view.brightness, view.contrast, view.saturation, view.hue) == (0.4, 0.4, 0.4, 0.1)
    assert all(view.blur == 0 for preset in PRESETS for view in preset(32, 3))
    assert any(view.blur > 0 for view in presets.simclr(64, 3))


@pytest.mark.parametrize(("size", "local"), [(28, 12), (32, 12), (64, 24), (96, 40), (224, 96)])
def test_local_views_are_whole_patches_and_no_crop_of_small_images_is_enlarged(size: int, local: int) -> None:
    view = presets.dino(size, 3)[-1]
    assert view.size == local
    assert view.scale is not None
    if size <= 64:
        assert size * view.scale[0] ** 0.5 >= local * 0.98


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 64])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_makes_finite_views_that_differ(preset: Preset, size: int, channels: int) -> None:
    pixels = torch.randint(0, 256, (4, channels, size, size), generator=torch.Generator().manual_seed(0))
    augment = Augment(preset(size, channels), (0.5,) * channels, (0.25,) * channels)
    made = augment.from_pixels(pixels.to(torch.uint8), torch.arange(4), DrawKey(0, 0))
    views = made["global"] + made["local"]
    assert [view.shape[2] for view in views] == augment.sizes
    for number, view in enumerate(views):
        assert view.isfinite().all()
        assert view.abs().amax() <= 2
        assert all(not torch.equal(view, other) for other in views[:number])
