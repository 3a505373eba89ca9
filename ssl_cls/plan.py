"""What a recipe comes to on given data and ranks, and the parts that it names, built."""

from typing import NamedTuple

import torch

from ssl_cls import backbone
from ssl_cls.augment.augment import Augment
from ssl_cls.augment.view import expand
from ssl_cls.config import Recipe
from ssl_cls.data import sampler
from ssl_cls.data.source import Source, labelled
from ssl_cls.data.stream import Stream
from ssl_cls.errors import UserError
from ssl_cls.methods.base import Method
from ssl_cls.methods.supervised import SupervisedConfig


class Plan(NamedTuple):
    """What a recipe comes to on given data and ranks."""

    steps_per_epoch: int
    total_steps: int
    micro_batches: int
    micro_batch_size: int
    input_size: int
    views_per_image: int
    peak_lr: float


def make_plan(recipe: Recipe, source: Source, num_ranks: int) -> Plan:
    """Resolve steps and batches of a complete recipe.

    Raises:
        UserError: the batch is larger than the data, or not a whole number of ranks and micro-batches.
    """
    size, micro = recipe.train.batch_size, recipe.train.micro_batch_size
    if size % num_ranks:
        nearest = max(num_ranks, round(size / num_ranks) * num_ranks)
        raise UserError(
            f"a batch of {size} cannot be shared by {num_ranks} processes",
            "train.batch_size",
            f"the nearest that can is {nearest}",
        )
    local = size // num_ranks
    micro = min(micro or local, local)
    if local % micro:
        raise UserError(
            f"{local} images a process are not a whole number of micro-batches of {micro}",
            "train.micro_batch_size",
            f"use a divisor of {local}",
        )
    steps_per_epoch = sampler.steps_per_epoch(len(source), size)
    assert recipe.views is not None
    views = expand(recipe.views)
    global_sizes = {view.size for view in views if view.kind == "global"}
    assert len(global_sizes) == 1
    return Plan(
        steps_per_epoch,
        max(1, round(recipe.train.epochs * steps_per_epoch)),
        local // micro,
        micro,
        int(global_sizes.pop() or 0),
        len(views),
        recipe.optim.peak(size),
    )


def training_images(recipe: Recipe, source: Source) -> Source:
    """What a recipe trains on: all images, or where the method learns from labels, those that have one."""
    return labelled(source) if isinstance(recipe.method, SupervisedConfig) and source.num_classes else source


def build_method(recipe: Recipe, source: Source, planned: Plan) -> Method:
    """The method with fresh weights, a function of the recipe's seed alone."""
    torch.manual_seed(recipe.seed)
    encoder = backbone.build(recipe.backbone, source.channels, planned.input_size)
    method = recipe.method.build(encoder, source.num_classes)
    if planned.micro_batches > 1 and method.batch_coupled:
        raise UserError(
            f"{recipe.method.name} compares every image with the whole batch, so it cannot be split into micro-batches",
            "train.micro_batch_size",
            f"leave it out, or lower train.batch_size to {planned.micro_batch_size}",
        )
    return method


def build_stream(
    recipe: Recipe, source: Source, planned: Plan, device: torch.device, rank: int, num_ranks: int, needs_labels: bool
) -> Stream:
    assert recipe.views is not None
    return Stream(
        source, Augment(recipe.views, source.mean, source.std), seed=recipe.seed, batch_size=recipe.train.batch_size,
        micro_batches=planned.micro_batches, rank=rank, num_ranks=num_ranks, device=device, workers=recipe.data.workers,
        needs_labels=needs_labels, max_bad_fraction=recipe.data.max_bad_fraction,
    )  # fmt: skip
