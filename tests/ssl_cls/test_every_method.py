"""What every method of the registry must do: come back whole from a checkpoint (X21), and split its batches."""

import dataclasses
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from ssl_cls import checkpoint, config
from ssl_cls.clock import Clock
from ssl_cls.data.arrays import Arrays
from ssl_cls.data.batch import Batch
from ssl_cls.plan import build_method, make_plan
from ssl_cls.step import Step

CNN = "{name: resnet_small, args: {channels: [4, 8]}}"
VIT = "{name: vit_tiny_patch16_224, args: {patch_size: 4, embed_dim: 16, depth: 2, num_heads: 2, drop_path_rate: 0.2}}"
HEAD = "head: {hidden_dim: 8, bottleneck_dim: 8, prototypes: 16, norm_last_layer: false}"
TINY = {  # backbone and arguments by method: a method of the registry that is not here fails
    "simclr": (CNN, "projector: [8, 4]"),
    "moco": (CNN, "queue: 32, projector: [8, 4], norm_splits: 2"),
    "mocov3": (VIT, "projector: [8, 8, 4], predictor_dim: 8"),
    "byol": (CNN, "projector: [8, 4], predictor: 8"),
    "simsiam": (CNN, "projector: [8, 8], predictor: 4"),
    "mae": (VIT, "decoder_dim: 8, decoder_depth: 1, decoder_heads: 2"),
    "dino": (VIT, HEAD),
    "dinov2": (VIT, f"{HEAD}, patch_head: {{hidden_dim: 8, bottleneck_dim: 8, prototypes: 16}}"),
    "supervised": (CNN, "label_smoothing: 0.1"),
}
METHODS = [dataclasses.fields(kind)[0].default for kind in typing.get_args(typing.get_args(config.MethodConfig)[0])]
OPTIMIZERS = {"simsiam": "name: sgd, lr: 0.05", "byol": "name: lars, lr: 0.5"}
STEPS_PER_EPOCH, TOTAL = 8, 20


def start(name: str, seed: int = 0) -> Step:
    backbone, arguments = TINY[name]
    text = f"""
name: state
seed: {seed}
data: {{source: digits}}
backbone: {backbone}
method: {{name: {name}, {arguments}}}
optim: {{{OPTIMIZERS.get(name, "name: adamw, lr: 1.0e-2, weight_decay: 0.1")}, warmup_epochs: 0.5}}
train: {{epochs: 2.5, batch_size: 8}}
"""
    recipe = config.resolved(config.parse(config.Recipe, text, "test"), 28, 1)
    images = torch.zeros(64, 1, 28, 28, dtype=torch.uint8)
    source = Arrays("none", images, torch.zeros(64, dtype=torch.int64), ["a", "b", "c"], (0.5,), (0.5,))
    planned = make_plan(recipe, source, 1)
    assert (planned.steps_per_epoch, planned.total_steps) == (STEPS_PER_EPOCH, TOTAL)
    step = Step(recipe, build_method(recipe, source, planned), planned, Accelerator(cpu=True))
    step.method.train()
    return step


Advance = Callable[[Step, int, int], list[float]]


@pytest.fixture
def advance(random_batch: Callable[..., Batch]) -> Advance:
    """`advance(step, first, last)` takes those steps and returns their losses."""

    def take(step: Step, first: int, last: int) -> list[float]:
        losses = []
        for number in range(first, last):
            outputs, _, _ = step([random_batch(step.recipe, number)], Clock(number, TOTAL, STEPS_PER_EPOCH))
            losses.append(float(outputs[0].loss))
        return losses

    return take


def tensors(thing: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Every tensor that can be reached from `thing` through attributes, mappings and sequences."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield path, thing
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from tensors(value, f"{path}.{key}", seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for number, value in enumerate(thing):
            yield from tensors(value, f"{path}.{number}", seen)
    elif hasattr(thing, "__dict__") and not isinstance(thing, type) and not callable(getattr(thing, "__code__", None)):
        yield from tensors(vars(thing), path, seen)


def test_the_walk_finds_tensors_in_plain_attributes_lists_and_mappings() -> None:
    """The control: what a module does not register is found all the same."""
    step = start("simclr")
    step.method.hidden = {"deep": [(torch.ones(3),)]}  # type: ignore[assignment]
    assert [path for path, value in tensors(step.method) if value.shape == (3,) and "hidden" in path]


@pytest.mark.parametrize("name", METHODS)
def test_every_tensor_that_a_method_owns_is_in_its_checkpoint(name: str, advance: Advance) -> None:
    """Or is a constant: the same in a fresh method of another seed that never took a step."""
    step, fresh = start(name), dict(tensors(start(name, seed=1).method))
    advance(step, 0, 2)
    saved = {id(value) for value in step.method.state_dict(keep_vars=True).values()}
    owned = dict(tensors(step.method))
    assert len(saved & {id(value) for value in owned.values()}) == len(saved)
    lost = [
        path
        for path, value in owned.items()
        if id(value) not in saved and not (path in fresh and torch.equal(value, fresh[path]))
    ]
    assert not lost


@pytest.mark.parametrize("name", METHODS)
def test_every_tensor_of_the_optimizer_is_in_its_checkpoint(name: str, advance: Advance) -> None:
    step = start(name)
    advance(step, 0, 2)
    kept = {id(value) for value in checkpoint.optimizer_tensors(step.optimizer, step.method).values()}
    kept |= {id(parameter) for parameter in step.method.parameters()}
    state = [id(value) for values in step.optimizer.state.values() for value in values.values()]
    assert state
    assert kept.issuperset(state)
    assert kept.issuperset(id(value) for _, value in tensors(vars(step.optimizer)))


@pytest.mark.parametrize("name", METHODS)
def test_twenty_steps_are_ten_a_checkpoint_and_ten(  # X3, X21
    name: str, advance: Advance, tmp_path: Path
) -> None:
    """In one process without a process group, which is all that the methods' collectives then have."""
    assert not torch.distributed.is_initialized()
    whole = start(name)
    expected = advance(whole, 0, TOTAL)
    first = start(name)
    assert advance(first, 0, TOTAL // 2) == expected[: TOTAL // 2]
    model, optimizer = dict(first.method.state_dict()), checkpoint.optimizer_tensors(first.optimizer, first.method)
    saved = checkpoint.load(checkpoint.save(tmp_path, {"step": TOTAL // 2}, model, optimizer, 2))
    torch.manual_seed(99)
    second = start(name)
    torch.nn.init.zeros_(next(second.method.parameters()))  # what is not loaded would be seen
    second.method.load_state_dict(saved.model)
    checkpoint.restore_optimizer(second.optimizer, second.method, saved.optim)
    assert advance(second, TOTAL // 2, TOTAL) == expected[TOTAL // 2 :]
    end = second.method.state_dict()
    assert all(torch.equal(value, end[key]) for key, value in whole.method.state_dict().items())


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_autocast_stays_within_one_percent_and_the_loss_is_float32(
    name: str, random_batch: Callable[..., Batch]
) -> None:  # X20
    step = start(name)
    method, clock, batch = step.method.eval(), Clock(3, TOTAL, STEPS_PER_EPOCH), random_batch(step.recipe, 0)
    exact = method(batch, clock).loss
    with torch.autocast("cpu", torch.bfloat16):
        rough = method(batch, clock).loss
    assert rough.dtype == torch.float32
    assert rough.item() != exact.item()  # autocast was on
    assert rough.item() == pytest.approx(exact.item(), rel=0.01)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_coupled_loss_needs_no_more_than_the_micro_batches_embeddings(
    name: str, random_batch: Callable[..., Batch]
) -> None:
    """The contract of Method.embed and Method.loss that gradient caching stands on."""
    step = start(name)
    method, clock, whole = step.method.eval(), Clock(3, TOTAL, STEPS_PER_EPOCH), random_batch(step.recipe, 0)
    if not method.batch_coupled:
        return
    parts = []
    for rows in torch.arange(8).chunk(4):
        views = {kind: [view[rows] for view in several] for kind, several in whole.views.items()}
        parts.append(method.embed(whole._replace(views=views, index=whole.index[rows]), clock))
    together, joined = method.embed(whole, clock), {key: torch.cat([p[key] for p in parts]) for key in parts[0]}
    for key, value in together.items():
        torch.testing.assert_close(joined[key], value, msg=key)
    expected = method.loss(together, whole, clock).loss
    torch.testing.assert_close(method.loss(joined, whole._replace(views={}), clock).loss, expected)
