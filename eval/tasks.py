"""What an image's labels are: one of several classes (two classes are no special case), or any number of K labels.

The labels' shape says which. Evaluators ask here for the loss that heads minimise, the score that settings are chosen
by, and the metrics of a row.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from eval import metrics

SHARE = 0.5  # of the votes, above which a label is an answer


class Task(NamedTuple):
    score: str  # the metric that settings are chosen by on val
    loss: Callable[[Tensor, Tensor], Tensor]  # of logits [N, K] and labels, summed over images
    judge: Callable[[Tensor, Tensor], dict[str, float]]  # metrics of logits
    judge_shares: Callable[[Tensor, Tensor], dict[str, float]]  # metrics of shares of votes, in [0, 1]
    # What is kept of logits, or of scores that count as an answer above a threshold: the class, int64 [N]; of several
    # labels their scores less the threshold, float32 [N, K], so that an answer is what lies above zero
    answers: Callable[[Tensor, float], Tensor]


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="sum")


def _binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")


ONE_CLASS = Task(
    "top1", _cross_entropy, metrics.classification, metrics.answers, lambda scores, _: scores.argmax(1).cpu()
)
MANY_LABELS = Task(
    "mAP",
    _binary_cross_entropy,
    metrics.multilabel,
    lambda shares, labels: metrics.multilabel_answers(shares, labels, SHARE),
    lambda scores, threshold: (scores - threshold).float().cpu(),
)


def task_of(labels: Tensor) -> Task:
    """The task of int64 [N] labels, or of float [N, K] ones."""
    return MANY_LABELS if labels.ndim == 2 else ONE_CLASS
