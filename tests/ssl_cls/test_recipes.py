"""Every shipped recipe loads, says what it is, comes to what is recorded here, and takes a step in miniature."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator

from ssl_cls import config
from ssl_cls.augment.view import expand
from ssl_cls.clock import Clock
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.batch import Batch
from ssl_cls.plan import build_method, make_plan
from ssl_cls.step import Step

ROOT = Path(__file__).parents[2] / "recipes"
LAPTOP = sorted(ROOT.glob("*.yaml"))
CIFAR10 = sorted((ROOT / "cifar10").glob("*.yaml"))
IMAGENET = sorted((ROOT / "imagenet").glob("*.yaml"))
PAPER_SCALE = [*CIFAR10, *IMAGENET]


class Data(NamedTuple):
    images: int
    side: int
    classes: int


DATA = {"cifar10": Data(50_000, 32, 10), "imagenet": Data(1_281_167, 224, 1000)}


class Sized(Arrays):
    """As many black images as a data set has, in the memory of one."""

    def __init__(self, data: Data) -> None:
        image = torch.zeros(1, 3, data.side, data.side, dtype=torch.uint8)
        classes = [str(number) for number in range(data.classes)]
        super().__init__("none", image, torch.zeros(1, dtype=torch.int64), classes, (0.5,) * 3, (0.25,) * 3)
        self._count = data.images

    def __len__(self) -> int:
        return self._count


loaded = cache(config.load)


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def scale(path: Path) -> Data:
    return DATA[path.parent.name]


def resolved(path: Path, *overrides: str) -> config.Recipe:
    return config.resolved(config.load(path, overrides), scale(path).side, 3)


@pytest.mark.parametrize("path", [*LAPTOP, *PAPER_SCALE], ids=label)
def test_a_recipe_loads_and_gives_its_own_command(path: Path) -> None:
    text, command = path.read_text(), f"accelerate launch tools/pretrain.py {path.relative_to(ROOT.parent)}"
    assert loaded(path).name == (path.stem if path in LAPTOP else f"{path.parent.name}_{path.stem}")
    assert re.search(f"^#   {re.escape(command)}$", text, re.MULTILINE)


@pytest.mark.parametrize("path", PAPER_SCALE, ids=label)
def test_the_head_names_a_number_and_its_source_and_that_it_is_not_ours(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(r"^# (To reach: .*\d\d\.\d|Nobody has published)", head, re.MULTILINE)
    assert "# Not run by us.\n" in head


def test_there_is_a_recipe_for_every_method() -> None:
    methods = {"simclr", "moco", "mocov3", "byol", "simsiam", "mae", "dino", "dinov2", "supervised"}
    assert {loaded(path).method.name for path in IMAGENET} == methods
    for epochs in (200, 1000):
        paths = [path for path in CIFAR10 if path.stem.endswith(f"_{epochs}")]
        assert {loaded(path).method.name for path in paths} >= methods - {"supervised"}
        assert {loaded(path).train.epochs for path in paths} == {epochs}


class Scale(NamedTuple):
    encoder: float  # million parameters
    trained: float  # million parameters that the optimizer moves
    decayed: int  # tensors with weight decay
    undecayed: int
    steps: int
    peak_lr: float
    views: int


RECORDED = {  # encoders as published: ResNet-18 (small stem) 11.17, ResNet-50 23.51, ViT-S 21.67, ViT-B 85.8
    "cifar10/byol_1000": Scale(11.17, 16.43, 24, 44, 195000, 1.0, 2),
    "cifar10/byol_200": Scale(11.17, 12.48, 24, 44, 78000, 0.06, 2),
    "cifar10/dino_1000": Scale(11.17, 17.99, 24, 43, 195000, 0.3, 2),
    "cifar10/dino_200": Scale(11.17, 17.46, 24, 43, 78000, 0.06, 2),
    "cifar10/dinov2_1000": Scale(21.35, 27.91, 57, 126, 195000, 0.0005, 6),
    "cifar10/dinov2_200": Scale(21.35, 27.91, 57, 126, 39000, 0.0005, 6),
    "cifar10/mae_1000": Scale(21.34, 46.76, 85, 167, 195000, 0.0002, 1),
    "cifar10/mae_200": Scale(21.34, 46.76, 85, 167, 39000, 0.0002, 1),
    "cifar10/moco_1000": Scale(11.17, 12.74, 64, 0, 195000, 0.3, 2),
    "cifar10/moco_200": Scale(11.17, 11.5, 64, 0, 19400, 0.06, 2),
    "cifar10/mocov3_1000": Scale(11.17, 16.43, 24, 44, 195000, 0.3, 2),
    "cifar10/mocov3_200": Scale(11.17, 16.43, 24, 44, 39000, 0.3, 2),
    "cifar10/simclr_1000": Scale(11.17, 12.75, 22, 44, 195000, 0.4, 2),
    "cifar10/simclr_200": Scale(11.17, 11.5, 22, 44, 78000, 0.06, 2),
    "cifar10/simsiam_1000": Scale(11.17, 22.71, 72, 0, 195000, 0.5, 2),
    "cifar10/simsiam_200": Scale(11.17, 18.52, 69, 0, 78000, 0.06, 2),
    "cifar10/supervised_200": Scale(11.17, 11.17, 21, 41, 78000, 0.1, 1),
    "imagenet/byol": Scale(23.51, 35.06, 57, 110, 312000, 3.2, 2),
    "imagenet/dino": Scale(21.67, 44.02, 56, 102, 375300, 0.002, 10),
    "imagenet/dinov2": Scale(303.35, 327.01, 105, 246, 125000, 0.005657, 10),
    "imagenet/mae": Scale(85.8, 111.66, 85, 167, 499200, 0.0024, 1),
    "imagenet/moco": Scale(23.51, 27.97, 163, 0, 1000800, 0.03, 2),
    "imagenet/mocov3": Scale(21.67, 42.82, 158, 0, 93600, 0.0024, 2),
    "imagenet/simclr": Scale(23.51, 27.97, 55, 110, 312000, 4.8, 2),
    "imagenet/simsiam": Scale(23.51, 38.2, 171, 0, 250200, 0.1, 2),
    "imagenet/supervised": Scale(23.51, 25.56, 54, 107, 500400, 0.1, 1),
}


@pytest.mark.parametrize("path", PAPER_SCALE, ids=label)
def test_its_scale_is_what_is_recorded(path: Path) -> None:  # X4, X5
    """On torch's meta device: shapes without memory. Steps are those of all published training images."""
    recipe, source = resolved(path), Sized(scale(path))
    planned = make_plan(recipe, source, 1)
    with torch.device("meta"):
        method = build_method(recipe, source, planned)
    decayed = [name for group in method.param_groups() if group.wd_scale for name in group.params]
    undecayed = [name for group in method.param_groups() if not group.wd_scale for name in group.params]
    assert sorted(decayed + undecayed) == sorted(method.trainable())
    parameters = dict(method.named_parameters())
    everything_decays = recipe.method.name in ("moco", "simsiam") or label(path) == "imagenet/mocov3"
    assert not undecayed if everything_decays else all(parameters[name].ndim <= 1 for name in undecayed)
    count = [sum(p.numel() for p in part) / 1e6 for part in (method.encoder.parameters(), method.trainable().values())]
    views = len(expand(recipe.views or ()))
    found = Scale(
        round(count[0], 2), round(count[1], 2), len(decayed), len(undecayed), planned.total_steps,
        round(planned.peak_lr, 6), views,
    )  # fmt: skip
    assert found == RECORDED[label(path)]


MINIATURE = {
    "simclr": ["method.projector=[16, 8]"],
    "moco": ["method.projector=[16, 8]", "method.queue=32", "method.norm_splits=2"],
    "mocov3": ["method.predictor_dim=16"],
    "byol": ["method.projector=[16, 8]", "method.predictor=16"],
    "simsiam": ["method.predictor=8"],
    "mae": ["method.decoder_dim=16", "method.decoder_depth=1", "method.decoder_heads=2"],
    "dino": ["method.head.hidden_dim=16", "method.head.bottleneck_dim=8", "method.head.prototypes=32"],
    "dinov2": ["method.head.hidden_dim=16", "method.head.bottleneck_dim=8", "method.head.prototypes=32"],
    "supervised": [],
}
_WIDTHS = {"mocov3": 16, "simsiam": 16}  # projectors whose depth is the recipe's


@pytest.mark.parametrize("path", PAPER_SCALE, ids=label)
def test_a_miniature_of_it_takes_a_step(path: Path, random_batch: Callable[..., Batch]) -> None:
    recipe = loaded(path)
    overrides = ["train.batch_size=8", *MINIATURE[recipe.method.name]]
    if recipe.method.name in _WIDTHS:
        overrides.append(f"method.projector={[_WIDTHS[recipe.method.name]] * len(recipe.method.projector)}")
    if "vit" in recipe.backbone.name:
        overrides += ["backbone.args.embed_dim=24", "backbone.args.depth=1", "backbone.args.num_heads=2"]
    else:
        overrides += ["backbone.name=resnet_small", "backbone.args={channels: [4, 8]}"]
    small, source = resolved(path, *overrides), Sized(scale(path))
    planned = make_plan(small, source, 1)
    method = build_method(small, source, planned)
    step = Step(small, method, planned, Accelerator(cpu=True))
    method.train()
    before = {name: p.detach().clone() for name, p in method.trainable().items()}
    warm = Clock(planned.total_steps // 2, planned.total_steps, planned.steps_per_epoch)
    outputs, lr, norm = step([random_batch(small, 0, channels=3)], warm)
    assert torch.isfinite(outputs[0].loss)
    assert torch.isfinite(norm)
    assert lr > 0
    assert [name for name, p in method.trainable().items() if torch.equal(p, before[name])] == []
