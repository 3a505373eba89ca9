"""Pooling of feature maps, with a gradient that is deterministic on every device."""

import re

import torch
from torch import Tensor
from torch.nn import functional as F

TIMM_S = "timm"  # what timm's own head does before its classifier, norms and all
GRID = re.compile(r"avg([1-9])x\1")


def means(x: Tensor, side: int) -> Tensor:
    """[B, C, h, w] -> [B, C, side, side]: adaptive average pooling.

    torch's has no deterministic gradient on CUDA: there, where that is asked for, two products with averaging matrices.
    """
    if not (x.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return F.adaptive_avg_pool2d(x, side)
    rows, columns = (averaging(length, side).to(x) for length in x.shape[2:])
    return rows @ x @ columns.mT


def averaging(length: int, side: int) -> Tensor:
    """[side, length]: row i is the mean of places floor(i length / side) to ceil((i + 1) length / side)."""
    matrix = torch.zeros(side, length)
    for i in range(side):
        start, end = i * length // side, -(-(i + 1) * length // side)
        matrix[i, start:end] = 1 / (end - start)
    return matrix
