"""SimCLR (Chen et al. 2020): two views of an image attract, all other views of the batch repel."""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_cls.augment import presets
from ssl_cls.augment.view import View, is_pair
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.distributed import gather, num_ranks, rank
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.methods.heads import mlp
from ssl_cls.spec import Count, Positive, spec


@spec
class SimCLRConfig:
    name: Literal["simclr"] = "simclr"
    temperature: Positive = 0.2
    projector: tuple[Count, ...] = (512, 128)  # widths of the projection head, the last one being that of z

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.simclr(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return None if is_pair(views) else "SimCLR needs exactly two global views (one view with count: 2)"

    def build(self, backbone: Backbone, num_classes: int | None) -> "SimCLR":
        return SimCLR(self, backbone)


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """The normalised temperature-scaled cross entropy (section 2.1, equation 1), a mean over this rank's 2N anchors.

    z: [2, N, D], unit length. The candidates of an anchor are the other 2B - 1 views of the global batch, its positive
    among them.
    """
    _, n, _ = z.shape
    candidates = gather(z.transpose(0, 1)).transpose(0, 1)  # [2, B, D]
    b = candidates.shape[1]
    logits = z.flatten(0, 1) @ candidates.flatten(0, 1).T / temperature  # [2N, 2B]
    own = torch.arange(n, device=z.device) + rank() * n
    itself, positive = torch.cat((own, own + b)), torch.cat((own + b, own))
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return F.cross_entropy(logits, positive)


class SimCLR(Method):
    batch_coupled = True

    def __init__(self, config: SimCLRConfig, backbone: Backbone) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.backbone = backbone
        self.projector = mlp(backbone.dim, config.projector, output_norm="batch")  # on the output too: authors' code

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        h = self.backbone(torch.cat(batch.views["global"]))  # [2N, dim]: both views share one batch norm
        pairs = {"h": h, "z": self.projector(h)}
        return {name: x.unflatten(0, (2, -1)).transpose(0, 1) for name, x in pairs.items()}  # [N, 2, width]

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        z = F.normalize(embeddings["z"], dim=2).transpose(0, 1)  # [2, N, D]
        loss = nt_xent(z, self.temperature)
        alignment = (z[0] * z[1]).sum(1).mean().detach()
        chance = math.log(2 * len(z[0]) * num_ranks() - 1)  # of every candidate being as likely
        logs = {"positive_similarity": alignment, "chance_loss": torch.full_like(alignment, chance)}
        return StepOutput(loss, embeddings["h"][:, 0].detach(), logs, {}, z[0].detach())
