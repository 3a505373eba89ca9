"""Where patches are, in sines and cosines."""

import torch
from torch import Tensor

from ssl_cls.errors import UserError


def sincos_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """[rows * columns, dim]: sines and cosines of the row, then of the column (MAE; Vaswani et al. 2017, 3.5)."""
    if dim % 4:
        raise UserError(
            f"sine-cosine positions need a width that 4 divides, not {dim}",
            "backbone.args.embed_dim or method.decoder_dim",
            f"use {dim + 4 - dim % 4}",
        )
    rates = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in (rows, columns)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()
