"""What crosses ranks, each with the gradient that makes the mean over ranks exact. On one process: the identity.

DDP averages gradients. A loss on one rank that looks at tensors of all ranks must therefore send each of them the sum
of what every rank's loss asks of it, which is what the backward passes here do.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn


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


def mean(x: Tensor) -> Tensor:
    """The mean over ranks of same-shaped tensors, differentiable."""
    return x if num_ranks() == 1 else _Mean.apply(x)


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the global batch, on any backend (torch's own refuses gloo). Equal local batches are assumed.

    The mean first, then the variance around it: two small exchanges, without the cancellation of E[x^2] - E[x]^2.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"batch norm needs [N, C, ...], not {tuple(input.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or num_ranks() == 1:
            return super().forward(x)
        dims = [d for d in range(x.ndim) if d != 1]
        shape = [-1 if d == 1 else 1 for d in range(x.ndim)]
        centred = x - mean(x.mean(dims)).view(shape)
        variance = mean(centred.square().mean(dims))
        if self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            count = x.numel() / x.shape[1] * num_ranks()
            with torch.no_grad():
                batch_mean = (x - centred).mean(dims)
                momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
                assert self.running_mean is not None
                assert self.running_var is not None
                self.running_mean.lerp_(batch_mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        y = centred * (variance + self.eps).rsqrt().view(shape)
        return y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y

    @classmethod
    def convert(cls, module: nn.Module) -> nn.Module:
        """`module` with every batch norm in it replaced by this one: same parameters, same buffers, same names."""
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, cls):
                synced = cls(child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats)
                synced._parameters, synced._buffers, synced.training = child._parameters, child._buffers, child.training
                setattr(module, name, synced)
            else:
                cls.convert(child)
        return module
