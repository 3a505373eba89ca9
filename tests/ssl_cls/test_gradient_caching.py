"""A batch-coupled loss over micro-batches is the loss of the whole batch, and so is its gradient (Gao et al. 2021)."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssl_cls import config
from ssl_cls.clock import Clock
from ssl_cls.data import catalog
from ssl_cls.data.batch import Batch
from ssl_cls.methods.base import Method, StepOutput
from ssl_cls.methods.simclr import SimCLR
from ssl_cls.plan import build_method, make_plan
from ssl_cls.rng import DrawKey
from ssl_cls.step import Step

RECIPE = """
name: caching
data: {source: digits}
backbone: {name: resnet_small, args: {channels: [8, 16]}}
method: {name: simclr, projector: [16, 8]}
optim: {name: sgd, lr: 0.1}
train: {epochs: 1, batch_size: 16}
"""
CLOCK = Clock(0, 10, 10)


class Taken(NamedTuple):
    outputs: list[StepOutput]
    grads: dict[str, Tensor]
    state: dict[str, Tensor]  # after the step


def simclr(dtype: torch.dtype = torch.float64) -> Method:
    recipe = config.parse(config.Recipe, RECIPE, "test")
    source = catalog.open(recipe.data, "train")
    recipe = config.resolved(recipe, 28, 1)
    return build_method(recipe, source, make_plan(recipe, source, 1)).to(dtype)


def without_batch_norm(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            without_batch_norm(child)


def batches(count: int, dtype: torch.dtype = torch.float64, labels: bool = False) -> list[Batch]:
    """The same 16 images, two views each, in `count` micro-batches."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, 16, 1, 28, 28, generator=generator, dtype=torch.float64).to(dtype)
    index, parts = torch.arange(16), []
    for rows in index.chunk(count):
        pair = {"global": [views[0, rows], views[1, rows]]}
        parts.append(Batch(pair, rows, DrawKey(0, 0), rows % 3 if labels else None))
    return parts


def take_step(method: Method, parts: Sequence[Batch]) -> Taken:
    recipe = config.resolved(config.parse(config.Recipe, RECIPE, "test"), 28, 1)
    planned = make_plan(recipe, catalog.open(recipe.data, "train"), 1)
    step = Step(recipe, method, planned, Accelerator(cpu=True))
    grads: dict[str, Tensor] = {}
    step.optimizer.register_step_pre_hook(
        lambda *_: grads.update({name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None})
    )
    method.train()
    outputs, _, _ = step(parts, CLOCK)
    return Taken(outputs, grads, method.state_dict())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-6)])
@pytest.mark.parametrize("count", [2, 4])
def test_loss_and_gradients_are_those_of_one_pass(dtype: torch.dtype, tolerance: float, count: int) -> None:
    whole, split = simclr(dtype), simclr(dtype)
    without_batch_norm(whole)
    without_batch_norm(split)
    expected, got = take_step(whole, batches(1, dtype)), take_step(split, batches(count, dtype))
    assert len(got.outputs) == 1
    assert float(got.outputs[0].loss) == pytest.approx(float(expected.outputs[0].loss), abs=tolerance)
    assert torch.allclose(got.outputs[0].embedding, expected.outputs[0].embedding, atol=tolerance, rtol=tolerance)
    assert got.grads.keys() == expected.grads.keys() != set()
    for name, grad in expected.grads.items():
        assert float((got.grads[name] - grad).abs().max()) <= tolerance * max(1.0, float(grad.abs().max())), name
    for name, value in expected.state.items():
        assert torch.allclose(got.state[name], value, atol=tolerance, rtol=0), name


def test_accumulating_the_losses_of_micro_batches_would_be_another_gradient() -> None:
    """The control: without caching, each image would be compared with its own micro-batch only."""
    coupled, blind = simclr(), simclr()
    without_batch_norm(coupled)
    without_batch_norm(blind)
    blind.batch_coupled = False  # type: ignore[misc]
    grads, wrong = take_step(coupled, batches(2)).grads, take_step(blind, batches(2)).grads
    assert max(float((grads[name] - wrong[name]).abs().max() / grads[name].abs().max()) for name in grads) > 0.1


def test_running_statistics_move_once_for_each_micro_batch_and_not_in_the_first_pass() -> None:
    method, reference = simclr(), simclr()
    state = take_step(method, batches(2)).state
    reference.train()
    with torch.no_grad():
        for batch in batches(2):
            reference.embed(batch, CLOCK)
    norms = [name for name in state if name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert norms
    for name in norms:
        assert torch.equal(state[name], reference.state_dict()[name]), name
    assert all(m.track_running_stats for m in method.modules() if isinstance(m, _BatchNorm))


class Noisy(SimCLR):
    """SimCLR with dropout, a target without gradient, and an integer tensor among its embeddings."""

    def embed(self, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        out = super().embed(batch, clock)
        z = nn.functional.dropout(out["z"], 0.5)
        return {**out, "z": z, "target": out["z"].detach() + 1, "row": batch.index % 5}

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        output = super().loss(embeddings, batch, clock)
        assert torch.equal(embeddings["row"], batch.index % 5)
        return output._replace(loss=output.loss + (embeddings["z"] - embeddings["target"]).square().mean())


def test_dropout_is_the_same_in_both_passes_and_targets_get_no_gradient() -> None:
    method, reference = simclr(), simclr()
    method.__class__ = reference.__class__ = Noisy
    got = take_step(method, batches(4))
    # the same in one graph: each micro-batch embedded under its own seed, one loss, one backward
    recipe = config.resolved(config.parse(config.Recipe, RECIPE, "test"), 28, 1)
    planned = make_plan(recipe, catalog.open(recipe.data, "train"), 1)
    step = Step(recipe, reference, planned, Accelerator(cpu=True))
    reference.train()
    parts = []
    for number, batch in enumerate(batches(4)):
        step._seed(CLOCK, number, 4)
        parts.append(reference.embed(batch, CLOCK))
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    output = reference.loss(joined, batches(1)[0], CLOCK)
    output.loss.backward()
    assert float(got.outputs[0].loss) == pytest.approx(float(output.loss.detach()), abs=1e-12)
    for name, parameter in reference.named_parameters():
        assert torch.allclose(got.grads[name], parameter.grad, atol=1e-12, rtol=1e-10), name


class Labelled(SimCLR):
    seen: Batch

    def loss(self, embeddings: dict[str, Tensor], batch: Batch, clock: Clock) -> StepOutput:
        self.seen = batch
        return super().loss(embeddings, batch, clock)


def test_the_loss_is_given_the_whole_batch_in_its_order_but_no_pixels() -> None:
    method = simclr()
    method.__class__ = Labelled
    take_step(method, batches(4, labels=True))
    assert torch.equal(method.seen.index, torch.arange(16))
    assert torch.equal(method.seen.labels, torch.arange(16) % 3)
    assert method.seen.views == {}


def test_micro_batches_concatenate_to_the_embeddings_of_the_batch() -> None:
    """The contract of Method.embed that gradient caching stands on."""
    method = simclr()
    without_batch_norm(method)
    (whole,) = (method.embed(batch, CLOCK) for batch in batches(1))
    parts = [method.embed(batch, CLOCK) for batch in batches(4)]
    for name, value in whole.items():
        assert torch.allclose(torch.cat([part[name] for part in parts]), value, atol=1e-12), name
