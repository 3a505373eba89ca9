"""How good a classifier's answers are: accuracies in percent, cross-entropy in nats."""

import torch
from torch import Tensor
from torch.nn import functional as F


def accuracy(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """{"top1", "top5"} in percent, for float [N, K] scores, higher is better, and int64 [N] labels.

    Among equal scores the lower class comes first, as in `argmax`: so that top1 is what the predictions say.
    With fewer than six classes top5 is 100.

    Raises:
        ValueError: no samples, or a score that is not a number.
    """
    if len(scores) == 0 or scores.isnan().any():
        raise ValueError(
            f"cannot score {len(scores)} samples with {int(scores.isnan().sum())} scores that are not numbers"
        )
    labels = labels.to(scores.device)
    own = scores.gather(1, labels[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    place = ((scores > own) | ((scores == own) & earlier)).sum(1)
    return {f"top{k}": 100 * float((place < k).double().mean()) for k in (1, 5)}


def classification(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """`accuracy`, and {"cross_entropy"}: the mean of -log softmax(logits)[label]."""
    nats = F.cross_entropy(logits.double(), labels.to(logits.device))
    return {**accuracy(logits, labels), "cross_entropy": float(nats)}
