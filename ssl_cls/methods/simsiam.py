"""SimSiam (Chen & He 2021): one network, two views, a predictor on one side and a stop-gradient on the other."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from ssl_cls.augment import presets
from ssl_cls.augment.view import View, is_pair
from ssl_cls.backbone import Backbone
from ssl_cls.clock import Clock
from ssl_cls.data.batch import Batch
from ssl_cls.methods.base import Method, ParamGroup, StepOutput
from ssl_cls.methods.heads import mlp
from ssl_cls.methods.prediction import mismatched_cosine
from ssl_cls.spec import Count, spec


@spec
class SimSiamConfig:
    name: Literal["simsiam"] = "simsiam"
    projector: tuple[Count, ...] = (2048, 2048, 2048)  # widths of the projection head, the last one being that of z
    predictor: Count = 512  # hidden width of the predictor, a bottleneck: a quarter of z's

    def views(self, size: int, channels: int) -> tuple[View, ...]:
        return presets.moco(size, channels)

    def check_views(self, views: tuple[View, ...]) -> str | None:
        return None if is_pair(views) else "SimSiam needs exactly two global views (one view with count: 2)"

    def build(self, backbone: Backbone, num_classes: int | None) -> "SimSiam":
        return SimSiam(self, backbone)


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """-cos(p, stop-gradient(z)), a mean over the batch (section 3, equations 1 and 3). p, z: [N, D], any length."""
    return -F.cosine_similarity(p, z.detach(), dim=1).mean()


class SimSiam(Method):
    def __init__(self, config: SimSiamConfig, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        # Batch norm on the output without scale and shift, as in the authors' code, which freezes the bias before it.
        self.projector = mlp(backbone.dim, config.projector, output_norm="standardise")
        self.predictor = mlp(config.projector[-1], (config.predictor, config.projector[-1]), output_bias=True)

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        h1, h2 = (self.backbone(view) for view in batch.views["global"])  # each view has batch statistics of its own
        z1, z2 = self.projector(h1), self.projector(h2)
        p1, p2 = self.predictor(z1), self.predictor(z2)
        return {"h": h1, "p1": p1, "p2": p2, "z1": z1, "z2": z2}

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        p1, p2, z1, z2 = (embeddings[name] for name in ("p1", "p2", "z1", "z2"))
        loss = (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2  # -1 to 1
        logs = {"chance_loss": -(mismatched_cosine(p1, z2) + mismatched_cosine(p2, z1)) / 2}
        return StepOutput(loss, embeddings["h"].detach(), logs, {}, z1.detach())

    def param_groups(self) -> list[ParamGroup]:
        """Weight decay on everything; the predictor's learning rate stays at its peak (section 4.1, appendix A)."""
        predictor = {name: p for name, p in self.trainable().items() if name.startswith("predictor.")}
        encoder = {name: p for name, p in self.trainable().items() if name not in predictor}
        return [ParamGroup(encoder), ParamGroup(predictor, constant_lr=True)]
