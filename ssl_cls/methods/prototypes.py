"""Self-distillation over prototypes, as DINO and DINOv2 share it: head, teacher's targets, loss."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_cls.clock import Clock
from ssl_cls.distributed import gather, mean
from ssl_cls.methods.base import ParamGroup
from ssl_cls.spec import Count, Fraction, NonNegative, Positive, spec


@spec
class HeadConfig:
    hidden_dim: Count = 256
    bottleneck_dim: Count = 64
    prototypes: Count = 1024
    norm_last_layer: bool = True  # keep the prototypes at unit length: steadier, and what the authors use for ViT-B

    def build(self, in_dim: int) -> "PrototypeHead":
        return PrototypeHead(in_dim, self)


class PrototypeHead(nn.Module):
    """[..., in_dim] -> [..., K] logits: an MLP onto the unit sphere, then the cosine with each prototype.

    Caron et al. 2021, section 3.1 and appendix C: three layers with GELU, no batch norm, truncated normal weights.
    """

    def __init__(self, in_dim: int, config: HeadConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.hidden_dim),
            nn.GELU(),
            nn.Linear(config.hidden_dim, config.bottleneck_dim),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # Weight normalisation (Salimans & Kingma 2016): directions, and a length for each that may be held at 1.
        self.directions = nn.Parameter(torch.empty(config.prototypes, config.bottleneck_dim).uniform_(-1, 1))
        self.lengths = nn.Parameter(torch.ones(config.prototypes, 1), requires_grad=not config.norm_last_layer)

    @property
    def prototypes(self) -> Tensor:
        """[K, bottleneck_dim], the rows of the last layer."""
        return self.lengths * F.normalize(self.directions, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.mlp(x), dim=-1), self.prototypes)


def freeze_prototypes(groups: Sequence[ParamGroup], epochs: int) -> list[ParamGroup]:
    """The same groups, with each head's last layer in groups of its own that rest for the first `epochs`."""

    def part(group: ParamGroup, last: bool) -> ParamGroup:
        params = {n: p for n, p in group.params.items() if n.endswith((".directions", ".lengths")) == last}
        return replace(group, params=params, frozen_epochs=epochs if last else 0)

    parts = [part(group, last) for group in groups for last in (False, True)]
    return [group for group in parts if group.params]


@spec
class TeacherTemperature:
    """Linear from `start` to `end` over the first epochs, then constant.

    Differs: per step; the authors' code moves it once an epoch, which short runs would see as jumps.
    """

    start: Positive = 0.04
    end: Positive = 0.04
    warmup_epochs: NonNegative = 0.0

    def at(self, clock: Clock) -> float:
        warmup_steps = self.warmup_epochs * clock.steps_per_epoch
        if clock.step >= warmup_steps:
            return self.end
        return self.start + (self.end - self.start) * clock.step / warmup_steps


class Centring(nn.Module):
    """Targets by a softmax around a running mean of the teacher's logits, which keeps one prototype from taking all.

    Caron et al. 2021, section 3.1, equation 4.
    """

    centre: Tensor  # [K]

    def __init__(self, prototypes: int, momentum: Fraction) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(prototypes))

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        """[..., K] teacher logits -> distributions, around the centre of the steps before this one."""
        return ((logits - self.centre) / temperature).softmax(-1)

    @torch.no_grad()
    def update(self, sums: Sequence[Tensor], counts: Sequence[Tensor]) -> None:
        """Move the centre by the mean over all logits of a step, given each micro-batch's sum [K] and number of them.

        Differs: over all rows of all ranks alike; DINOv2 averages ranks whose numbers of masked patches differ.
        """
        batch_centre = mean(torch.stack(list(sums)).sum(0)) / mean(torch.stack(list(counts)).sum())
        self.centre.lerp_(batch_centre, 1 - self.momentum)


@torch.no_grad()
def sinkhorn(logits: Tensor, temperature: float, iterations: int = 3) -> Tensor:
    """[M, K] teacher logits -> distributions that use all prototypes alike over the M rows of every rank together.

    Sinkhorn-Knopp (Cuturi 2013) as in SwAV (Caron et al. 2020, 3.1): scale prototypes, then rows, to equal sums, and
    again. The constants of the original, K and the number of rows of each rank, cancel in the last scaling, so ranks
    may have different numbers of rows. Logarithms never overflow.
    """
    log_q = logits / temperature
    for _ in range(iterations):
        log_q = log_q - gather(log_q.logsumexp(0, keepdim=True)).logsumexp(0)  # each prototype: the same sum
        log_q = log_q.log_softmax(1)  # each row: a distribution
    return log_q.exp()


def cross_view_cross_entropy(targets: Tensor, log_probs: Tensor) -> Tensor:
    """Mean cross entropy over images and pairs of different views (Caron et al. 2021, equation 3).

    targets: [N, T, K] the teacher's distributions of the first T views; log_probs: [N, V, K] the student's of all V.
    With 2 and 10 views there are 2 * 10 - 2 = 18 pairs.
    """
    pairs = -torch.einsum("ntk,nvk->tv", targets, log_probs)  # [T, V], sums over images
    same = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs.masked_fill(same, 0).sum() / (len(targets) * (same.numel() - len(pairs)))


def teacher_figures(targets: Tensor) -> dict[str, Tensor]:
    """Two entropies of the targets [..., K], as parts of ln K, to tell the teacher's two collapses from health.

    teacher_entropy: of each target; at 1 the teacher says nothing, at 0 it is certain.
    prototype_entropy: of their mean; low when all images share few prototypes.
    """
    rows = targets.flatten(0, -2)
    most = math.log(rows.shape[1])
    each = torch.special.entr(rows).sum(1).mean()
    return {"teacher_entropy": each / most, "prototype_entropy": torch.special.entr(rows.mean(0)).sum() / most}
