"""What a method is: networks (`embed`), mathematics (`loss`), and the one place where state moves (`after_step`)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.distributed import in_full_precision


class StepOutput(NamedTuple):
    loss: Tensor  # float32 scalar, mean over the local batch
    embedding: Tensor  # detached [N, D], the pooled encoder output of the first view, which monitors watch
    logs: dict[str, Tensor]  # detached scalars
    carry: dict[str, Tensor]  # detached tensors that after_step needs (keys, a batch centre)
    projection: Tensor | None = None  # likewise [N, D], what the loss compares: there collapse shows first


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a multiple of the scheduled learning rate and weight decay."""

    params: dict[str, nn.Parameter] = field(repr=False)  # by their name in the method
    lr_scale: float = 1.0
    wd_scale: float = 1.0
    frozen_epochs: int = 0
    constant_lr: bool = False  # the peak throughout: SimSiam's predictor


class Method(nn.Module):
    needs_labels = False
    batch_coupled = False  # True: the loss looks across samples, so micro-batches are not the whole batch
    target_forwards = 0  # passes of an image's views through networks that follow, on top of one pass a view

    backbone: Backbone

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The networks: nothing across samples but batch norm; targets, keys and masks of the step go in too.

        In a batch-coupled method dimension 0 of each tensor runs over images in the batch's order, views behind it
        ([N, V, D]), an image's patches side by side ([M, D]): micro-batches' tensors, concatenated, are the batch's.
        """
        raise NotImplementedError

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        """The mathematics: no parameters, no random numbers of torch's; may gather over ranks.

        A batch-coupled loss sees no pixels: over several micro-batches its `batch.views` is empty. It detaches targets
        and keys, which `embed` made without gradient, so that none is computed for them there either.
        """
        raise NotImplementedError

    def forward(self, batch: Batch, clock: Clock, cotangents: dict[str, Tensor] | None = None) -> StepOutput:
        """Networks in whatever precision autocast sets, mathematics in float32 at least.

        With the gradients of a loss with respect to the embeddings, the second pass of gradient caching: an inner
        product in the place of the loss, whose gradient with respect to the parameters is that loss's.
        """
        embeddings = self.embed(batch, clock)
        with torch.autocast(batch.index.device.type, enabled=False):
            full = {name: in_full_precision(x) for name, x in embeddings.items()}
            if cotangents is None:
                return self.loss(full, batch, clock)
            total = torch.stack([(full[name] * cotangent).sum() for name, cotangent in cotangents.items()]).sum()
            return StepOutput(total, total.detach(), {}, {})

    def after_step(self, clock: Clock, carries: Sequence[dict[str, Tensor]]) -> None:
        """EMA, centre, queue: called once per optimizer step, with the carries of its micro-batches."""

    def check_batch(self, batch_size: int, micro_batch_size: int, num_ranks: int) -> None:
        """Called before anything starts. Raises UserError where the global batch, or how it is split, does not fit."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """What the optimizer moves, by name: not the networks that follow by EMA."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def param_groups(self) -> list[ParamGroup]:
        """Matrices with weight decay; biases, norms and other vectors without (MAE, DINO, SimCLR's LARS)."""
        matrices = {name: p for name, p in self.trainable().items() if p.ndim > 1}
        vectors = {name: p for name, p in self.trainable().items() if p.ndim <= 1}
        return [ParamGroup(matrices), ParamGroup(vectors, wd_scale=0.0)]

    @property
    def encoder(self) -> Backbone:
        """What is evaluated and exported."""
        return self.backbone
