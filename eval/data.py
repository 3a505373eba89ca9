"""The labelled splits that encoders are judged on."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args, get_type_hints

import torch

from eval.base import EvalData
from eval.channels import seen_with
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import all_labels
from ssl_cls.errors import UserError

_KEYS = ("data.source", "data.path")


def overridden(config: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """`config` with data.source=NAME and data.path=DIR changed; a new source forgets the old one's path.

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
                f"did you mean {near[0]}?" if near else "it takes data.source=NAME and data.path=DIR",
            )
        if key == "data.path":
            config = replace(config, path=value)
            continue
        names = get_args(get_type_hints(DataConfig)["source"])
        if value not in names:
            near = difflib.get_close_matches(value, names, n=1)
            raise UserError(
                f"no data set named {value!r}",
                override,
                f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}",
            )
        path = config.path if value == config.source else None
        config = replace(config, source=value, path=path)  # type: ignore[arg-type]
    return config


def open_data(config: DataConfig, device: torch.device = torch.device("cpu")) -> EvalData:  # noqa: B008
    """Train, val and test of a data set, with one known class for each image.

    Raises:
        UserError: the data cannot be had, or are not labelled so.
    """
    train, val, test = (catalog.open(config, split, device) for split in ("train", "val", "test"))
    if train.num_classes is None:
        raise UserError(
            "these images have no labels, so there is nothing to judge an encoder by",
            train.name,
            "put the images of each class into a folder of its own",
        )
    for source in (train, val, test):
        labels = all_labels(source)
        if labels.ndim != 1:
            raise UserError("these images have several labels each; evaluation takes one class an image", source.name)
        if missing := int((labels < 0).sum()):
            raise UserError(
                f"{missing} of {len(labels)} images have no label",
                source.name,
                "label them, or take them out of the folder",
            )
    return EvalData(train.name.rpartition("/")[0], train, val, test, train.num_classes)


def shown(data: EvalData, channels: int) -> EvalData:
    """`data` as an encoder of so many channels sees it."""
    train, val, test = (seen_with(source, channels) for source in (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test)
