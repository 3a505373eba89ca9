"""What a recipe comes to on given data and ranks, and the parts that it names, built."""

from typing import NamedTuple

import torch

from ssl_cls import backbone
from ssl_cls.augment.augment import Augment
from ssl_cls.augment.view import View, expand
from ssl_cls.config import Recipe
from ssl_cls.data import sampler
from ssl_cls.data.source import Source, all_labels, labelled
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
    return Plan(
        steps_per_epoch,
        max(1, round(recipe.train.epochs * steps_per_epoch)),
        local // micro,
        micro,
        input_size(recipe),
        len(views),
        recipe.optim.peak(size),
    )


def input_size(recipe: Recipe) -> int:
    """Side of the images that a complete recipe's encoder is made for and judged on: `backbone.input_size`, or that of
    its global views.

    Raises:
        UserError: global views of several sizes or larger than that, or local views larger than global ones.
    """
    views = recipe.views or ()
    sizes = sorted({view.size or 0 for view in views if view.kind == "global"})
    if len(sizes) != 1:
        raise UserError(f"global views need one size, not {sizes}", "views", "an encoder is made for one size")
    if any((view.size or 0) > sizes[0] for view in views if view.kind == "local"):
        raise UserError(f"local views are larger than the global ones, {sizes[0]} pixels", "views", "make them smaller")
    judged = recipe.backbone.input_size or sizes[0]
    if judged < sizes[0]:
        what = f"views of {sizes[0]} pixels are larger than the {judged} that the encoder is judged at"
        raise UserError(what, "backbone.input_size", f"leave it out, or give at least {sizes[0]}")
    return judged


def training_images(recipe: Recipe, source: Source) -> Source:
    """What a recipe trains on: all images, or where the method learns from labels, those that have one."""
    return labelled(source) if isinstance(recipe.method, SupervisedConfig) and source.num_classes else source


def build_method(recipe: Recipe, source: Source, planned: Plan) -> Method:
    """The method with fresh weights, a function of the recipe's seed alone."""
    torch.manual_seed(recipe.seed)
    encoder = backbone.build(recipe.backbone, source.channels, planned.input_size)
    for view in recipe.views or ():
        if view.size != planned.input_size:
            _check_size(encoder, view)
    method = recipe.method.build(encoder, source.num_classes)
    num_ranks = recipe.train.batch_size // (planned.micro_batches * planned.micro_batch_size)
    method.check_batch(recipe.train.batch_size, planned.micro_batch_size, num_ranks)
    return method


def _check_size(encoder: backbone.Backbone, view: View) -> None:
    """Raises UserError unless images of the view's size, smaller than the encoder's own, can pass through it."""
    assert view.size
    if encoder.is_vit and view.kind == "global":
        raise UserError(
            f"a vision transformer has a position for each patch of a global view, here of {view.size} pixels",
            "backbone.input_size",
            "leave it out: only convolutional networks are judged at another size than they were trained at",
        )
    if encoder.is_vit and view.size % (patch := encoder.patch_size):
        raise UserError(
            f"local views of {view.size} pixels are not a whole number of {patch}-pixel patches",
            "views",
            f"give them a size that {patch} divides, as {max(1, round(view.size / patch)) * patch}",
        )
    if not encoder.is_vit and encoder.model.pretrained_cfg.get("fixed_input_size"):  # type: ignore[union-attr, operator]
        raise UserError(
            f"this architecture takes images of one size only, and {view.kind} views are smaller",
            "backbone.name",
            "use a vit or a convolutional network, or views of one size",
        )


def build_stream(
    recipe: Recipe, source: Source, planned: Plan, device: torch.device, rank: int, num_ranks: int, needs_labels: bool
) -> Stream:
    assert recipe.views is not None
    if needs_labels and all_labels(source).ndim != 1:
        raise UserError("this method learns one class an image, and these have several labels each", source.name)
    return Stream(
        source, Augment(recipe.views, source.mean, source.std), seed=recipe.seed, batch_size=recipe.train.batch_size,
        micro_batches=planned.micro_batches, rank=rank, num_ranks=num_ranks, device=device, workers=recipe.data.workers,
        needs_labels=needs_labels, max_bad_fraction=recipe.data.max_bad_fraction,
    )  # fmt: skip
