"""The labelled splits that encoders are judged on."""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args, get_type_hints

import torch

from eval.base import EvalData
from eval.channels import seen_with
from ssl_cls.data import catalog
from ssl_cls.data.catalog import DataConfig
from ssl_cls.data.source import Source, Subset, all_labels
from ssl_cls.errors import UserError

log = logging.getLogger(__name__)

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
    """Train, val and test of a data set: the images whose class, or labels, are known.

    Raises:
        UserError: the data cannot be had, or no image of a split is labelled.
    """
    train, val, test = (catalog.open(config, split, device) for split in ("train", "val", "test"))
    if train.num_classes is None:
        raise UserError(
            "these images have no labels, so there is nothing to judge an encoder by",
            train.name,
            "put the images of each class into a folder of its own",
        )
    name = train.name.rpartition("/")[0]
    return EvalData(name, _labelled(train), _labelled(val), _labelled(test), train.num_classes)


def _labelled(source: Source) -> Source:
    """The part of `source` whose labels are known; itself where they all are."""
    labels = all_labels(source)
    known = labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1)
    if known.all():
        return source
    log.warning("%s: %d of %d images have no label and are left out", source.name, int((~known).sum()), len(labels))
    if not known.any():
        raise UserError("none of these images has a label", source.name, "label some of them")
    return Subset(source, torch.nonzero(known)[:, 0], source.name)


def shown(data: EvalData, channels: int) -> EvalData:
    """`data` as an encoder of so many channels sees it."""
    train, val, test = (seen_with(source, channels) for source in (data.train, data.val, data.test))
    return replace(data, train=train, val=val, test=test)
