"""What crosses ranks, each with the gradient that makes the mean over ranks exact. On one process: the identity.

DDP averages gradients. A loss on one rank that looks at tensors of all ranks must therefore send each of them the sum
of what every rank's loss asks of it, which is what the backward passes here do.
"""

from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, distributed, nn
from torch.nn import functional as F

M = TypeVar("M", bound=nn.Module)


def in_full_precision(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def num_ranks() -> int:
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    return distributed.get_rank() if num_ranks() > 1 else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(num_ranks())]
        distributed.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        grad = grads[0].contiguous()
        distributed.all_reduce(grad)
        return grad.chunk(num_ranks())[rank()]


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total / num_ranks()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total / num_ranks()


def gather(x: Tensor) -> Tensor:
    """[N, ...] on each rank -> [ranks * N, ...] on every rank, in rank order, differentiable."""
    return x if num_ranks() == 1 else _Gather.apply(x)


def share(x: Tensor) -> Tensor:
    """What `gather` took from this rank: [ranks * N, ...] -> [N, ...]."""
    return x.chunk(num_ranks())[rank()]


def mean(x: Tensor) -> Tensor:
    """The mean over ranks of same-shaped tensors, differentiable."""
    return x if num_ranks() == 1 else _Mean.apply(x)


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the norms below share: each stands in for torch's under the same names, and knows the global batch."""

    def __init__(self, num_features: int, eps: float, momentum: float | None, affine: bool, tracks: bool) -> None:
        super().__init__(num_features, eps, momentum, affine, tracks)
        self.after: nn.Module = nn.Identity()  # the activation, where the replaced norm had one of its own

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm needs [N, C, ...], not {tuple(input.shape)}")

    def normalise(self, x: Tensor) -> Tensor:
        """Training: by statistics of the batch."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.normalise(x) if self.training else super().forward(x))  # type: ignore[no-any-return]

    @torch.no_grad()
    def track(self, batch_mean: Tensor, batch_variance: Tensor) -> None:
        """Move the running statistics towards a batch's mean and unbiased variance, both [C]."""
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(batch_mean, momentum)
            self.running_var.lerp_(batch_variance, momentum)

    @classmethod
    def convert(cls, module: M, **settings: int) -> M:
        """`module` with every batch norm in it that is not ours yet replaced: same parameters, buffers and names."""
        for name, child in module.named_children():
            if isinstance(child, _GlobalBatchNorm):
                continue
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                norm = cls(
                    child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats, **settings
                )
                norm._parameters, norm._buffers, norm.training = child._parameters, child._buffers, child.training
                if isinstance(child, BatchNormAct2d):
                    norm.after = nn.Sequential(child.drop, child.act)
                setattr(module, name, norm)
            else:
                cls.convert(child, **settings)
        return module


class SyncBatchNorm(_GlobalBatchNorm):
    """Batch norm over the global batch, on any backend (torch's own refuses gloo). Equal local batches are assumed.

    The mean first, then the variance around it: two small exchanges, without the cancellation of E[x^2] - E[x]^2.
    In full precision, as torch's: autocast hands over bfloat16.
    """

    def normalise(self, x: Tensor) -> Tensor:
        if num_ranks() == 1:
            return nn.modules.batchnorm._BatchNorm.forward(self, x)
        given, x = x.dtype, in_full_precision(x)
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
        centred = x - mean(x.mean(dims)).view(shape)
        variance = mean(centred.square().mean(dims))
        count = x.numel() / x.shape[1] * num_ranks()
        self.track((x - centred).mean(dims), variance * (count / (count - 1)))
        y = centred * (variance + self.eps).rsqrt().view(shape)
        return (y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y).to(given)


class SplitBatchNorm(_GlobalBatchNorm):
    """Batch norm by groups: the global batch, in its order, in `num_splits` parts, each with statistics of its own.

    What MoCo's per-device batch norm is on any number of devices: a rank has num_splits / ranks of the parts. Running
    statistics move towards the mean over all parts of their means and of their unbiased variances.
    """

    def __init__(
        self, num_features: int, eps: float, momentum: float | None, affine: bool, tracks: bool, *, num_splits: int
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, tracks)
        self.num_splits = num_splits

    def normalise(self, x: Tensor) -> Tensor:
        parts = x.chunk(self.num_splits // num_ranks())
        kept = self.running_mean if self.running_mean is not None else x.detach()
        means, variances = kept.new_zeros(2, len(parts), x.shape[1])
        normalised = [
            # with momentum 1, torch leaves the part's own statistics in place of the running ones
            F.batch_norm(part, mean_of_part, variance_of_part, self.weight, self.bias, True, 1.0, self.eps)
            for part, mean_of_part, variance_of_part in zip(parts, means, variances, strict=True)
        ]
        self.track(*mean(torch.stack((means.mean(0), variances.mean(0)))))
        return torch.cat(normalised)
