"""A progress bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_QUIET_SECONDS = 20.0  # between lines where there is no terminal
_WAIT = 0.1  # of the time: waiting longer for images is worth a change
_PATIENCE = 3  # updates in a row: of one, the start of the decoding processes or another hitch may be the cause


class Display:
    """Tells how far a run is: `update` after each logged step."""

    def __init__(self, name: str, total: int, done: int, then: str) -> None:
        self.name, self.total, self.then = name, total, then
        self._bar: Progress | None = None
        self._waiting, self._advised = 0, False  # updates in a row that waited long; whether advice was given
        self._said, self._started, self._done = time.monotonic() - _QUIET_SECONDS, time.monotonic(), done
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), TextColumn("[dim]{task.fields[then]}"),
                console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task(
                name, total=total, completed=done, figures="", then=f"then {then}" if then else ""
            )

    def update(self, done: int, figures: str, data_wait: float, advice: str) -> None:
        """data_wait: share of the time since the last update that was spent waiting for images.

        Where it is above 10 % in several updates in a row, `advice` is printed, once.
        """
        figures += f"  data wait {data_wait:.0%}"
        self._waiting = self._waiting + 1 if data_wait > _WAIT else 0
        if self._waiting == _PATIENCE and not self._advised:
            self._advised = True
            self._say(f"{self.name}: a tenth of the time and more is spent waiting for images: {advice}")
        if self._bar is not None:
            self._bar.update(self._task, completed=done, figures=figures)
            return
        now = time.monotonic()
        if now - self._said >= _QUIET_SECONDS or done == self.total:
            eta = (now - self._started) / max(1, done - self._done) * (self.total - done)
            then = f", then {self.then}" if self.then else ""
            self._say(f"{self.name}: step {done}/{self.total}  {figures}  eta {eta / 60:.1f} min{then}")
            self._said = now

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.console.print(text, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)


@contextmanager
def display(name: str, total: int, done: int, then: str = "", enabled: bool = True) -> Iterator[Display | None]:
    """`then`: what comes after this, for the person who waits. Disabled on all ranks but the main one."""
    if not enabled:
        yield None
        return
    shown = Display(name, total, done, then)
    if shown._bar is None:
        yield shown
    else:
        with shown._bar:
            yield shown
