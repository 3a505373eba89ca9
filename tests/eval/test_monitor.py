"""A run that is watched is the run that is not, to the byte (X14, X19, X23)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate import Accelerator

from eval.monitor import KNNMonitor
from ssl_cls import config, trainer
from ssl_cls.clock import Clock
from ssl_cls.data import catalog
from ssl_cls.methods.base import Method
from ssl_cls.run import Run

pytestmark = pytest.mark.usefixtures("own_signals")

VIT = "{name: vit_tiny_patch16_224, args: {patch_size: 7, embed_dim: 16, depth: 2, num_heads: 2, drop_path_rate: 0.2}}"
METHODS = {  # one with batch norm, one that draws random numbers of torch's and evaluates its teacher
    "simclr": "backbone: {name: resnet_small, args: {channels: [8, 16]}}\nmethod: {name: simclr, projector: [16, 8]}",
    "dino": f"backbone: {VIT}\nmethod: {{name: dino, head: {{hidden_dim: 8, bottleneck_dim: 8, prototypes: 16}}}}\n"
    "views: [{count: 2}, {kind: local, count: 1, size: 14}]",
}


class Outcome(NamedTuple):
    rows: list[dict[str, Any]]
    model: bytes
    optimizer: bytes

    @property
    def steps(self) -> list[dict[str, Any]]:
        return [row for row in self.rows if "loss" in row]


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Outcome]:
    """`train(method, *observers)`: two epochs of digits in five steps each."""

    def run(name: str, *observers: trainer.Observer) -> Outcome:
        text = f"name: x\ndata: {{source: digits}}\n{METHODS[name]}\noptim: {{lr: 1e-3}}\n"
        text += "train: {epochs: 2, batch_size: 256}\nrun: {log_every_steps: 1}\n"
        recipe = config.resolved(config.parse(config.Recipe, text, "test"), 28, 1)
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        opened = Run(folder, recipe)
        trainer.pretrain(recipe, catalog.open(recipe.data, "train"), opened, Accelerator(cpu=True), observers)
        last = max(opened.checkpoints.iterdir())
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return Outcome(rows, *((last / f"{part}.safetensors").read_bytes() for part in ("model", "optim")))

    return run


@pytest.mark.parametrize("name", METHODS)
def test_a_watched_run_is_the_same_run(train: Callable[..., Outcome], name: str) -> None:
    digits = catalog.DataConfig(source="digits")
    monitor = KNNMonitor(catalog.open(digits, "train"), catalog.open(digits, "val"), 28)
    alone, watched = train(name), train(name, monitor)
    seen = [row["val_knn_top1"] for row in watched.rows if "val_knn_top1" in row]
    assert len(seen) == 2
    assert min(seen) > 20  # it does look: chance is 10
    assert len(alone.steps) == 10
    assert watched.steps == alone.steps == alone.rows  # losses, and the rates of each step
    assert watched.model == alone.model
    assert watched.optimizer == alone.optimizer


def test_an_observer_that_forgets_eval_mode_makes_it_another_run(train: Callable[..., Outcome]) -> None:
    """The control: batch norm's statistics move."""

    class Careless:
        def epoch_end(self, method: Method, clock: Clock) -> dict[str, float]:
            with torch.no_grad():
                method.backbone(torch.zeros(4, 1, 28, 28))
            return {}

    assert train("simclr").model != train("simclr", Careless()).model
