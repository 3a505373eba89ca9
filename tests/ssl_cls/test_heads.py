"""Projectors and predictors: what stands between encoder and loss in each paper."""

import pytest
import torch
from torch import nn

from ssl_cls.methods.heads import mlp


def kinds(head: nn.Sequential) -> str:
    """One letter a layer: L a linear one with bias, l without; B batch norm, b without scale and shift; r ReLU."""
    letters = {nn.Linear: "lL", nn.BatchNorm1d: "bB", nn.ReLU: "rr"}
    return "".join(letters[type(layer)][getattr(layer, "bias", None) is not None] for layer in head)


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"output_norm": "batch"}, "lBrlBrlB"),  # 2.1: SimCLR, batch norm on the output with scale
        ({"hidden_norm": False, "output_bias": True}, "LrLrL"),  # 2.2: MoCo v2, no batch norm
        ({"output_norm": "standardise"}, "lBrlBrlb"),  # 2.3, 2.5: MoCo v3, SimSiam's projector
        ({}, "lBrlBrl"),  # 2.4: BYOL
        ({"output_bias": True}, "lBrlBrL"),  # 2.5: SimSiam's predictor
    ],
)
def test_layers_are_those_of_the_papers(settings: dict[str, object], layers: str) -> None:
    head = mlp(6, (5, 4, 3), **settings)  # type: ignore[arg-type]
    assert kinds(head) == layers
    assert [m.out_features for m in head if isinstance(m, nn.Linear)] == [5, 4, 3]
    assert head(torch.randn(8, 6)).shape == (8, 3)


def test_one_width_is_one_linear_layer() -> None:
    assert kinds(mlp(6, (3,))) == "l"


def test_a_standardised_output_has_mean_0_and_variance_1_over_the_batch() -> None:
    out = mlp(6, (5, 4), output_norm="standardise")(torch.randn(64, 6))
    torch.testing.assert_close(out.mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.var(0, unbiased=False), torch.ones(4), atol=1e-3, rtol=0)


def test_no_batch_norm_is_used_twice() -> None:  # X13
    norms = [m for m in mlp(4, (4, 4, 4, 4), output_norm="batch") if isinstance(m, nn.BatchNorm1d)]
    assert len({id(m) for m in norms}) == len(norms) == 4
