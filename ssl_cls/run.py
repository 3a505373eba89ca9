"""A run directory: whose it is, what it has logged, and where it can go on from. Only the main process writes to it."""

import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import accelerate
import timm
import torch

from ssl_cls import __version__, checkpoint, config
from ssl_cls.config import Recipe
from ssl_cls.errors import RunError, UserError


def environment() -> dict[str, Any]:
    """What byte-equality is promised under: versions, threads, device."""
    return {
        "ssl_cls": __version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "accelerate": accelerate.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or platform.machine(),
    }


class Run:
    """Opened for writing by one process at a time.

    Raises:
        UserError: the folder holds a run of another recipe (with the differences), another process is writing to it,
            or this one cannot.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self._lock: IO[str] | None = None

    @property
    def finished(self) -> bool:
        return (self.folder / "encoder" / "config.json").exists()

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def check(self) -> None:
        """Refuse a folder that belongs to another recipe; changes nothing."""
        saved = self.folder / "recipe.yaml"
        if not saved.exists():
            return
        if differences := config.diff(config.load(saved, []), self.recipe):
            raise UserError(
                "this run directory holds a run of another recipe:\n" + "\n".join(f"  {line}" for line in differences),
                str(self.folder),
                "give this run its own place with run.dir=..., or undo the change to resume",
            )

    def open(self) -> None:
        """Lock the folder for this process and write the complete recipe into it."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = (self.folder / ".lock").open("w")
        except OSError as error:
            raise UserError(
                f"the run directory cannot be written to: {error.strerror}",
                str(self.folder),
                "allow it, or choose another with run.dir=",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "another process is writing to this run", str(self.folder), "wait for it, or stop it first"
            ) from error
        text = config.dump(self.recipe)
        saved = self.folder / "recipe.yaml"
        if not saved.exists() or saved.read_text() != text:
            writing = self.folder / ".recipe.yaml.tmp"
            writing.write_text(text)
            writing.replace(saved)

    def say(self, text: str) -> None:
        """To the log, if that can be written; the screen is the caller's."""
        with suppress(OSError), (self.folder / "log.txt").open("a") as log:
            log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def announce(self, text: str) -> None:
        """To the screen and the log: what a person should know though the run goes on."""
        print(f"warning: {text}", file=sys.stderr, flush=True)
        self.say(text)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """One object more in metrics.jsonl or timing.jsonl.

        Raises:
            RunError: it cannot be written. Going on would leave a hole that no resume fills.
        """
        try:
            with (self.folder / name).open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            fix = "make room or allow writing; the same command resumes from the last checkpoint"
            raise RunError(f"cannot be written: {error.strerror}", str(self.folder / name), fix) from error

    def list_bad(self, images: Iterable[str]) -> int:
        """Add to bad_images.txt, "path: reason" a line, sorted; returns how many there are by now."""
        path = self.folder / "bad_images.txt"
        known = path.read_text().splitlines() if path.exists() else []
        found = sorted({*known, *(" ".join(line.splitlines()) for line in images)})
        if found != known:
            with suppress(OSError):
                path.write_text("".join(f"{line}\n" for line in found))
        return len(found)

    def rows(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def metrics_bytes(self) -> int:
        """The length of metrics.jsonl, safely on disk."""
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return 0
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def set_aside(self) -> None:
        """Give damaged checkpoints another name, loudly: to the screen and the log."""
        for line in checkpoint.set_aside(self.checkpoints):
            self.announce(line)

    def latest(self) -> checkpoint.Checkpoint | None:
        """The newest checkpoint that verifies."""
        folder = checkpoint.newest(self.checkpoints)
        return checkpoint.load(folder) if folder is not None else None

    def rewind(self, step: int, metrics_bytes: int) -> None:
        """Forget what was logged after the checkpoint that the run goes on from: it will be logged again."""
        metrics, timing = self.folder / "metrics.jsonl", self.folder / "timing.jsonl"
        metrics.touch()
        if (found := metrics.stat().st_size) < metrics_bytes:  # not by us: it is on disk before its checkpoint
            self.announce(f"metrics.jsonl has lost {metrics_bytes - found} of its {metrics_bytes} bytes")
            metrics_bytes = metrics.read_bytes().rfind(b"\n") + 1
        os.truncate(metrics, metrics_bytes)
        if timing.exists():
            lines = [
                line
                for line in timing.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["step"] <= step
            ]
            timing.write_text("".join(line + "\n" for line in lines))
