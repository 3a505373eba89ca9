"""How well targets can be predicted without looking: the chance of methods that predict one view from the other."""

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def mismatched_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """The mean cosine with the targets of the other images of the batch: what knowing nothing of an image comes to.

    prediction, target: [N, D], of any length. 0 where N is 1.
    """
    p, z, n = F.normalize(prediction, dim=1), F.normalize(target, dim=1), len(target)
    return (p.sum(0) @ z.sum(0) - (p * z).sum()) / (n * max(n - 1, 1))
