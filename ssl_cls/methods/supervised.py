"""Plain supervised training, as a method: the same loop, budget and table as the self-supervised ones."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.augment import presets
from ssl_cls.augment.view import View, expand
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.errors import UserError
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.spec import Fraction, spec


@spec
class SupervisedConfig:
    name: Literal["supervised"] = "supervised"
    label_smoothing: Fraction = 0.1  # e/K of Szegedy et al. 2016, section 7

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.supervised(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return (
            None
            if len(expand(views)) == 1 and views[0].kind == "global"
            else "supervised training takes exactly one global view"
        )

    def build(self, backbone: Backbone, num_classes: int | None) -> "Supervised":
        if num_classes is None:
            raise UserError(
                "supervised training needs labels and these data have none",
                "method.name",
                "choose a self-supervised method such as simclr",
            )
        return Supervised(self, backbone, num_classes)


class Supervised(Method):
    needs_labels = True

    def __init__(self, config: SupervisedConfig, backbone: Backbone, num_classes: int) -> None:
        super().__init__()
        self.label_smoothing = config.label_smoothing
        self.backbone = backbone
        self.head = nn.Linear(backbone.dim, num_classes)

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        h = self.backbone(batch.views["global"][0])
        return {"h": h, "logits": self.head(h)}

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        assert batch.labels is not None
        logits = embeddings["logits"]  # [N, classes]
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        top1 = (logits.argmax(1) == batch.labels).to(logits.dtype).mean()
        logs = {"train_top1": 100 * top1, "chance_loss": torch.full_like(top1, logits.shape[1]).log()}
        return StepOutput(loss, embeddings["h"].detach(), logs, {})
