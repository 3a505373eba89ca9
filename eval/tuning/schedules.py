"""Learning rates of supervised training: each a pure function of the clock and of what has been seen by then."""

import math
from collections.abc import Sequence
from typing import Literal

from ssl_cls.clock import Clock, warmup_cosine

Schedule = Literal["cosine", "step", "exponential", "polynomial", "plateau"]

_FACTOR = 0.1  # of a drop, and what is left after three of them is too little to learn with
_MARKS = (0.5, 0.75)  # He et al. 2016, 4.2: at 32k and 48k of 64k steps
_LEFT = 0.01  # of the rate, at the end of the exponential
_POWER = 0.9  # Chen et al. 2017 (DeepLab), 4.1


def learning_rate(schedule: Schedule, clock: Clock, peak: float, warmup_steps: int, drops: Sequence[int] = ()) -> float:
    """The rate of the step that `clock` names: linear from 0 to `peak` in `warmup_steps`, then the schedule.

    With t from 0 (end of the warm-up) to 1 (`total_steps`):

    cosine       peak (1 + cos(pi t)) / 2
    step         a tenth from t = 1/2 on, a hundredth from 3/4 on
    exponential  peak .01^t
    polynomial   peak (1 - t)^.9
    plateau      a tenth more of it from each of the steps `drops` on; see `has_stalled`
    """
    if schedule == "cosine" or clock.step < warmup_steps:
        return warmup_cosine(clock, peak, warmup_steps, 0.0)
    t = (clock.step - warmup_steps) / max(1, clock.total_steps - warmup_steps)
    match schedule:
        case "step":
            share = math.prod(_FACTOR for mark in _MARKS if t >= mark)
        case "exponential":
            share = math.pow(_LEFT, t)
        case "polynomial":
            share = math.pow(1 - t, _POWER)
        case "plateau":
            share = math.prod(_FACTOR for drop in drops if clock.step >= drop)
    return peak * share


def has_stalled(losses: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` of the held-out losses so far brought nothing below the best before them."""
    return len(losses) > patience and min(losses[-patience:]) >= min(losses[:-patience])
