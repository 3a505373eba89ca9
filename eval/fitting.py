"""What a suite leaves to the images: the size of the views, the budget, and how many labels are few."""

from collections.abc import Sequence

import torch

from eval.base import EvalData
from ssl_cls import plan
from ssl_cls.config import Recipe
from ssl_cls.data.source import Source, all_labels
from ssl_cls.methods.supervised import SupervisedConfig
from ssl_cls.spec import Count, spec

_MOST_EPOCHS = 200  # of small data: more passes over the same few images teach little
_LEAST_STEPS = 8  # an epoch: a batch that is most of the data leaves no steps to learn in


@spec
class Fit:
    """What images of a certain size get."""

    side: Count  # of the views, pixels
    images: Count  # that an encoder sees in pretraining: each image as many times as that takes, 1 to 200
    up_to: Count | None = None  # the shorter side of the median image it is for; None: any


def changes(fits: Sequence[Fit], recipe: Recipe, source: Source) -> list[str]:
    """The overrides that fit `recipe` to the images of `source`, by the first of `fits` that is for them; [] if none.

    A function of the images alone, so that the same command is the same run on every machine.
    """
    shorter = source.sizes(torch.arange(len(source))).amin(1).median()
    fit = next((one for one in fits if one.up_to is None or shorter <= one.up_to), None)
    if fit is None:
        return []
    n = len(plan.training_images(recipe, source))
    most = 2 ** max(1, (n // _LEAST_STEPS).bit_length() - 1)
    epochs = min(_MOST_EPOCHS, max(1.0, fit.images / n))
    size = [f"data.size={fit.side}"] if source.size is None else []
    return [*size, f"train.batch_size={min(recipe.train.batch_size, most, n)}", f"train.epochs={epochs:.4g}"]


def teaches(recipe: Recipe, source: Source) -> bool:
    """Whether `source` has what the method learns from: labels, one an image, where it is supervised."""
    if not isinstance(recipe.method, SupervisedConfig):
        return True
    return source.num_classes is not None and all_labels(source).ndim == 1


def label_counts(per_class: Sequence[int], data: EvalData) -> tuple[int, ...]:
    """How many labels evaluations on few get: so many a class, where train and val have them, else all there are."""
    known, least = len(data.train) + len(data.val), 2 * data.num_classes
    counts = tuple(sorted(n for each in per_class if least <= (n := each * data.num_classes) <= known))
    return counts or ((known,) if known >= least else ())
