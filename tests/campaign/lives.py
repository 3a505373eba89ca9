"""Processes that run tools/pretrain.py: forks of this one, which has only imported, or the real command."""

import contextlib
import importlib
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from campaign import ROOT

PRETRAIN = ROOT / "tools" / "pretrain.py"


class Life:
    """A process whose end is waited for, and what it said."""

    def __init__(self, pid: int, screen: Path) -> None:
        self.pid, self.screen = pid, screen
        self.status: int | None = None  # exit status, negative: the signal that ended it

    def ended(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, seconds: float = 300.0) -> int | None:
        """Its status; None if it is still there after that time."""
        deadline = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < deadline:
            time.sleep(0.005)
        return self.status

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def said(self) -> str:
        return self.screen.read_text(errors="replace")


def preload() -> None:
    """Import what a run imports, so that a fork begins with it; start no thread and train nothing."""
    import torch

    for name in ("sklearn.datasets", "eval.monitor", "ssl_cls.trainer"):
        importlib.import_module(name)
    torch.set_num_threads(1)


def forked(folder: Path, arguments: Iterable[str], prepare: Callable[[], object] = lambda: None) -> Life:
    """tools/pretrain.py with `arguments` in `folder`, in a fork of this process; `prepare` runs there first."""
    screen = folder / "screen.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Life(pid, screen)
    status = 1
    try:
        descriptor = os.open(screen, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.chdir(folder)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        sys.argv = [str(PRETRAIN), *arguments]
        prepare()
        runpy.run_path(str(PRETRAIN), run_name="__main__")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def command(folder: Path, arguments: Iterable[str], launcher: Iterable[str] = ()) -> Life:
    """The real command, in a process group of its own, under `accelerate launch` with the flags of `launcher`."""
    flags = list(launcher)
    started = ["-m", "accelerate.commands.launch", *flags, str(PRETRAIN)] if flags else [str(PRETRAIN)]
    screen = folder / "screen.txt"
    with screen.open("a") as out:
        process = subprocess.Popen(
            [sys.executable, *started, *arguments],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
    process.returncode = 0  # Life waits for it
    return Life(process.pid, screen)


def members(folder: Path) -> list[int]:
    """Processes that work in `folder`, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str((entry / "cwd").readlink()) == str(folder.resolve()):
                    found.append(int(entry.name))
    return sorted(found)


def until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def logged(run: Path) -> int:
    """Bytes of metrics.jsonl: how far a run is."""
    path = run / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0
