"""Which n labels a few-label evaluation gets: the same for every encoder and seed, so that rows can be paired."""

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey, bits

_EPOCH = -2  # keeps label draws apart from training's draws, whose epochs are never negative


def label_draw(labels: Tensor, num_classes: int, n: int, number: int) -> Tensor:
    """Draw `number` of n labelled images: indices int64 [n] into `labels` (int64 [N], -1 = unknown, never drawn).

    Each draw is one fixed order of the data set, which deals one image of every class in turn, and its first n: so draws
    are class-balanced to within one image, and a smaller n is contained in a larger one. A class that runs out is passed over.

    Raises:
        UserError: multi-label data, more labels asked for than there are, or fewer than two a class (settings are chosen
            by holding some of the n out).
    """
    if labels.ndim != 1:
        raise UserError("few-label evaluation needs one class an image; this data is multi-label", "data")
    known = torch.nonzero(labels >= 0)[:, 0]
    if n > len(known):
        raise UserError(f"n_labels={n} is more than the {len(known)} labelled images of train and val", "n_labels", f"use at most {len(known)}")
    if n < 2 * num_classes:
        raise UserError(f"n_labels={n} is fewer than two for each of {num_classes} classes", "n_labels", f"use at least {2 * num_classes}")
    chance = bits(DrawKey(number, _EPOCH), known, 0, 2)
    shuffled = known[chance[:, 0].argsort()]
    turn = ranks(labels[shuffled])
    # Within a turn the order of classes is drawn apart: by the first number the larger classes would tend to come first.
    within = bits(DrawKey(number, _EPOCH), shuffled, 0, 2)[:, 1].argsort()
    return shuffled[within[turn[within].argsort(stable=True)]][:n]


def ranks(labels: Tensor) -> Tensor:
    """The how-manieth of its class each label is, counting from 0: int64 [n] -> int64 [n]."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    place = torch.empty_like(labels)
    place[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return place


def folds(labels: Tensor, num_folds: int = 5) -> Tensor:
    """A fold, 0..num_folds-1, for each of n drawn labels, int64 [n]: every class spread over the folds as evenly as it goes.

    Classes start at different folds, so that with few images a class the folds still have like sizes.
    """
    return (ranks(labels) + labels) % num_folds


class Pool:
    """Several sources end to end, as one: train and val together are what labels are drawn from."""

    def __init__(self, name: str, *parts: Source) -> None:
        first = parts[0]
        self.name, self.parts = name, parts
        self.fingerprint = "+".join(part.fingerprint for part in parts)
        self.num_classes, self.class_names, self.channels = first.num_classes, first.class_names, first.channels
        self.size, self.mean, self.std = first.size, first.mean, first.std
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _gather(self, indices: Tensor, ask: Callable[[Source, Tensor, Tensor], list[Tensor]]) -> list[Tensor]:
        """`ask(part, indices within it, positions in the batch)` of each part concerned, put back in the batch's order."""
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
        return self._gather(indices, lambda part, own, at: part.crops(own, [box[at] for box in boxes], sizes, interpolation))

    def labels(self, indices: Tensor) -> Tensor:
        return self._gather(indices, lambda part, own, _: [part.labels(own)])[0]


def pool_labels(train: Source, val: Source) -> Tensor:
    """Labels of train, then val: what `label_draw` indexes."""
    return torch.cat((all_labels(train), all_labels(val)))
