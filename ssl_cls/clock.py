"""Where a run stands, and every schedule as a pure function of that."""

import math
from typing import NamedTuple


class Clock(NamedTuple):
    """The optimizer step about to be taken (0-based), out of `total_steps`."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    def at(self, step: int) -> "Clock":
        return self._replace(step=step)


def cosine(clock: Clock, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at step `total_steps`.

    With start=base momentum and end=1 this is BYOL's schedule, 1-(1-base)(1+cos(pi k/K))/2 (Grill et al. 2020, 3.2).
    """
    return end + (start - end) * (1 + math.cos(math.pi * clock.step / clock.total_steps)) / 2


def warmup_cosine(clock: Clock, peak: float, warmup_steps: int, end: float) -> float:
    """Linear from 0 at step 0 to `peak` at `warmup_steps`, then half a cosine to `end` at `total_steps`."""
    if clock.step < warmup_steps:
        return peak * clock.step / warmup_steps
    return cosine(Clock(clock.step - warmup_steps, max(1, clock.total_steps - warmup_steps), 1), peak, end)
