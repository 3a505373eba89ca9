"""Frozen features with their labels: all that evaluators need who leave the encoder as it is and draw no labels."""

from typing import NamedTuple

import torch
from torch import Tensor

from eval.base import Context, Encoder, EvalData
from eval.features import OWN, Cut, extract
from eval.tasks import Task, task_of
from ssl_cls.data.source import all_labels


class Split(NamedTuple):
    """One split, on the device where evaluators compute."""

    x: Tensor  # features, float32 [N, D]
    y: Tensor  # labels, int64 [N], or float [N, K] where an image may have several


class Frozen(NamedTuple):
    train: Split
    val: Split
    both: Split  # train, then val: what is fitted again when val has chosen
    test: Split
    task: Task


def frozen(encoder: Encoder, data: EvalData, context: Context, cuts: tuple[Cut, ...] = OWN) -> Frozen | None:
    """Every rank must call it: they share the encoding. What is done with it is one job: others than the first get
    None."""
    features = [extract(encoder, source, context, cuts) for source in (data.train, data.val, data.test)]
    if context.rank:
        return None
    train, val, test = (
        Split(x.to(context.device), all_labels(source).to(context.device))
        for x, source in zip(features, (data.train, data.val, data.test), strict=True)
    )
    both = Split(torch.cat((train.x, val.x)), torch.cat((train.y, val.y)))
    return Frozen(train, val, both, test, task_of(train.y))
