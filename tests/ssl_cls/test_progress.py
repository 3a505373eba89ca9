"""What a person who waits is told: how far, how fast, and what to change where training waits for images."""

import sys
import time

import pytest

from ssl_cls.progress import Display, display


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


def test_off_a_terminal_lines_say_how_long_it_takes_and_what_comes_next(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 60.0])  # two readings at the start
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    Display("x", 50, 10, "evaluation").update(20, "loss 1", 0.0, "")  # 10 steps a minute, 30 to go
    assert capsys.readouterr().err == "x: step 20/50  loss 1  data wait 0%  eta 3.0 min, then evaluation\n"


def test_on_a_terminal_the_bar_says_so_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with display("x", 50, 10, "evaluation") as shown:
        assert shown is not None
        shown.update(20, "loss 1", 0.25, "")
    told = capsys.readouterr().err
    for said in ("20/50", "loss 1", "data wait 25%", "eta", "then evaluation"):
        assert said in told, said
