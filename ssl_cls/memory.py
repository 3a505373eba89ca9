"""When the first step does not fit into memory: half the images at a time, the same global batch, the same result."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_cls.errors import RunError
from ssl_cls.plan import Plan


def halved(planned: Plan, method: nn.Module, steps_taken: int, num_ranks: int, error: Exception) -> int:
    """The micro-batch to try next.

    Raises:
        RunError: memory ran out later than in the first step; half of it would change the result, since batch norm
            normalises by the images of a pass; or other ranks, which it did fit, wait within their step.
    """
    size = planned.micro_batch_size
    where, fix = "train.micro_batch_size", f"set train.micro_batch_size={max(1, size // 2)}, or a smaller backbone"
    if steps_taken:
        raise RunError(f"out of memory, after {steps_taken} steps that fitted", where, fix) from error
    if size % 2:
        raise RunError(f"out of memory, and {size} images at a time have no half", where, fix) from error
    if num_ranks > 1:
        raise RunError(f"out of memory with {size} images at a time on one of {num_ranks} ranks", where, fix) from error
    if any(isinstance(module, _BatchNorm) for module in method.modules()):
        what = f"out of memory with {size} images at a time, and fewer would be another run: there is batch norm in it"
        raise RunError(what, where, fix) from error
    return size // 2
