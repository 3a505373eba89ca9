"""MoCo v3 (Chen, Xie & He 2021): contrast a query with keys from a slow encoder, the rest of the batch as negatives."""

import math
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
from ssl_cls.distributed import gather, num_ranks, rank
from ssl_cls.ema import ema_update, frozen_copy
from ssl_cls.methods.base import Method, ParamGroup, StepOutput
from ssl_cls.methods.heads import mlp
from ssl_cls.spec import Count, Fraction, Positive, spec


@spec
class MoCoV3Config:
    name: Literal["mocov3"] = "mocov3"
    temperature: Positive = 0.2  # the ViTs'; 1.0 for ResNet-50
    momentum: Fraction = 0.99  # at the first step; 1 at the last
    projector: tuple[Count, ...] = (512, 512, 128)  # three layers for a ViT, two for a ResNet
    predictor_dim: Count = 512  # the predictor's hidden layer

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.byol(size, channels)  # crops from .08, as for the paper's ViTs; its ResNets crop from .2

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return None if is_pair(views) else "MoCo v3 needs exactly two global views (two, or one with count: 2)"

    def build(self, backbone: Backbone, num_classes: int | None) -> "MoCoV3":
        return MoCoV3(self, backbone)


def contrastive(q: Tensor, k: Tensor, temperature: float) -> Tensor:
    """InfoNCE of this rank's N queries with the keys of all ranks; times 2 * temperature (section 3, algorithm 1).

    q, k: [N, D], of any length. The key in the query's own row is its positive.
    """
    q, k = F.normalize(q, dim=1), F.normalize(k.detach(), dim=1)  # no gradient reaches keys, of whatever rank
    logits = q @ gather(k).T / temperature  # [N, B]
    positive = torch.arange(len(q), device=q.device) + rank() * len(q)
    return 2 * temperature * F.cross_entropy(logits, positive)


def initialise_vit(backbone: Backbone) -> None:
    """The authors' start: Xavier-uniform, with query, key and value a matrix each, as is the patch projection.

    That projection stays random and positions are fixed: its gradient's spikes shake the training (section 4.2).
    """
    for name, module in backbone.model.named_modules():
        if isinstance(module, nn.Linear):
            rows = module.weight.shape[0] // (3 if name.endswith("qkv") else 1)
            bound = math.sqrt(6 / (rows + module.weight.shape[1]))
            nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    projection: nn.Conv2d = backbone.model.patch_embed.proj  # type: ignore[union-attr, assignment]
    nn.init.xavier_uniform_(projection.weight.view(len(projection.weight), -1))
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    projection.requires_grad_(False)
    backbone.fix_positions()


class MoCoV3(Method):
    """What the projector sees of an image is the recipe's pooling; the authors' is cls for a ViT, avg for a ResNet."""

    batch_coupled = True
    target_forwards = 2

    def __init__(self, config: MoCoV3Config, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        if backbone.is_vit:
            initialise_vit(backbone)
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.projector, output_norm="standardise")
        width = config.projector[-1]
        output_norm: Literal["standardise", "none"] = "standardise" if backbone.is_vit else "none"
        self.predictor = mlp(width, (config.predictor_dim, width), output_norm=output_norm)
        self.key = frozen_copy(nn.Sequential(self.backbone, self.projector))

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        views = batch.views["global"]
        h = [self.backbone(view) for view in views]  # each view has batch statistics of its own
        with torch.no_grad():
            k = [self.key(view) for view in views]
        q = [self.predictor(self.projector(x)) for x in h]
        return {name: torch.stack(x, 1) for name, x in {"h": h, "q": q, "k": k}.items()}  # [N, 2, width]

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        (q1, q2), (k1, k2) = embeddings["q"].unbind(1), embeddings["k"].unbind(1)
        temperature = self.config.temperature
        loss = contrastive(q1, k2, temperature) + contrastive(q2, k1, temperature)
        alignment = (F.cosine_similarity(q1, k2) + F.cosine_similarity(q2, k1)).mean().detach() / 2
        chance = 4 * temperature * math.log(len(q1) * num_ranks())  # of every key being as likely, in both directions
        logs = {"positive_similarity": alignment, "chance_loss": torch.full_like(alignment, chance)}
        return StepOutput(loss, embeddings["h"][:, 0].detach(), logs, {}, q1.detach())

    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        """Differs: moved after the optimizer's step, the authors before the next keys: the same but for the clock."""
        ema_update(self.key, nn.Sequential(self.backbone, self.projector), cosine(clock, self.config.momentum, 1.0))

    def param_groups(self) -> list[ParamGroup]:
        """Authors' code: with AdamW and a ViT everything decays; with LARS and a ResNet vectors do not."""
        return [ParamGroup(self.trainable())] if self.backbone.is_vit else super().param_groups()
