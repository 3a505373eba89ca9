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


def run(count: int, every: int = 10, **figures: float) -> list[dict[str, float]]:
    """Logged rows of a run in which all is well, but for `figures`."""
    well = {"loss": 3.0, "chance_loss": 6.2, "embedding_std": 0.7, "effective_rank": 40.0, "lr": 1e-3}
    well |= {"projection_std": 0.9, "projection_rank": 30.0, "teacher_entropy": 0.7, "prototype_entropy": 0.95}
    return [{**well, **figures, "step": every * (number + 1)} for number in range(count)]


def then(rows: list[dict[str, float]], more: list[dict[str, float]]) -> list[dict[str, float]]:
    return rows + [{**row, "step": rows[-1]["step"] + row["step"]} for row in more]


@pytest.mark.parametrize(
    ("figure", "value", "said"),
    [
        ("embedding_std", 0.001, "all images have one embedding"),
        ("projection_std", 0.001, "all images have one projection"),
        ("effective_rank", 1.1, "features vary along one direction"),
        ("projection_rank", 4.0, "projections vary along few directions"),
        ("prototype_entropy", 0.02, "the same few prototypes"),
        ("teacher_entropy", 0.9999, "targets are uniform"),
    ],
)
def test_each_collapse_is_named_with_its_figure(figure: str, value: float, said: str) -> None:  # X22
    rows = then(run(3), run(5, **{figure: value}))
    found = verdict(rows)
    assert found.state == "collapsed"
    assert said in found.reason
    assert f"{figure} {value:.3g} at step {rows[-1]['step']}" in found.reason
    assert found.advice


def test_a_loss_at_chance_long_after_the_peak_of_the_rate_is_not_learning() -> None:
    stuck = run(25, loss=6.19)
    stuck[3]["lr"] = 1e-2
    assert verdict(stuck).state == "not learning"
    assert "6.19 of 6.2 at step 250" in verdict(stuck).reason
    assert verdict(then(run(20), run(5, loss=50.0))).state == "not learning"  # diverged


def test_weights_that_run_away_early_are_a_rate_far_too_high() -> None:
    assert verdict(run(10, weight_growth=1.9)).state == "healthy"
    found = verdict(run(10, weight_growth=2.5))
    assert found.state == "not learning"
    assert "weights grew 2.5-fold by step 100 (weight_growth)" in found.reason


def test_weights_may_grow_over_a_long_run() -> None:
    slow = [{**row, "weight_growth": 1 + row["step"] / 400} for row in run(2000)]
    assert verdict(slow).state == "healthy"


def test_a_loss_at_chance_is_no_complaint_early_nor_while_the_rate_still_rises() -> None:
    assert verdict(run(15, loss=6.2)).state == "healthy"
    rising = [{**row, "lr": 1e-5 * row["step"]} for row in run(60, loss=6.2)]
    assert verdict(rising).state == "healthy"


def test_negative_and_zero_chance_losses_are_understood() -> None:
    """SimSiam's is about 0, of a loss that ends at -1."""
    assert verdict(run(30, loss=-0.001, chance_loss=0.0)).state == "not learning"
    assert verdict(run(30, loss=-0.2, chance_loss=0.0)).state == "healthy"


def test_no_complaint_before_it_has_held_for_fifty_steps_and_five_rows() -> None:
    low = {"effective_rank": 1.1}
    assert verdict(run(4, **low)).state == "healthy"
    assert verdict(run(40, every=1, **low)).state == "healthy"
    assert verdict(run(4, every=100, **low)).state == "healthy"
    assert verdict(then(run(5, **low), run(1))).state == "healthy"
    assert verdict(then(run(9), run(4, **low))).state == "healthy"
    assert verdict(run(5, **low)).state == "collapsed"


def test_a_small_projection_has_a_small_rank_in_health() -> None:
    assert verdict(run(10, projection_rank=4.0)).state == "healthy"


def test_rows_of_observers_and_missing_figures_are_no_trouble() -> None:
    assert verdict([]).state == "healthy"
    assert verdict([{"step": 10, "val_knn_top1": 80.0}]).state == "healthy"
    bare = [{"step": row["step"], "loss": 1.0} for row in run(30)]
    assert verdict(bare) == ("healthy", "loss 1 at step 300", "")


def test_the_verdict_in_words() -> None:
    text = str(verdict(run(8, embedding_std=0.0)))
    assert text.startswith("collapsed: all images have one embedding (embedding_std 0 at step 80); try a tenth")
