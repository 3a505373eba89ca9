"""One optimizer step: forward and backward over the micro-batches, clip, update, `after_step`.

Everything that moves a weight happens here or in `Method.after_step`.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_cls import distributed as ranks
from ssl_cls import optim, rng
from ssl_cls.clock import Clock
from ssl_cls.config import Recipe
from ssl_cls.data.batch import Batch
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.plan import Plan
from ssl_cls.safety import Gate

_STEP_DRAW = -2  # the `view` number of rng.bits that seeds torch: no sample's view has it


class Step:
    def __init__(self, recipe: Recipe, method: Method, planned: Plan, accelerator: Accelerator) -> None:
        self.recipe, self.planned, self.accelerator = recipe, planned, accelerator
        self.method = method.to(accelerator.device)
        if accelerator.num_processes > 1:
            ranks.SyncBatchNorm.convert(self.method)
        self.optimizer = optim.build(recipe.optim, self.method)
        self.trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.gate = Gate(accelerator.device)
        self.taken = 0  # steps since it was built
        self._initial_norm = self._weight_norm()
        self.wrapped = accelerator.prepare(self.method)

    def __call__(
        self, batches: Sequence[Batch], clock: Clock, signal: int = 0
    ) -> tuple[list[StepOutput], float, Tensor]:
        """The micro-batches' outputs, the learning rate, and the gradient norm before clipping.

        A batch-coupled method over several micro-batches has one output: that of its whole batch. `signal` is what
        this rank has received; what all ranks know of the step is in `gate`.
        """
        lr = optim.apply(self.optimizer, self.recipe.optim, clock, self.recipe.train.batch_size)
        coupled = self.method.batch_coupled and len(batches) > 1
        outputs = self._backward_as_one(batches, clock) if coupled else self._backward(batches, clock)
        optim.drop_frozen(self.optimizer, clock)
        norm = optim.clip(self.trained, self.recipe.optim.clip)
        skip = self.gate.judge(clock.step, [output.loss for output in outputs], norm, signal)
        optim.update(self.optimizer, skip)
        self.optimizer.zero_grad(set_to_none=True)
        if not (self.gate.on_host and skip):  # a GPU is not waited for: its run ends a step later, before it saves
            self.method.after_step(clock, [output.carry for output in outputs])
        self.taken += 1
        return outputs, lr, norm

    def weight_growth(self) -> Tensor:
        """The norm of all trained parameters together in units of the initial one, a scalar on the device."""
        return self._weight_norm() / self._initial_norm

    def _weight_norm(self) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm([p.detach() for p in self.trained])))
        return norm

    def _backward(self, batches: Sequence[Batch], clock: Clock) -> list[StepOutput]:
        """The loss is a mean over images, so its gradient is the mean of the micro-batches'."""
        outputs = []
        for number, batch in enumerate(batches):
            self._seed(clock, number, len(batches))
            with self._synchronised_if(number == len(batches) - 1):
                output: StepOutput = self.wrapped(batch, clock)
                self.accelerator.backward(output.loss / len(batches))
            outputs.append(output._replace(loss=output.loss.detach()))
        return outputs

    def _backward_as_one(self, batches: Sequence[Batch], clock: Clock) -> list[StepOutput]:
        """Gradient caching (Gao et al. 2021, section 3.2): the loss of the whole batch, in a micro-batch's memory.

        Embed each micro-batch without a graph; differentiate the loss with respect to all embeddings; embed each again,
        with the same random numbers, and pull its share of that gradient back through the networks.
        """
        parts = []
        with torch.no_grad(), self.accelerator.autocast(), _unmoved_statistics(self.method):
            for number, batch in enumerate(batches):
                self._seed(clock, number, len(batches))
                parts.append(self.method.embed(batch, clock))
        whole = {name: ranks.in_full_precision(torch.cat([part[name] for part in parts])) for name in parts[0]}
        for x in whole.values():
            x.requires_grad_(x.is_floating_point())
        output = self.method.loss(whole, _without_pixels(batches), clock)
        grads = torch.autograd.grad(output.loss, [x for x in whole.values() if x.requires_grad], allow_unused=True)
        differentiated = [name for name, x in whole.items() if x.requires_grad]
        splits = {
            name: torch.split(grad, [len(part[name]) for part in parts])
            for name, grad in zip(differentiated, grads, strict=True)
            if grad is not None
        }
        for number, batch in enumerate(batches):
            self._seed(clock, number, len(batches))
            with self._synchronised_if(number == len(batches) - 1):
                pulled = self.wrapped(batch, clock, {name: split[number] for name, split in splits.items()})
                self.accelerator.backward(pulled.loss)
        carry = {name: x.detach() for name, x in output.carry.items()}
        return [output._replace(loss=output.loss.detach(), embedding=output.embedding.detach(), carry=carry)]

    def _seed(self, clock: Clock, number: int, count: int) -> None:
        """Drop-path and dropout are stateful, so torch is seeded anew for each part of each global batch."""
        part = self.accelerator.process_index * count + number
        key = rng.DrawKey(self.recipe.seed, clock.step)
        seed = int(rng.bits(key, torch.tensor([part]), _STEP_DRAW, 1))
        # torch's own also queues the seed for devices that are not there, with a traceback for each
        on_cpu = self.accelerator.device.type == "cpu"
        (torch.default_generator.manual_seed if on_cpu else torch.manual_seed)(seed)

    def _synchronised_if(self, last: bool) -> AbstractContextManager[None]:
        """Ranks average gradients once, in the backward pass of the last micro-batch."""
        return nullcontext() if last else self.accelerator.no_sync(self.wrapped)


@contextmanager
def _unmoved_statistics(method: nn.Module) -> Iterator[None]:
    """Batch norms normalise by their batch as in training, and their running statistics stay as they are."""
    norms = [module for module in method.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _without_pixels(batches: Sequence[Batch]) -> Batch:
    """The whole batch as a loss may see it: images once more in memory would be the size of the data."""
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return batches[0]._replace(
        views={}, index=torch.cat([batch.index for batch in batches]), labels=torch.cat(labels) if labels else None
    )
