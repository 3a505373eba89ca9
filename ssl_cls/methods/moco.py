"""MoCo v2 (He et al. 2020; Chen et al. 2020b): find an image's other view among a queue of earlier images' keys."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.augment import presets
from ssl_cls.augment.view import View, is_pair
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.distributed import SplitBatchNorm, gather, share
from ssl_cls.ema import ema_update, frozen_copy
from ssl_cls.errors import UserError
from ssl_cls.methods.base import Method, ParamGroup, StepOutput
from ssl_cls.methods.heads import mlp
from ssl_cls.rng import uniform
from ssl_cls.spec import Count, Fraction, Positive, spec

_SHUFFLE_DRAW = 65  # the `view` number of rng.uniform that the shuffle is drawn under: above any real view's


@spec
class MoCoConfig:
    name: Literal["moco"] = "moco"
    temperature: Positive = 0.2
    momentum: Fraction = 0.999  # of the key encoder, constant
    queue: Count = 65536  # keys of earlier images; a multiple of the keys of one step
    projector: tuple[Count, ...] = (2048, 128)  # widths of the projection head, the last one being that of q and k
    symmetric: bool = False  # each view is query once and key once, at twice the cost; the paper's is one direction
    norm_splits: Count = 8  # parts of the batch with batch-norm statistics of their own: the paper's devices

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.moco(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return None if is_pair(views) else "MoCo needs exactly two global views (one view with count: 2)"

    def build(self, backbone: Backbone, num_classes: int | None) -> "MoCo":
        return MoCo(self, backbone)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cross entropy of finding k among k and the queue, and how often it is found (MoCo, 3.1, equation 1 and alg. 1).

    q, k: [N, D], row i of both from one image; queue: [K, D], other images' keys; all of unit length. Both results are
    means over the batch.
    """
    positive, negative = (q * k).sum(1, keepdim=True), q @ queue.T  # [N, 1], [N, K]
    logits = torch.cat((positive, negative), dim=1) / temperature
    label = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    return F.cross_entropy(logits, label), (logits.argmax(1) == 0).to(logits.dtype).mean()


class MoCo(Method):
    """Batch norm must not tell which key belongs to a query: the two would be normalised with the same images.

    So the batch is normalised in parts, and keys are shuffled, so that a query's part and its key's hold different
    images (MoCo, 3.3, shuffling BN). The parts are of the global batch, whatever the number of devices.
    """

    queue: Tensor  # [K, D], unit rows
    pointer: Tensor  # int64 scalar: the row that the next key replaces

    def __init__(self, config: MoCoConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.target_forwards = 2 if config.symmetric else 0  # asymmetric: one view is query, the other key
        self.backbone = SplitBatchNorm.convert(backbone, num_splits=config.norm_splits)
        self.projector = mlp(backbone.dim, config.projector, hidden_norm=False, output_bias=True)
        self.key = frozen_copy(nn.Sequential(self.backbone, self.projector))
        self.register_buffer("queue", F.normalize(torch.randn(config.queue, config.projector[-1]), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def check_batch(self, batch_size: int, micro_batch_size: int, num_ranks: int) -> None:
        keys = batch_size * (2 if self.config.symmetric else 1)
        if self.config.queue % keys:
            raise UserError(
                f"a queue of {self.config.queue} keys cannot be filled by {keys} keys a step",
                "method.queue",
                f"use a multiple of {keys}, such as {max(1, round(self.config.queue / keys)) * keys}",
            )
        splits, together = self.config.norm_splits, micro_batch_size * num_ranks
        has_norm = any(isinstance(module, SplitBatchNorm) for module in self.backbone.modules())
        if has_norm and (splits % num_ranks or together % splits or together < 2 * splits):
            raise UserError(
                f"{together} images over {num_ranks} process(es) cannot be normalised in {splits} parts",
                "method.norm_splits",
                "use a multiple of the number of processes that divides the batch into parts of 2 images or more",
            )

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        view1, view2 = batch.views["global"]
        directions = [(view1, view2), (view2, view1)] if self.config.symmetric else [(view1, view2)]
        h = [self.backbone(query) for query, _ in directions]
        q = torch.stack([self.projector(features) for features in h], dim=1)  # [N, directions, D]
        with torch.no_grad():  # stop-gradient
            k = torch.stack([self._keys(key, batch) for _, key in directions], dim=1)
        return {"h": h[0], "q": q, "k": k}

    def _keys(self, images: Tensor, batch: Batch) -> Tensor:
        """The key encoder's [N, D] for this rank's images, each encoded where the shuffled batch has it."""
        order = uniform(batch.key, gather(batch.index), _SHUFFLE_DRAW, 1)[:, 0].argsort(stable=True)
        shuffled = share(gather(images)[order])
        return share(gather(self.key(shuffled))[order.argsort()])

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        q, k = F.normalize(embeddings["q"], dim=2), F.normalize(embeddings["k"], dim=2)
        found = [
            info_nce(q_one_way, k_one_way, self.queue, self.config.temperature)
            for q_one_way, k_one_way in zip(q.unbind(1), k.unbind(1), strict=True)
        ]
        loss = torch.stack([cross_entropy for cross_entropy, _ in found]).sum()
        pretext_top1 = 100 * torch.stack([top1 for _, top1 in found]).mean()  # near 100 early: batch norm tells
        chance = q.shape[1] * math.log(1 + len(self.queue))  # of every key being as likely
        logs = {"pretext_top1": pretext_top1, "chance_loss": torch.full_like(pretext_top1, chance)}
        return StepOutput(loss, embeddings["h"].detach(), logs, {"keys": k}, q[:, 0].detach())

    @torch.no_grad()
    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        """The key encoder follows; then this step's keys, of all directions at once, replace the oldest.

        The paper's code moves the key encoder as the next step begins, which is the same. A key enters the queue only
        now: before, it would have been a negative of its own query.
        """
        ema_update(self.key, nn.Sequential(self.backbone, self.projector), self.config.momentum)
        keys = gather(torch.cat([carry["keys"] for carry in carries])).flatten(0, 1)  # the global batch, in its order
        rows = (self.pointer + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[rows] = keys
        self.pointer.add_(len(keys)).remainder_(len(self.queue))

    def param_groups(self) -> list[ParamGroup]:
        """Weight decay on everything, as in the paper's code."""
        return [ParamGroup(self.trainable())]
