"""What a fine-tuning has to work with: an encoder, a draw of labels, and which of them are held out to choose by."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from eval.base import Context, Encoder, EvalData
from eval.channels import seen_with
from eval.draws import Pool, folds, label_draw, pool_labels
from ssl_cls.data.source import Source, Subset, all_labels
from ssl_cls.rng import DrawKey, bits


class Part(NamedTuple):
    """Labels to train on, and labels held out of that to choose by."""

    kept: Source
    held: Source


class Case(NamedTuple):
    """One encoder on one draw of labels."""

    encoder: Encoder
    data: EvalData
    device: torch.device
    draw: int
    seed: int
    labelled: Source  # all images of the draw
    parts: list[Part]  # of them
    chosen_on: str

    @property
    def num_held(self) -> int:
        return sum(len(part.held) for part in self.parts)


def cases(
    encoder: Encoder,
    data: EvalData,
    context: Context,
    n_labels: int | Literal["all"],
    draws: tuple[int, ...],
    num_parts: int,
) -> list[Case]:
    """A case a draw. So many of five folds are held out in turn; of all labels it is `val`, once.

    Raises:
        UserError: the data has too few labels, or n_labels is too few for the classes.
    """
    pool = seen_with(Pool(f"{data.name}/pool", data.train, data.val), encoder.channels)
    if n_labels == "all":
        drawn: list[Source] = [pool]
    else:
        labels = pool_labels(data.train, data.val)
        members = [label_draw(labels, data.num_classes, n_labels, draw) for draw in draws]
        drawn = [Subset(pool, own, f"{data.name}/drawn") for own in members]
    found = []
    for draw, labelled in zip(draws, drawn, strict=True):
        seed = int(bits(DrawKey(context.seed, draw), torch.zeros(1, dtype=torch.int64), 0, 1))
        if n_labels == "all":
            parts, chosen_on = [Part(data.train, data.val)], "val"
        else:
            fold, chosen_on = folds(all_labels(labelled)), "holdout"
            parts = [Part(_members(labelled, fold != k), _members(labelled, fold == k)) for k in range(num_parts)]
        found.append(Case(encoder, data, context.device, draw, seed, labelled, parts, chosen_on))
    return found


def _members(source: Source, chosen: Tensor) -> Source:
    return Subset(source, torch.nonzero(chosen)[:, 0], source.name)
