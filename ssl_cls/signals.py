"""SIGTERM, SIGINT and SIGUSR1 ask for a save and an orderly end."""

import os
import signal
import time
from types import FrameType

# A launcher passes on what its whole process group has got already, so that one request arrives twice within moments.
_ONE_REQUEST_SECONDS = 5.0
_TELL = b"\nending after this step, with a checkpoint; once more after 5 seconds ends at once, without one\n"


class Signals:
    """Of this process, from its construction on. A second SIGTERM or SIGINT ends it at once.

    SIGUSR1 is what batch systems send ahead of their limit and what the death of a launcher becomes (see `launch`):
    always a first request.

    Attributes:
        received: the number of the first one; 0: none yet.
    """

    def __init__(self, tell: bool) -> None:
        self.received, self._tell, self._since = 0, tell, 0.0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.received:
            self.received, self._since = number, time.monotonic()
            if self._tell:
                os.write(2, _TELL)  # print is not safe here
        elif number != signal.SIGUSR1 and time.monotonic() - self._since > _ONE_REQUEST_SECONDS:
            os._exit(exit_status(number))


def exit_status(number: int) -> int:
    """130 for SIGINT, as shells have it; 143, SIGTERM's, for both others."""
    return 130 if number == signal.SIGINT else 143
