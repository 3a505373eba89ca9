"""What a person who waits is told: how far, how fast, and what to change where training waits for images."""

import pytest

from ssl_cls.progress import Display


@pytest.mark.parametrize(
    ("waits", "said"),
    [
        ([0.9, 0.2, 0.3, 0.2, 0.2], 1),
        ([0.9, 0.2, 0.02, 0.2, 0.2], 0),
        ([0.9, 0.05, 0.6, 0.6, 0.6, 0.6], 1),
        ([0.6, 0.6, 0.6, 0.05, 0.6, 0.6, 0.6], 1),
    ],
)
def test_waiting_for_images_is_shown_and_long_waiting_is_advised_on_once(
    waits: list[float], said: int, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display("x", len(waits), 0, "")
    for step, wait in enumerate(waits, 1):
        display.update(step, "loss 1", wait, "pack them")
    told = capsys.readouterr().err
    assert f"step {len(waits)}/{len(waits)}  loss 1  data wait {waits[-1]:.0%}" in told
    assert told.count("spent waiting for images: pack them") == said
