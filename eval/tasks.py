"""What an image's labels are: one of several classes (two classes are no special case), or any number of K labels.

The labels' shape says which. Evaluators ask here for the loss that heads minimise, the score that settings are chosen
by, and the metrics of a row.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from eval import metrics


class Task(NamedTuple):
    score: str  # the metric that settings are chosen by on val
    loss: Callable[[Tensor, Tensor], Tensor]  # of logits [N, K] and labels, summed over images
    judge: Callable[[Tensor, Tensor], dict[str, float]]  # metrics of logits
    judge_shares: Callable[[Tensor, Tensor], dict[str, float]]  # metrics of shares of votes, in [0, 1]


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


ONE_CLASS = Task("top1", _cross_entropy, metrics.classification, metrics.answers)
MANY_LABELS = Task(
    "mAP",
    _binary_cross_entropy,
    metrics.multilabel,
    lambda shares, labels: metrics.multilabel_answers(shares, labels, 0.5),
)


def task_of(labels: Tensor) -> Task:
    """The task of int64 [N] labels, or of float [N, K] ones."""
    return MANY_LABELS if labels.ndim == 2 else ONE_CLASS
