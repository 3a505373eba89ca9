"""DINOv2 (Oquab et al. 2024): DINO on images, iBOT on masked patches, and KoLeo to spread the features."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.augment import presets
from ssl_cls.augment.view import View
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock, cosine
from ssl_cls.data.batch import Batch
from ssl_cls.distributed import gather, rank
from ssl_cls.ema import ema_update, frozen_copy
from ssl_cls.errors import UserError
from ssl_cls.methods.base import Method, ParamGroup, StepOutput
from ssl_cls.methods.multi_crop import check_multi_crop, multi_crop
from ssl_cls.methods.prototypes import (
    Centring,
    HeadConfig,
    TeacherTemperature,
    cross_view_cross_entropy,
    freeze_prototypes,
    sinkhorn,
    teacher_figures,
)
from ssl_cls.rng import DrawKey, uniform
from ssl_cls.spec import Fraction, Natural, NonNegative, Positive, spec

_MASK_DRAW = 64  # the `view` number of rng.uniform that masks are drawn under: above any real view's


@spec
class DINOv2Config:
    name: Literal["dinov2"] = "dinov2"
    head: HeadConfig = HeadConfig()
    patch_head: HeadConfig | None = None  # a head of its own for the patches, as for ViT-L and ViT-g; None: shared
    centering: Literal["softmax", "sinkhorn"] = "softmax"
    student_temperature: Positive = 0.1
    teacher_temperature: TeacherTemperature = TeacherTemperature()
    centre_momentum: Fraction = 0.9
    momentum: Fraction = 0.992  # of the teacher at the first step; 1 at the last
    freeze_prototypes_epochs: Natural = 1
    mask_ratio: tuple[Fraction, Fraction] = (0.1, 0.5)  # part of the patches that is hidden, drawn for each image
    patch_weight: NonNegative = 1.0
    koleo_weight: NonNegative = 0.1
    layer_decay: Fraction = 0.9  # of the learning rate, from each block to the one below
    patch_embed_lr: NonNegative = 0.2  # on top of that

    def __post_init__(self) -> None:
        if self.mask_ratio[0] > self.mask_ratio[1]:
            raise ValueError(f"mask_ratio must be low <= high, not {list(self.mask_ratio)}")

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.dino(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return check_multi_crop(views, "DINOv2")

    def build(self, backbone: Backbone, num_classes: int | None) -> "DINOv2":
        if not backbone.is_vit:
            raise UserError(
                "DINOv2 hides patches, which only a vision transformer has",
                "backbone.name",
                "use a vit, as recipes/dinov2_vit.yaml does, or DINO",
            )
        if self.patch_head is None and backbone.dim != backbone.width:
            raise UserError(
                f"images have {backbone.dim} features, patches {backbone.width}: they cannot share a head",
                "method.patch_head",
                "give patches their own, patch_head: {}, or set backbone.pooling to cls or avg",
            )
        patches = math.prod(backbone.grid)
        if not 1 <= int(patches * self.mask_ratio[0]) <= int(patches * self.mask_ratio[1]) < patches:
            raise UserError(
                f"mask_ratio {list(self.mask_ratio)} of {patches} patches hides none or all of some image's",
                "method.mask_ratio",
                f"use ratios from {1 / patches:.2f} on and below 1, or smaller patches",
            )
        return DINOv2(self, backbone)


def block_masks(key: DrawKey, index: Tensor, grid: tuple[int, int], ratio: tuple[float, float]) -> Tensor:
    """Masks for the two global views of each image: bool [N, 2, L], True where hidden. One view of the two stays whole.

    The patches nearest to a random centre, by a distance whose unit ball is a rectangle of random aspect (.3 to 3.3,
    as BEiT's blocks): a block, of exactly as many patches as the drawn ratio says.

    Differs: DINOv2 hides parts of a random half of all crops, with ratios spread over the batch, in several blocks that
    add up to nearly as many patches. Here one crop of each image, all drawn from (key, index) alone, so that a mask
    does not depend on which ranks or micro-batches an image shares.
    """
    rows, columns = grid
    which, amount, y, x, aspect = uniform(key, index, _MASK_DRAW, 5).unbind(1)
    ticks = uniform(key, index, _MASK_DRAW + 1, rows * columns)  # break ties between patches on one side of a block
    stretch = 3.3 ** (aspect - 0.5)[:, None]  # the root of the aspect
    patch = torch.arange(rows * columns, device=index.device)
    vertical = (patch // columns + 0.5 - y[:, None] * rows).abs() * stretch
    horizontal = (patch % columns + 0.5 - x[:, None] * columns).abs() / stretch
    nearest = (torch.maximum(vertical, horizontal) + 1e-3 * ticks).argsort(dim=1, stable=True).argsort(1)  # [N, L]
    low, high = (int(rows * columns * part) for part in ratio)
    hidden, first = nearest < (low + amount * (high - low + 1)).long()[:, None], (which < 0.5)[:, None]
    return torch.stack((hidden & first, hidden & ~first), 1)


def koleo(x: Tensor) -> Tensor:
    """[N, D] -> minus the mean log distance to the nearest neighbour on the unit sphere (Sablayrolles et al. 2019).

    Differs: neighbours from the batches of all ranks, with gradient; DINOv2 looks within a rank, which makes the loss
    depend on how many there are.
    """
    x = F.normalize(x, dim=1)
    everyone = gather(x)  # [B, D]
    with torch.no_grad():
        itself = torch.arange(len(x), device=x.device) + rank() * len(x)
        nearest = (x @ everyone.T).scatter(1, itself[:, None], -2.0).argmax(1)
    return -(F.pairwise_distance(x, everyone[nearest], eps=1e-8) + 1e-8).log().mean()


class DINOv2(Method):
    """What the head and KoLeo see of an image is the recipe's pooling; the authors' is cls, the class token."""

    batch_coupled = True  # KoLeo and Sinkhorn
    target_forwards = 2

    def __init__(self, config: DINOv2Config, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.head = backbone, config.head.build(backbone.dim)
        self.patch_head = config.patch_head.build(backbone.width) if config.patch_head else None
        self.mask_token = nn.Parameter(torch.zeros(1, 1, backbone.width))
        self.teacher_backbone, self.teacher_head = frozen_copy(self.backbone), frozen_copy(self.head)
        self.teacher_patch_head = frozen_copy(self.patch_head) if self.patch_head else None
        self.centring = self.patch_centring = None
        if config.centering == "softmax":
            self.centring = Centring(config.head.prototypes, config.centre_momentum)
            self.patch_centring = Centring((config.patch_head or config.head).prototypes, config.centre_momentum)

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        large, small, n = torch.cat(batch.views["global"]), batch.views["local"], len(batch.index)
        masks = block_masks(batch.key, batch.index, self.backbone.grid, self.config.mask_ratio)  # [N, 2, L]
        hidden = masks.flatten().nonzero()[:, 0]  # [M]: places of the hidden patches, image by image

        def split(tokens: Tensor, backbone: Backbone) -> tuple[Tensor, Tensor]:
            """[2N, P+L, D], view by view -> pooled [N, 2, dim], and the hidden patches [M, D]."""
            tokens = tokens.view(2, n, *tokens.shape[1:]).transpose(0, 1).flatten(0, 1)  # image by image
            patches = tokens[:, backbone.prefix_tokens :].flatten(0, 1)
            return backbone.pool(tokens).view(n, 2, -1), patches.index_select(0, hidden)

        mask = masks.transpose(0, 1).flatten(0, 1)  # [2N, L]
        h, patches = split(self.backbone.tokens(large, mask=mask, mask_token=self.mask_token), self.backbone)
        views = torch.cat((h, *(x[:, None] for x in multi_crop(self.backbone, small))), 1)  # [N, V, dim]
        with torch.no_grad():  # the teacher sees everything
            teacher_h, teacher_patches = split(self.teacher_backbone.tokens(large), self.teacher_backbone)
            teacher = self.teacher_head(teacher_h)
            teacher_patches = (self.teacher_patch_head or self.teacher_head)(teacher_patches)
        return {
            "h": h,  # [N, 2, dim], before the head
            "student": self.head(views),  # [N, V, K]
            "student_patches": (self.patch_head or self.head)(patches),  # [M, K]
            "teacher_h": teacher_h,  # [N, 2, dim]
            "teacher": teacher,  # [N, 2, K]
            "teacher_patches": teacher_patches,  # [M, K]
            "weight": (masks / masks.sum(2, keepdim=True).clamp(min=1)).flatten().index_select(0, hidden),  # [M]
        }

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        config, h = self.config, embeddings["h"]
        teacher = embeddings["teacher"].detach().flatten(0, 1)  # [2N, K]
        patches = embeddings["teacher_patches"].detach()  # [M, K]
        temperature = config.teacher_temperature.at(clock)
        targets = (self.centring or sinkhorn)(teacher, temperature)
        patch_targets = (self.patch_centring or sinkhorn)(patches, temperature)
        log_probs = (embeddings["student"] / config.student_temperature).log_softmax(-1)
        patch_log_probs = (embeddings["student_patches"] / config.student_temperature).log_softmax(-1)

        image_loss = cross_view_cross_entropy(targets.view(-1, 2, targets.shape[1]), log_probs)
        # Every image counts alike, however much of it is hidden; the mean is over all crops, whole ones too.
        patch_loss = -((patch_targets * patch_log_probs).sum(1) * embeddings["weight"].detach()).sum() / len(targets)
        spread = koleo(h[:, 0]) + koleo(h[:, 1])  # together, the nearest neighbour would be the other view
        loss = image_loss + config.patch_weight * patch_loss + config.koleo_weight * spread
        parts = {"image_loss": image_loss.detach(), "patch_loss": patch_loss.detach(), "koleo": spread.detach()}
        carry = {
            "sum": teacher.sum(0),
            "count": teacher.new_full((), len(teacher)),
            "patch_sum": patches.sum(0),
            "patch_count": patches.new_full((), len(patches)),
        }
        return StepOutput(loss, embeddings["teacher_h"][:, 0].detach(), parts | teacher_figures(targets), carry)

    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        if self.centring and self.patch_centring:
            self.centring.update([c["sum"] for c in carries], [c["count"] for c in carries])
            self.patch_centring.update([c["patch_sum"] for c in carries], [c["patch_count"] for c in carries])
        momentum = cosine(clock, self.config.momentum, 1.0)
        ema_update(self.teacher_backbone, self.backbone, momentum)
        ema_update(self.teacher_head, self.head, momentum)
        if self.teacher_patch_head and self.patch_head:
            ema_update(self.teacher_patch_head, self.patch_head, momentum)

    def param_groups(self) -> list[ParamGroup]:
        """Layer-wise learning rates: heads 1, blocks less the deeper they lie, the patch projection least of all."""
        layers = self.backbone.layer_scales(self.config.layer_decay)
        stem = self.config.patch_embed_lr
        scales = {f"backbone.model.{n}": scale * (stem if "patch_embed" in n else 1) for n, scale in layers.items()}
        scales["mask_token"] = min(layers.values())

        def part(group: ParamGroup, scale: float) -> ParamGroup:
            params = {name: p for name, p in group.params.items() if scales.get(name, 1.0) == scale}
            return replace(group, params=params, lr_scale=scale)

        different = sorted({1.0, *scales.values()})
        groups = [part(group, scale) for group in super().param_groups() for scale in different]
        return freeze_prototypes(groups, self.config.freeze_prototypes_epochs)

    @property
    def encoder(self) -> Backbone:
        """The teacher's."""
        return self.teacher_backbone
