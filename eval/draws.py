"""Which n labels an evaluation gets: the same for every encoder and seed, so that rows can be paired."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eval.base import EvalData
from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey, bits

_EPOCH = -2  # keeps label draws apart from training's draws, whose epochs are never negative


def num_labels(n: int | float, data: EvalData) -> int:
    """`n` itself, or so large a share of the labelled images of train and val."""
    return n if isinstance(n, int) else round(n * len(_known(pool_labels(data.train, data.val))))


def label_draw(labels: Tensor, num_classes: int, n: int, number: int) -> Tensor:
    """Draw `number` of n labelled images: indices int64 [n] into `labels`, int64 [N] (-1: never drawn) or float [N, K].

    A draw is the first n of one fixed order of the data, which deals one image of every class in turn. So it
    is class-balanced to within one image and contains the same draw of a smaller n; a class that runs out is
    passed over. Where images have several labels each, see `_deal`.

    Raises:
        UserError: more labels asked for than there are, or fewer than one a class.
    """
    known = _known(labels)
    if n > len(known):
        raise UserError(
            f"n_labels={n}, but train and val have {len(known)} labelled images",
            "n_labels",
            f"label more images, or give at most {len(known)} in a suite's few_label and fine_tune",
        )
    if n < num_classes:
        raise UserError(
            f"n_labels={n} is fewer than one for each of {num_classes} classes",
            "n_labels",
            f"give at least {num_classes} in a suite's few_label and fine_tune",
        )
    chance = bits(DrawKey(number, _EPOCH), known, 0, 2)
    by_turn = chance[:, 0].argsort()
    if labels.ndim == 2:
        return known[by_turn[_deal(labels[known[by_turn]] > 0, n)]]
    turn = torch.empty_like(known)
    turn[by_turn] = ranks(labels[known[by_turn]])
    # Who is first within a turn is drawn apart: by the same number, large classes would tend to be.
    order = chance[:, 1].argsort()
    return known[order[turn[order].argsort(stable=True)]][:n]


def _known(labels: Tensor) -> Tensor:
    """Which images are labelled."""
    return torch.nonzero(labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1))[:, 0]


def bears_holding_out(n: int, num_classes: int) -> bool:
    """Whether some of n labels can be held out to choose by: two a class, so that one is left to learn from."""
    return n >= 2 * num_classes


def _deal(has: Tensor, n: int) -> Tensor:
    """The first n, int64 [n], of an order of images with several labels each: bool [N, K], shuffled.

    The label that has been dealt least often so far gets the next image that has it, as in Sechidis et al. 2011
    (algorithm 1), until none is left; having no label counts as one more. What is dealt does not depend on n.
    """
    table = torch.cat((has, ~has.any(1, keepdim=True)), 1).numpy()
    waiting = [np.flatnonzero(column).tolist()[::-1] for column in table.T]
    dealt, taken, order = np.zeros(len(waiting)), np.zeros(len(table), dtype=bool), list[int]()
    while len(order) < n:
        label = int(dealt.argmin())
        while waiting[label] and taken[waiting[label][-1]]:
            waiting[label].pop()
        if not waiting[label]:
            dealt[label] = np.inf
            continue
        image = waiting[label].pop()
        taken[image] = True
        dealt += table[image]
        order.append(image)
    return torch.tensor(order)


def ranks(labels: Tensor) -> Tensor:
    """The how-manieth of its class each label is, counting from 0: int64 [n] -> int64 [n]."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    place = torch.empty_like(labels)
    place[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return place


def folds(labels: Tensor, num_folds: int = 5) -> Tensor:
    """A fold, 0..num_folds-1, of each drawn label, int64 [n]: every class is spread as evenly as it goes. Of an image
    with several labels, float [n, K], the one that fewest have counts as its class.

    Classes start at different folds: with few images a class the folds have like sizes all the same.
    """
    if labels.ndim == 2:
        has = labels > 0
        rarity = torch.where(has, has.sum(0), len(labels) + 1)
        labels = torch.where(has.any(1), rarity.argmin(1), labels.shape[1])
    return (ranks(labels) + labels) % num_folds


class Pool:
    """Several sources end to end, as one: train and val together are what labels are drawn from."""

    def __init__(self, name: str, *parts: Source) -> None:
        first = parts[0]
        self.name, self.parts = name, parts
        self.fingerprint = "+".join(part.fingerprint for part in parts)
        self.members = "+".join(part.members for part in parts)
        self.num_classes, self.class_names, self.channels = (
            first.num_classes,
            first.class_names,
            first.channels,
        )
        self.size, self.mean, self.std = first.size, first.mean, first.std
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def bad(self) -> list[str]:
        return [line for part in self.parts for line in part.bad]

    def _gather(self, indices: Tensor, ask: Callable[[Source, Tensor, Tensor], list[Tensor]]) -> list[Tensor]:
        """`ask(part, indices within it, places in the batch)` of each part, in the batch's order."""
        owner = torch.searchsorted(self._ends, indices.cpu(), right=True)
        positions, answers = [], []
        for number, part in enumerate(self.parts):
            if len(here := torch.nonzero(owner == number)[:, 0]):
                positions.append(here)
                answers.append(ask(part, indices.cpu()[here] - (self._ends[number] - len(part)), here))
        order = torch.cat(positions).argsort()
        return [torch.cat(pieces)[order.to(pieces[0].device)] for pieces in zip(*answers, strict=True)]

    def sizes(self, indices: Tensor) -> Tensor:
        return self._gather(indices, lambda part, own, _: [part.sizes(own)])[0]

    def pixels(self, indices: Tensor) -> Tensor:
        return self._gather(indices, lambda part, own, _: [part.pixels(own)])[0]

    def crops(self, indices: Tensor, boxes: list[Tensor], sizes: list[int], interpolation: str) -> list[Tensor]:
        return self._gather(
            indices, lambda part, own, at: part.crops(own, [box[at] for box in boxes], sizes, interpolation)
        )

    def labels(self, indices: Tensor) -> Tensor:
        return self._gather(indices, lambda part, own, _: [part.labels(own)])[0]


def pool_labels(train: Source, val: Source) -> Tensor:
    """Labels of train, then val: what `label_draw` indexes."""
    return torch.cat((all_labels(train), all_labels(val)))
