"""BYOL (Grill et al. 2020): predict what a slowly moving copy of the network sees in the other view. No negatives."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.augment import presets
from ssl_cls.augment.view import View, is_pair
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock, cosine
from ssl_cls.data.batch import Batch
from ssl_cls.ema import ema_update, frozen_copy
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.methods.heads import mlp
from ssl_cls.methods.prediction import mismatched_cosine
from ssl_cls.spec import Count, Fraction, spec


@spec
class BYOLConfig:
    name: Literal["byol"] = "byol"
    momentum: Fraction = 0.996  # of the target at the first step, rising to 1 at the last
    projector: tuple[Count, ...] = (4096, 256)  # widths of the projection head, the last one being that of z
    predictor: Count = 4096  # hidden width of the predictor, which is as wide as z at its output

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.byol(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return None if is_pair(views) else "BYOL needs exactly two global views (a list of two, or one with count: 2)"

    def build(self, backbone: Backbone, num_classes: int | None) -> "BYOL":
        return BYOL(self, backbone)


def regression_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the unit vectors, 2 - 2 cos, a mean over the batch (section 3.1, equation 2).

    prediction, target: [N, D], of any length.
    """
    return (2 - 2 * F.cosine_similarity(prediction, target, dim=1)).mean()


class BYOL(Method):
    """The online network is backbone, projector and predictor; the target follows the first two.

    Differs: the hidden layers have no bias. The paper's have one, which the batch norm behind them subtracts again.
    """

    target_forwards = 2

    def __init__(self, config: BYOLConfig, backbone: Backbone) -> None:
        super().__init__()
        self.momentum = config.momentum
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.projector)  # no batch norm on the output (appendix F.4)
        self.predictor = mlp(config.projector[-1], (config.predictor, config.projector[-1]))
        self.target = frozen_copy(nn.Sequential(self.backbone, self.projector))

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        view1, view2 = batch.views["global"]
        h1, h2 = self.backbone(view1), self.backbone(view2)  # one at a time: each view has batch statistics of its own
        with torch.no_grad():  # stop-gradient; the target is in train mode too, so batch statistics serve there as well
            z1, z2 = self.target(view1), self.target(view2)
        p1, p2 = (self.predictor(self.projector(h)) for h in (h1, h2))
        return {"h": h1, "p1": p1, "p2": p2, "z1": z1, "z2": z2}

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        p1, p2, z1, z2 = (embeddings[name] for name in ("p1", "p2", "z1", "z2"))
        loss = regression_loss(p1, z2.detach()) + regression_loss(p2, z1.detach())  # 0 to 8
        logs = {"chance_loss": 4 - 2 * (mismatched_cosine(p1, z2) + mismatched_cosine(p2, z1))}
        return StepOutput(loss, embeddings["h"].detach(), logs, {}, p1.detach())

    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        momentum = cosine(clock, self.momentum, 1.0)
        ema_update(self.target, nn.Sequential(self.backbone, self.projector), momentum)
