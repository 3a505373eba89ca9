"""Collapse is seen (X22), and healthy embeddings are not called collapsed."""

import pytest
import torch

from ssl_cls.health import embedding_figures, verdict


def test_a_constant_embedding_has_no_spread_and_rank_one() -> None:
    figures = embedding_figures(torch.ones(64, 32))
    assert figures["embedding_std"] == pytest.approx(0, abs=1e-6)
    assert figures["effective_rank"] == pytest.approx(1, abs=0.05)


def test_isotropic_noise_has_unit_spread_and_full_rank() -> None:
    figures = embedding_figures(torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0)))
    assert figures["embedding_std"] == pytest.approx(1, abs=0.02)
    assert figures["effective_rank"] == pytest.approx(16, abs=0.05)


@pytest.mark.parametrize("shape", [(40, 100), (100, 40)])
def test_effective_rank_is_the_entropy_of_the_singular_values(shape: tuple[int, int]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    singular = torch.linalg.svdvals(x - x.mean(0))
    share = singular / singular.sum()
    expected = torch.exp(-(share * share.clamp(min=1e-12).log()).sum())
    assert embedding_figures(x)["effective_rank"] == pytest.approx(float(expected), rel=1e-2)


def test_dimensional_collapse_shows_in_the_rank_though_the_spread_looks_fine() -> None:
    generator = torch.Generator().manual_seed(0)
    line = torch.randn(256, 1, generator=generator) * torch.randn(1, 64, generator=generator)
    figures = embedding_figures(line)
    assert figures["embedding_std"] > 0.5
    assert figures["effective_rank"] < 1.2


def test_the_verdict_needs_several_logged_steps_in_a_row() -> None:
    low, high = {"effective_rank": 1.1}, {"effective_rank": 20.0}
    assert verdict([low] * 4) is None
    assert verdict([low] * 5 + [high]) is None
    assert "1.10" in str(verdict([high] + [low] * 5))
