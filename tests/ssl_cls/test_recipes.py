"""Every shipped recipe loads, says what it is, comes to what is recorded here, and takes a step in miniature."""

import re
from collections.abc import Callable
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


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def scale(path: Path) -> Data:
    return DATA[path.parent.name]


def resolved(path: Path, *overrides: str) -> config.Recipe:
    return config.resolved(config.load(path, overrides), scale(path).side, 3)


@pytest.mark.parametrize("path", [*LAPTOP, *PAPER_SCALE], ids=label)
def test_a_recipe_loads_and_gives_its_own_command(path: Path) -> None:
    text, command = path.read_text(), f"accelerate launch tools/pretrain.py {path.relative_to(ROOT.parent)}"
    assert config.load(path).name == (path.stem if path in LAPTOP else f"{path.parent.name}_{path.stem}")
    assert re.search(f"^#   {re.escape(command)}$", text, re.MULTILINE)


@pytest.mark.parametrize("path", PAPER_SCALE, ids=label)
def test_the_head_names_a_number_and_its_source_and_that_it_is_not_ours(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert re.search(r"^# (To reach: .*\d\d\.\d|Nobody has published)", head, re.MULTILINE)
    assert "# Not run by us.\n" in head


def test_there_is_a_recipe_for_every_method() -> None:
    methods = {"simclr", "moco", "mocov3", "byol", "simsiam", "mae", "dino", "dinov2", "supervised"}
    assert {config.load(path).method.name for path in IMAGENET} == methods
    for epochs in (200, 1000):
        paths = [path for path in CIFAR10 if path.stem.endswith(f"_{epochs}")]
        assert {config.load(path).method.name for path in paths} >= methods - {"supervised"}
        assert {config.load(path).train.epochs for path in paths} == {epochs}


class Scale(NamedTuple):
    encoder: float  # million parameters
    trained: float  # million parameters that the optimizer moves
    decayed: int  # tensors with weight decay
    undecayed: int
    steps: int
    peak_lr: float
    views: int


RECORDED: dict[str, Scale] = {}


@pytest.mark.parametrize("path", PAPER_SCALE, ids=label)
def test_its_scale_is_what_is_recorded(path: Path) -> None:  # X4, X5
    """On torch's meta device: shapes without memory."""
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
    recipe = config.load(path)
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
