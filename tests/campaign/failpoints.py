"""Named points of a run at which a process ends itself by SIGKILL; nothing in the program knows of them."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from accelerate import Accelerator

from ssl_cls import checkpoint, optim
from ssl_cls.methods.base import Method
from ssl_cls.run import Run

POINTS: dict[str, tuple[Any, str]] = {
    "forward": (Method, "forward"),
    "backward": (Accelerator, "backward"),
    "optimizer": (optim, "update"),
    "write of weights": (checkpoint, "save_file"),
    "write of state and manifest": (Path, "write_text"),
    "write of a metrics line": (Run, "append"),
    "fsync": (os, "fsync"),
    "rename": (Path, "rename"),
    "prune": (shutil, "rmtree"),
}


class Failpoint(NamedTuple):
    point: str
    call: int  # the how-manieth call of it, from 1
    when: str  # before | within | after


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def install(failpoint: Failpoint) -> None:
    """Wrap the point in this process."""
    owner, name = POINTS[failpoint.point]
    original, calls = getattr(owner, name), [0]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] != failpoint.call:
            return original(*args, **kwargs)
        if failpoint.when == "before":
            die()
        result = original(*args, **kwargs)
        if failpoint.when == "within":
            _halve(failpoint.point, args)
        die()
        return result

    setattr(owner, name, wrapped)


def _halve(point: str, args: tuple[Any, ...]) -> None:
    """Leave of the file that was just written what a death in the middle of it would have left."""
    match point:
        case "write of weights":
            path = Path(args[1])
        case "write of state and manifest":
            path = args[0]
        case "write of a metrics line":
            path = args[0].folder / args[1]
            os.truncate(path, path.stat().st_size - 20)
            return
        case _:
            return
    os.truncate(path, path.stat().st_size // 2)


def count(calls: dict[str, int]) -> None:
    """Count the calls of every point of this process into `calls`."""
    for point, (owner, name) in POINTS.items():
        calls[point] = 0
        setattr(owner, name, _counted(getattr(owner, name), point, calls))


def _counted(original: Callable[..., Any], point: str, calls: dict[str, int]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[point] += 1
        return original(*args, **kwargs)

    return wrapped
