"""The multi-layer perceptrons that methods put on the encoder: projectors and predictors."""

from typing import Literal

from torch import nn


def mlp(
    in_dim: int,
    widths: tuple[int, ...],
    *,
    hidden_norm: bool = True,
    output_norm: Literal["none", "batch", "standardise"] = "none",
    output_bias: bool = False,
) -> nn.Sequential:
    """[N, in_dim] -> [N, widths[-1]]: linear layers with (batch norm and) ReLU between them.

    A layer that batch norm follows has no bias, since the norm would subtract it again.

    Args:
        hidden_norm: batch norm before each ReLU; without it the hidden layers have biases.
        output_norm: batch norm on the output; "standardise" is batch norm without scale and shift (affine=False).
        output_bias: whether the last layer has a bias.
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers.append(nn.Linear(in_dim, width, bias=not hidden_norm))
        if hidden_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        in_dim = width
    layers.append(nn.Linear(in_dim, widths[-1], bias=output_bias))
    if output_norm != "none":
        layers.append(nn.BatchNorm1d(widths[-1], affine=output_norm == "batch"))
    return nn.Sequential(*layers)
