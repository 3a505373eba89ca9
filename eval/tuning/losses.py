"""Losses of a classifier, for targets that are classes, several labels or, mixed or smoothed, distributions."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ssl_cls.errors import UserError

Loss = Literal["ce", "bce", "mse", "hinge", "focal"]

PROBABILITIES: dict[Loss, Literal["softmax", "sigmoid"]] = {"ce": "softmax", "focal": "softmax", "bce": "sigmoid"}
"""What makes probabilities of logits trained so; of the others' there are none: their logits are scores."""

_GAMMA = 2.0  # Lin et al. 2017, 5.1


def loss_for(asked: Loss | None, labels: Tensor) -> Loss:
    """The loss of a training on int64 [N] labels, or float [N, K] ones, of which an image may have several.

    Raises:
        UserError: several labels an image, and a loss that makes them compete.
    """
    if labels.ndim == 1:
        return asked or "ce"
    if asked not in (None, "bce", "mse"):
        what = f"the loss {asked} is for one class an image, and these have several labels each"
        raise UserError(what, "finetune.loss", "leave it out, or give bce or mse")
    return asked or "bce"


def loss(name: Loss, logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the batch. logits [B, K]; target int64 [B], or [B, K], each row a distribution over classes.

    ce     cross-entropy
    bce    K binary cross-entropies, their mean (Beyer et al. 2020; Wightman et al. 2021); rows need not sum to 1
    mse    squared distance to the target, mean over classes (Hui & Belkin 2021)
    hinge  max(0, 1 - z_y + max_{j != y} z_j) (Crammer & Singer 2001), of a distribution the expectation
    focal  -(1 - p_y)^2 log p_y (Lin et al. 2017), of a distribution the expectation

    `smoothing` takes e of a class's one and gives every class e/K (Szegedy et al. 2016, section 7; textbooks give
    e/(K-1) to each other class, which is this with e K/(K-1) in place of e).
    """
    if name == "ce":
        return F.cross_entropy(logits, target, label_smoothing=smoothing)
    y = smoothed(target, logits.shape[1], smoothing).to(logits.dtype)
    match name:
        case "bce":
            return F.binary_cross_entropy_with_logits(logits, y)
        case "mse":
            return F.mse_loss(logits, y)
        case "hinge":
            first, second = logits.topk(2, 1).values.unbind(1)
            rival = torch.where(logits == first[:, None], second[:, None], first[:, None])
            return (y * (1 - logits + rival).clamp(min=0)).sum(1).mean()
        case "focal":
            logp = logits.log_softmax(1)
            return -(y * (1 - logp.exp()) ** _GAMMA * logp).sum(1).mean()


def smoothed(target: Tensor, num_classes: int, smoothing: float) -> Tensor:
    """int64 [B], or distributions [B, K], -> float [B, K]: 1 - e of it and e spread over all classes."""
    y = F.one_hot(target, num_classes).float() if target.ndim == 1 else target
    return y * (1 - smoothing) + smoothing / num_classes
