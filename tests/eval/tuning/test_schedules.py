import pytest

from eval.tuning.schedules import Schedule, has_stalled, learning_rate
from ssl_cls.clock import Clock

TOTAL, WARMUP, PEAK = 1000, 100, 2.0


def rate(schedule: Schedule, step: int, drops: tuple[int, ...] = ()) -> float:
    return learning_rate(schedule, Clock(step, TOTAL, TOTAL), PEAK, WARMUP, drops)


@pytest.mark.parametrize("schedule", ["cosine", "step", "exponential", "polynomial", "plateau"])
def test_all_warm_up_linearly_to_the_peak(schedule: Schedule) -> None:  # X18
    assert [rate(schedule, step) for step in (0, 25, 50, 100)] == pytest.approx([0, 0.5, 1, 2])


@pytest.mark.parametrize(
    ("schedule", "half", "last"),
    [
        ("cosine", 1.0, 0.0),
        ("step", 0.2, 0.02),
        ("exponential", 0.2, 0.02),
        ("polynomial", 2 * 0.5**0.9, 0.0),
        ("plateau", 2.0, 2.0),
    ],
)
def test_marks(schedule: Schedule, half: float, last: float) -> None:
    assert rate(schedule, 550) == pytest.approx(half)
    assert rate(schedule, TOTAL) == pytest.approx(last, abs=1e-12)


def test_steps_fall_at_a_half_and_three_quarters() -> None:
    assert [rate("step", step) for step in (549, 550, 774, 775)] == pytest.approx([2, 0.2, 0.2, 0.02])


def test_a_plateau_drops_where_it_was_told() -> None:
    assert [rate("plateau", step, (300, 600)) for step in (299, 300, 600)] == pytest.approx([2, 0.2, 0.02])


def test_a_loss_has_stalled_when_patience_looks_brought_nothing() -> None:
    assert not has_stalled([3, 2, 2, 2], 3)
    assert has_stalled([3, 2, 2, 2, 2], 3)
    assert not has_stalled([3, 2, 2, 2, 1.9], 3)
    assert not has_stalled([], 1)
