"""Which n labels an evaluation gets: the same for every encoder and seed, so that rows can be paired."""

from collections.abc import Callable

import torch
from torch import Tensor

from ssl_cls.data.source import Source, all_labels
from ssl_cls.errors import UserError
from ssl_cls.rng import DrawKey, bits

_EPOCH = -2  # keeps label draws apart from training's draws, whose epochs are never negative


def label_draw(labels: Tensor, num_classes: int, n: int, number: int) -> Tensor:
    """Draw `number` of n labelled images: indices int64 [n] into `labels`, int64 [N] (-1: never drawn) or float [N, K].

    A draw is the first n of one fixed order of the data, which deals one image of every class in turn. So it
    is class-balanced to within one image and contains the same draw of a smaller n; a class that runs out is
    passed over. Where images have several labels each, the order is that of their hashes.

    Raises:
        UserError: more labels asked for than there are, or fewer than two a class, since
            settings are chosen by holding some of the n out.
    """
    known = torch.nonzero(labels >= 0 if labels.ndim == 1 else (labels >= 0).all(1))[:, 0]
    if n > len(known):
        raise UserError(
            f"n_labels={n}, but train and val have {len(known)} labelled images",
            "n_labels",
            f"label more images, or give at most {len(known)} in a suite's few_label and fine_tune",
        )
    if n < 2 * num_classes:
        raise UserError(
            f"n_labels={n} is fewer than two for each of {num_classes} classes",
            "n_labels",
            f"give at least {2 * num_classes} in a suite's few_label and fine_tune",
        )
    chance = bits(DrawKey(number, _EPOCH), known, 0, 2)
    by_turn = chance[:, 0].argsort()
    if labels.ndim == 2:
        return known[by_turn[:n]]
    turn = torch.empty_like(known)
    turn[by_turn] = ranks(labels[known[by_turn]])
    # Who is first within a turn is drawn apart: by the same number, large classes would tend to be.
    order = chance[:, 1].argsort()
    return known[order[turn[order].argsort(stable=True)]][:n]


def ranks(labels: Tensor) -> Tensor:
    """The how-manieth of its class each label is, counting from 0: int64 [n] -> int64 [n]."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    place = torch.empty_like(labels)
    place[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return place


def folds(labels: Tensor, num_folds: int = 5) -> Tensor:
    """A fold, 0..num_folds-1, of each drawn label, int64 [n]: every class is spread as evenly as it goes; images of
    several labels each, float [n, K], go in turn.

    Classes start at different folds: with few images a class the folds have like sizes all the same.
    """
    if labels.ndim == 2:
        return torch.arange(len(labels)) % num_folds
    return (ranks(labels) + labels) % num_folds


class Pool:
    """Several sources end to end, as one: train and val together are what labels are drawn from."""

    def __init__(self, name: str, *parts: Source) -> None:
        first = parts[0]
        self.name, self.parts = name, parts
        self.fingerprint = "+".join(part.fingerprint for part in parts)
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
