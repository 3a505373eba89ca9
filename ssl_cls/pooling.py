"""Pooling of feature maps, with a gradient that is deterministic on every device."""

import re
from functools import lru_cache

import torch
from torch import Tensor

TIMM_S = "timm"  # what timm's own head does before its classifier, norms and all
GRID = re.compile(r"avg([1-9])x\1")


def means(x: Tensor, side: int) -> Tensor:
    """[B, C, h, w] -> [B, C, side, side]: adaptive average pooling, as a product with an averaging matrix.

    torch's own has no deterministic gradient on CUDA, and on a CPU one that takes four to ten times as long, a seventh
    of a small network's step.
    """
    if side == 1:
        return x.mean((2, 3), keepdim=True)
    b, c, h, w = x.shape
    cells = _cells(h, w, side, x.dtype, x.device) @ x.permute(0, 2, 3, 1).reshape(b, h * w, c)
    return cells.transpose(1, 2).reshape(b, c, side, side)


@lru_cache(maxsize=64)
def _cells(height: int, width: int, side: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[side * side, height * width]: a row averages the places of one cell."""
    with torch.inference_mode(False):  # made while judging, it may be needed in training
        return torch.kron(averaging(height, side), averaging(width, side)).to(device, dtype)


def averaging(length: int, side: int) -> Tensor:
    """[side, length]: row i is the mean of places floor(i length / side) to ceil((i + 1) length / side)."""
    matrix = torch.zeros(side, length)
    for i in range(side):
        start, end = i * length // side, -(-(i + 1) * length // side)
        matrix[i, start:end] = 1 / (end - start)
    return matrix
