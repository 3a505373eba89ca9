"""The labelled splits that encoders are judged on."""

import difflib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from eval.base import EvalData
from eval.channels import seen_with
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Source, all_labels, labelled
from ssl_cls.errors import UserError

MIN_A_CLASS = 20  # labelled images: fewer, and the fifth that is tested on is four at most
_NAMED = 5  # small classes that are named one by one
_KEYS = ("data.source", "data.path", "data.labels", "data.window")


def overridden(config: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """`config` with data.source, .path, .labels or .window changed; a new source forgets the old one's path and labels.

    Raises:
        UserError: any other key, or an unknown source.
    """
    for override in overrides:
        key, equals, value = override.partition("=")
        if key not in _KEYS or not equals:
            near = difflib.get_close_matches(key, _KEYS, n=1)
            raise UserError(
                f"evaluation has no setting {key!r}",
                override,
                f"did you mean {near[0]}?"
                if near
                else "it takes data.source=NAME, data.path=DIR, data.labels=FILE and data.window=[LOW,HIGH]",
            )
        if key != "data.source":
            try:
                changed: dict[str, Any] = {key.removeprefix("data."): _window(value) if key == _KEYS[-1] else value}
                config = replace(config, **changed)
            except ValueError as error:
                raise UserError(str(error), override, "give data.source=folder before it") from error
            continue
        if value not in catalog.NAMES:
            near = difflib.get_close_matches(value, catalog.NAMES, n=1)
            raise UserError(
                f"no data set named {value!r}",
                override,
                f"did you mean {near[0]}?" if near else f"there are {', '.join(catalog.NAMES)}",
            )
        if value != config.source:
            config = DataConfig(value, workers=config.workers, max_bad_fraction=config.max_bad_fraction)
    return config


def _window(value: str) -> tuple[float, float]:
    """
    Raises:
        ValueError: not two numbers.
    """
    try:
        low, high = map(float, json.loads(value))
    except TypeError as error:
        raise ValueError(f"a window is [low, high], not {value}") from error
    return low, high


def has_labels(config: DataConfig) -> bool:
    """Whether there is anything to judge an encoder by.

    Raises:
        UserError: the data cannot be had.
    """
    return catalog.open(config, "train").num_classes is not None


def open_data(config: DataConfig, device: torch.device = torch.device("cpu")) -> EvalData:  # noqa: B008
    """The labelled images of train, val and test of a data set, with one class or several labels each.

    Raises:
        UserError: the data cannot be had, or no image of a split is labelled.
    """
    training = catalog.open(config, "train", device)
    train = labelled(training)
    val, test = (labelled(catalog.open(config, split, device)) for split in ("val", "test"))
    for source in (train, val, test):
        if source.num_classes is None or not len(source):
            raise UserError(
                "these images have no labels, so there is nothing to judge an encoder by",
                source.name,
                "put the images of each class into a folder of its own, or give data.labels=labels.csv",
            )
    assert train.num_classes is not None
    name, trainable = train.name.rpartition("/")[0], frozenset((training.members, train.members))
    return EvalData(name, train, val, test, train.num_classes, trainable, config.window)


def open_images(config: DataConfig) -> EvalData:
    """All images of train, val and test, labelled or not; of unlabelled ones alone there are no classes.

    Raises:
        UserError: the data cannot be had.
    """
    train, val, test = (catalog.open(config, split) for split in ("train", "val", "test"))
    name = train.name.rpartition("/")[0]
    return EvalData(name, train, val, test, train.num_classes or 0, frozenset((train.members,)), config.window)


def cautions(data: EvalData) -> list[str]:
    """What a reader of a table on these data should know first: classes too small for their accuracy to mean much."""
    sizes = torch.stack([_class_sizes(source, data.num_classes) for source in (data.train, data.val, data.test)])
    small = torch.nonzero(sizes.sum(0) < MIN_A_CLASS)[:, 0].tolist()
    names = data.train.class_names or [str(number) for number in range(data.num_classes)]
    if len(small) > _NAMED:
        some = ", ".join(f"{names[number]!r} {int(sizes[:, number].sum())}" for number in small[:_NAMED])
        return [f"{len(small)} classes have fewer than {MIN_A_CLASS} labelled images, which say little: {some}, ..."]
    return [
        f"class {names[number]!r} has {int(sizes[:, number].sum())} labelled images, of which {int(sizes[2, number])} "
        f"are tested on: fewer than {MIN_A_CLASS} say little about it"
        for number in small
    ]


def _class_sizes(source: Source, num_classes: int) -> torch.Tensor:
    """Images of each class, or with each label: int64 [num_classes]."""
    labels = all_labels(source)
    return torch.bincount(labels, minlength=num_classes) if labels.ndim == 1 else (labels > 0).sum(0)


def shown(data: EvalData, channels: int) -> EvalData:
    """`data` as an encoder of so many channels sees it."""
    train, val, test = (seen_with(source, channels) for source in (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test)
