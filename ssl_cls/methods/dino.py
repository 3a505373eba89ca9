"""DINO (Caron et al. 2021): a student learns from small crops what its own moving average says of large ones."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ssl_cls.augment import presets
from ssl_cls.augment.view import View
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock, cosine
from ssl_cls.data.batch import Batch
from ssl_cls.ema import ema_update, frozen_copy
from ssl_cls.methods.base import Method, ParamGroup, StepOutput
from ssl_cls.methods.multi_crop import check_multi_crop, multi_crop
from ssl_cls.methods.prototypes import (
    Centring,
    HeadConfig,
    TeacherTemperature,
    cross_view_cross_entropy,
    freeze_prototypes,
    teacher_figures,
)
from ssl_cls.spec import Fraction, Natural, Positive, spec


@spec
class DINOConfig:
    name: Literal["dino"] = "dino"
    head: HeadConfig = HeadConfig()
    student_temperature: Positive = 0.1
    teacher_temperature: TeacherTemperature = TeacherTemperature()
    centre_momentum: Fraction = 0.9
    momentum: Fraction = 0.996  # of the teacher at the first step; 1 at the last
    freeze_prototypes_epochs: Natural = 1

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.dino(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return check_multi_crop(views, "DINO")

    def build(self, backbone: Backbone, num_classes: int | None) -> "DINO":
        return DINO(self, backbone)


class DINO(Method):
    target_forwards = 2

    """What the head sees of an image is the recipe's pooling; the authors' is cls, the class token of a ViT."""

    def __init__(self, config: DINOConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.head = backbone, config.head.build(backbone.dim)
        self.teacher_backbone, self.teacher_head = frozen_copy(self.backbone), frozen_copy(self.head)
        self.centring = Centring(config.head.prototypes, config.centre_momentum)

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        large, small = batch.views["global"], batch.views["local"]
        student = self.head(torch.stack(multi_crop(self.backbone, [*large, *small]), 1))  # [N, V, K]
        with torch.no_grad():
            h = torch.stack(multi_crop(self.teacher_backbone, large), 1)  # [N, 2, dim]
            teacher = self.teacher_head(h)  # [N, 2, K]
        return {"student": student, "teacher": teacher, "h": h}

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        teacher = embeddings["teacher"].detach()
        targets = self.centring(teacher, self.config.teacher_temperature.at(clock))
        log_probs = (embeddings["student"] / self.config.student_temperature).log_softmax(-1)
        loss = cross_view_cross_entropy(targets, log_probs)
        rows = teacher.flatten(0, 1)
        carry = {"sum": rows.sum(0), "count": rows.new_full((), len(rows))}
        return StepOutput(loss, embeddings["h"][:, 0].detach(), teacher_figures(targets), carry)

    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        self.centring.update([c["sum"] for c in carries], [c["count"] for c in carries])
        momentum = cosine(clock, self.config.momentum, 1.0)
        ema_update(self.teacher_backbone, self.backbone, momentum)
        ema_update(self.teacher_head, self.head, momentum)

    def param_groups(self) -> list[ParamGroup]:
        return freeze_prototypes(super().param_groups(), self.config.freeze_prototypes_epochs)

    @property
    def encoder(self) -> Backbone:
        """The teacher's, which is better than the student's throughout training (section 5.2)."""
        return self.teacher_backbone
