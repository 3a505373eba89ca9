"""Methods in miniature, and one optimizer step of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssl_cls import optim
from ssl_cls.backbone import BackboneConfig, build
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.optim import OptimConfig
from ssl_cls.rng import DrawKey


def pairs(images: int, seed: int) -> Batch:
    """`images` noise images, `seed` * `images` the first one's index, each seen twice."""
    views = torch.randn(2, images, 1, 28, 28, generator=torch.Generator().manual_seed(seed))
    return Batch({"global": list(views)}, torch.arange(images) + seed * images, DrawKey(0, 0), None)


@pytest.fixture
def miniature() -> Callable[..., tuple[Method, Batch]]:
    """`miniature(config)`: the method on a tiny ResNet, the same weights each time, and a batch of 16 pairs."""

    def make(config: Any) -> tuple[Method, Batch]:
        torch.manual_seed(0)
        backbone = build(BackboneConfig("resnet_small", "avg", {"channels": [8, 16]}), 1, 28)
        return config.build(backbone, None), pairs(16, 0)

    return make


@pytest.fixture
def miniature_vit() -> Callable[..., tuple[Method, Batch]]:
    """`miniature_vit(config)`: the method on a tiny vision transformer, and a batch of 2 global and 3 local views.

    `pooling` and arguments of timm's may be given.
    """

    def make(config: Any, pooling: str = "cls", **args: Any) -> tuple[Method, Batch]:
        torch.manual_seed(0)
        args = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2} | args
        backbone = build(BackboneConfig("vit_tiny_patch16_224", pooling, args), 1, 28)
        local = torch.randn(3, 8, 1, 12, 12, generator=torch.Generator().manual_seed(1))
        batch = pairs(8, 0)
        return config.build(backbone, None), batch._replace(views={**batch.views, "local": list(local)})

    return make


@pytest.fixture
def take_step() -> Callable[..., StepOutput]:
    """`take_step(method, batch, clock, lr=...)`: forward, backward, plain SGD, after_step."""

    def step(method: Method, batch: Batch, clock: Clock, lr: float = 0.1) -> StepOutput:
        output: StepOutput = method(batch, clock)
        output.loss.backward()
        optimizer = optim.build(OptimConfig("sgd", lr=1.0, momentum=0.0), method)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(clock, [output.carry])
        return output

    return step
