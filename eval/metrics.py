"""How good a classifier's answers are: everything in percent but cross-entropies, in nats, and what counts images.

Scores are float [N, K], higher is better; labels int64 [N], or, where an image has several, float [N, K] of 0 and 1.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Average = Literal["macro", "micro", "weighted"]


class PrecisionRecallF1(NamedTuple):
    precision: float
    recall: float
    f1: float


class Counts(NamedTuple):
    """Of each class, int64 [K]: how often it was answered rightly, answered, and true."""

    right: Tensor
    answered: Tensor
    true: Tensor


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """{"top1", "top5"} for int64 [N] labels.

    Among equal scores the lower class comes first, as in `argmax`: so that top1 is what the predictions say.
    With fewer than six classes top5 is 100.

    Raises:
        ValueError: no samples, or a score that is not a number.
    """
    _check(scores)
    labels = labels.to(scores.device)
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    place = ((scores > own) | ((scores == own) & earlier)).sum(1)
    return {f"top{k}": 100 * float((place < k).double().mean()) for k in (1, 5)}


def answers(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """`accuracy`, and {"mean_per_class", "macro_f1"}: what needs no more than an order of the classes."""
    table = confusion(scores.argmax(1), labels, scores.shape[1])
    counts = counts_of(table)
    return {
        **accuracy(scores, labels),
        "mean_per_class": mean_per_class(table),
        "macro_f1": precision_recall_f1(counts, "macro").f1,
    }


def classification(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """`answers`, {"cross_entropy"}, the mean of -log softmax(logits)[label], and {"ece"}."""
    logits, labels = logits.double(), labels.to(logits.device)
    nats = F.cross_entropy(logits, labels)
    return {**answers(logits, labels), "cross_entropy": float(nats), "ece": calibration_error(logits, labels)}


def multilabel_answers(scores: Tensor, labels: Tensor, threshold: float) -> dict[str, float]:
    """{"top1", "mAP", "macro_f1", "micro_f1", "precision3", "precision5"} for float [N, K] labels; an answer is a
    score above `threshold`.

    top1 is precision at 1: how often the highest score is of one of the image's labels. With one label an image it
    is top-1 accuracy. Precision at 3 and 5 are there where there are as many labels.
    """
    _check(scores)
    counts = multilabel_counts(scores > threshold, labels)
    return {
        "top1": precision_at(scores, labels, 1),
        "mAP": mean_average_precision(scores, labels),
        "macro_f1": precision_recall_f1(counts, "macro").f1,
        "micro_f1": precision_recall_f1(counts, "micro").f1,
        **{f"precision{k}": precision_at(scores, labels, k) for k in (3, 5) if k <= scores.shape[1]},
    }


def multilabel(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """`multilabel_answers` at a probability of 1/2, and {"cross_entropy"}: the mean of the binary ones."""
    logits, labels = logits.double(), labels.to(logits.device).double()
    nats = F.binary_cross_entropy_with_logits(logits, labels)
    return {**multilabel_answers(logits, labels, 0.0), "cross_entropy": float(nats)}


def confusion(predictions: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """int64 [K, K]: images of each true class (row) by the class they were given (column)."""
    places = labels.to(predictions.device) * num_classes + predictions
    return torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)


def counts_of(table: Tensor) -> Counts:
    """The counts in a confusion matrix."""
    return Counts(table.diagonal(), table.sum(0), table.sum(1))


def multilabel_counts(predictions: Tensor, labels: Tensor) -> Counts:
    """The counts of [N, K] answers against [N, K] labels."""
    predictions, truth = predictions.bool(), labels.to(predictions.device) > 0
    return Counts((predictions & truth).sum(0), predictions.sum(0), truth.sum(0))


def precision_recall_f1(counts: Counts, average: Average) -> PrecisionRecallF1:
    """Averaged over the classes that occur in labels or answers: alike ("macro"), by how often each is true
    ("weighted"), or over all answers alike ("micro"). 0 / 0 counts as 0, as in scikit-learn."""
    right, answered, true = (x.double() for x in counts)
    if average == "micro":
        right, answered, true = (x.sum(0, keepdim=True) for x in (right, answered, true))
    weight = true if average == "weighted" else ((answered + true) > 0).double()
    each = (_ratio(right, answered), _ratio(right, true), _ratio(2 * right, answered + true))
    return PrecisionRecallF1(*(100 * float(_ratio((x * weight).sum(), weight.sum())) for x in each))


def by_class(predictions: Tensor, labels: Tensor, class_names: list[str] | None) -> dict[str, Any]:
    """All that follows from one answer an image: averages of precision, recall and F1, each class's own, and the
    confusion matrix (rows are true classes)."""
    names = class_names or [str(number) for number in range(1 + int(torch.cat((predictions, labels)).max()))]
    table = confusion(predictions, labels, len(names))
    return {
        **_each_class(counts_of(table), names),
        "mean_per_class": mean_per_class(table),
        "confusion": table.tolist(),
    }


def by_label(scores: Tensor, labels: Tensor, class_names: list[str] | None) -> dict[str, Any]:
    """`by_class` of several labels an image: an answer is a score above zero, float [N, K]. There is no confusion
    matrix; each label has its average precision, None where no image has it."""
    names = class_names or [str(number) for number in range(labels.shape[1])]
    found = _each_class(multilabel_counts(scores > 0, labels), names)
    for own, precision in zip(found["classes"], average_precision(scores, labels).tolist(), strict=True):
        own["average_precision"] = None if math.isnan(precision) else 100 * precision
    return found


def _each_class(counts: Counts, names: list[str]) -> dict[str, Any]:
    averages: tuple[Average, ...] = ("macro", "micro", "weighted")
    one = [Counts(*(count[k : k + 1] for count in counts)) for k in range(len(names))]
    return {
        "averages": {average: precision_recall_f1(counts, average)._asdict() for average in averages},
        "classes": [
            {"class": name, "images": int(own.true), **precision_recall_f1(own, "micro")._asdict()}
            for name, own in zip(names, one, strict=True)
        ],
    }


def mean_per_class(table: Tensor) -> float:
    """The mean over the classes there are of the share that was recognised, for a confusion matrix."""
    true = table.sum(1)
    return 100 * float((table.diagonal()[true > 0].double() / true[true > 0]).mean())


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, 2): |accuracy - confidence| over equally wide bins of the
    confidence, weighted by their images."""
    confidence, predicted = logits.double().softmax(1).max(1)
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1  # (a, b]
    surplus = (predicted == labels.to(predicted.device)).double() - confidence
    gaps = confidence.new_zeros(bins).scatter_add_(0, bin_of, surplus)
    return 100 * float(gaps.abs().sum()) / len(labels)


def average_precision(scores: Tensor, labels: Tensor) -> Tensor:
    """Of each of K labels, the mean over its positives of the precision at their score: float64 [K].

    Images of equal scores come in together: their order does not matter, as in scikit-learn's average_precision_score.
    NaN for a label that no image has.
    """
    found = []
    for score, label in zip(scores.double().unbind(1), labels.to(scores.device).unbind(1), strict=True):
        falling, order = score.sort(descending=True)
        positive = label[order] > 0
        last = torch.searchsorted(-falling, -falling, right=True) - 1  # of those with the same score
        precision = positive.cumsum(0)[last].double() / (last + 1)
        found.append((precision * positive).sum() / positive.sum())
    return torch.stack(found)


def mean_average_precision(scores: Tensor, labels: Tensor) -> float:
    """mAP over the labels that any image has.

    Raises:
        ValueError: there is none.
    """
    each = average_precision(scores, labels)
    if each.isnan().all():
        raise ValueError("no image has any label, so there is nothing to be precise about")
    return 100 * float(each[~each.isnan()].mean())


def precision_at(scores: Tensor, labels: Tensor, k: int) -> float:
    """The share of an image's k highest-scored labels that it has, mean over images; of equal scores the lower
    label comes first."""
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return 100 * float((labels.to(scores.device).gather(1, best) > 0).double().mean())


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp(min=1e-300), 0.0)


def _check(scores: Tensor) -> None:
    if len(scores) == 0 or scores.isnan().any():
        raise ValueError(
            f"cannot score {len(scores)} samples with {int(scores.isnan().sum())} scores that are not numbers"
        )
