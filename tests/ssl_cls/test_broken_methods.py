"""Methods broken on purpose are flagged within 300 steps; the same methods unbroken never are (X22)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls import config, health, trainer
from ssl_cls.clock import Clock
from ssl_cls.data import catalog
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.batch import Batch
from ssl_cls.data.catalog import DataConfig
from ssl_cls.ema import ema_update
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.methods.byol import BYOL
from ssl_cls.methods.dino import DINO
from ssl_cls.methods.simsiam import SimSiam
from ssl_cls.plan import build_method, build_stream, make_plan
from ssl_cls.run import Run as RunFolder
from ssl_cls.step import Step

pytestmark = pytest.mark.slow

CNN = "{name: resnet_small, args: {channels: [8, 16]}, pooling: avg2x2}"
VIT = "{name: vit_tiny_patch16_224, args: {patch_size: 4, embed_dim: 32, depth: 1, num_heads: 2}}"
HEAD = "momentum: 0.95, head: {hidden_dim: 32, bottleneck_dim: 16, prototypes: 64}"
RECIPES = {  # backbone, method, optimizer, learning rate
    "simclr": (CNN, "projector: [64, 32]", "adamw", 3e-3),
    "byol": (CNN, "projector: [128, 32], predictor: 128, momentum: 0.99", "adamw", 3e-3),
    "simsiam": (CNN, "projector: [128, 128], predictor: 32", "sgd", 0.05),
    "moco": (CNN, "projector: [64, 32], queue: 1024, norm_splits: 4, momentum: 0.99", "sgd", 0.06),
    "mocov3": (VIT, "projector: [64, 64, 32], predictor_dim: 64", "adamw", 1e-3),
    "mae": (VIT, "decoder_dim: 32, decoder_depth: 1, decoder_heads: 2", "adamw", 2e-3),
    "dino": (VIT, HEAD, "adamw", 1e-3),
    "dinov2": (VIT, HEAD, "adamw", 1e-3),
    "supervised": (CNN, "label_smoothing: 0.1", "adamw", 3e-3),
}


class SimSiamWithoutStopGradient(SimSiam):
    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        p1, p2, z1, z2 = (embeddings[name] for name in ("p1", "p2", "z1", "z2"))
        loss = -(F.cosine_similarity(p1, z2) + F.cosine_similarity(p2, z1)).mean() / 2
        return super().loss(embeddings, batch, clock)._replace(loss=loss)


class BYOLWithoutPredictorAndMomentum(BYOL):
    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        ema_update(self.target, nn.Sequential(self.backbone, self.projector), 0.0)


class DINOWithoutCentring(DINO):
    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        super().after_step(clock, carries)
        self.centring.centre.zero_()


def without_predictor(method: Method) -> None:
    method.predictor = nn.Identity()


class Run(NamedTuple):
    verdicts: list[health.Verdict]
    rows: list[dict[str, Any]]


def recipe_of(name: str, times_lr: float = 1.0, **run_keys: object) -> config.Recipe:
    backbone, arguments, optimizer, lr = RECIPES[name]
    text = f"""
name: broken
data: {{source: digits}}
backbone: {backbone}
method: {{name: {name}, {arguments}}}
optim: {{name: {optimizer}, lr: {lr * times_lr}, warmup_epochs: 1}}
train: {{epochs: 8, batch_size: 32}}
health: {{stop: true}}
run: {json.dumps(run_keys)}
"""
    return config.resolved(config.parse(config.Recipe, text, "test"), 28, 1)


def digits(change: Callable[[Tensor], Tensor]) -> Arrays:
    source = catalog.open(DataConfig(source="digits"), "train")
    everything = torch.arange(len(source))
    pixels, labels = change(source.pixels(everything)), source.labels(everything)
    return Arrays("none", pixels, labels, list("0123456789"), source.mean, source.std)


def run(
    name: str,
    steps: int,
    broken: type[Method] | None = None,
    change: Callable[[Method], None] | None = None,
    times_lr: float = 1.0,
    images: Callable[[Tensor], Tensor] = lambda pixels: pixels,
) -> Run:
    """Up to `steps` steps of 32 digits, a verdict each ten, to the first complaint."""
    recipe = recipe_of(name, times_lr)
    source = digits(images)
    planned = make_plan(recipe, source, 1)
    method = build_method(recipe, source, planned)
    if broken is not None:
        method.__class__ = broken
    if change is not None:
        change(method)
    step = Step(recipe, method, planned, Accelerator(cpu=True))
    stream = build_stream(recipe, source, planned, torch.device("cpu"), 0, 1, method.needs_labels)
    found = Run([], [])
    method.train()
    for number, batches in enumerate(stream.batches(0, steps)):
        outputs, lr, _ = step(batches, Clock(number, planned.total_steps, planned.steps_per_epoch))
        if (number + 1) % 10 == 0:
            found.rows.append(
                {"step": number + 1, **trainer.figures(outputs), "lr": lr, "weight_growth": float(step.weight_growth())}
            )
            found.verdicts.append(health.verdict(found.rows))
            if found.verdicts[-1].state != "healthy":
                break
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_what_is_whole_is_never_flagged(name: str) -> None:
    found = run(name, 230)
    assert {verdict.state for verdict in found.verdicts} == {"healthy"}, found.verdicts[-1]
    if name == "simsiam":  # in units of 1 / sqrt(D), after an epoch
        assert all(row["projection_std"] > 0.5 for row in found.rows if row["step"] >= 35)


def test_simsiam_without_stop_gradient_collapses_though_its_spread_reads_healthy() -> None:
    found = run("simsiam", 300, SimSiamWithoutStopGradient)
    assert found.verdicts[-1].state == "collapsed"
    assert "projection_rank" in found.verdicts[-1].reason
    assert found.rows[-1]["projection_std"] > 0.5
    assert found.rows[-1]["loss"] < -0.5  # and so does its loss


def test_byol_without_predictor_and_with_momentum_0_collapses() -> None:
    found = run("byol", 300, BYOLWithoutPredictorAndMomentum, without_predictor)
    assert found.verdicts[-1].state == "collapsed"
    assert "projection" in found.verdicts[-1].reason


def test_dino_without_centring_gives_all_images_one_prototype() -> None:
    found = run("dino", 300, DINOWithoutCentring)
    assert found.verdicts[-1].state == "collapsed"
    assert "prototype_entropy" in found.verdicts[-1].reason


@pytest.mark.parametrize("name", RECIPES)
def test_black_images_are_flagged(name: str) -> None:
    assert run(name, 300, images=torch.zeros_like).verdicts[-1].state != "healthy"


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("mae", "dino", "dinov2")])
def test_one_image_over_and_over_is_flagged(name: str) -> None:
    """All but three. MAE learns its task on one image too: hidden patches can be told from visible ones.

    DINO and DINOv2 log no chance loss: a student that says the same of all images comes to the entropy of the targets'
    mean, and healthy runs start from there and may stay for some hundred steps.
    """
    found = run(name, 300, images=lambda pixels: pixels[:1].expand_as(pixels).contiguous())
    assert found.verdicts[-1].state != "healthy"


@pytest.mark.parametrize("name", RECIPES)
def test_a_hundred_times_the_learning_rate_is_flagged(name: str) -> None:
    """By a verdict, or because the loss is no number, which ends a run at once.

    With batch norm a step is relative to the weights, which grow, and SimCLR's loss goes on falling: only the growth
    of the weights tells.
    """
    found = run(name, 300, times_lr=100.0)
    loss = torch.tensor(found.rows[-1]["loss"])
    assert found.verdicts[-1].state != "healthy" or not loss.isfinite()


def test_health_stop_ends_a_hopeless_run_with_a_checkpoint(tmp_path: Path) -> None:
    recipe = recipe_of("simclr", dir=str(tmp_path / "run"))
    folder = RunFolder(tmp_path / "run", recipe)
    with pytest.raises(RuntimeError, match="collapsed: all images have one embedding"):
        trainer.pretrain(recipe, digits(torch.zeros_like), folder, Accelerator(cpu=True))
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step_00000050"]
    assert not (folder.folder / "encoder").exists()
